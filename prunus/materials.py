"""What a recipe names: its device, its data and its model."""

import logging
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from prunus import ranks
from prunus.data import DATA, Data, Labelled, known, load, split
from prunus.plugins import modules
from prunus.randomness import seeded
from prunus.recipes import Recipe
from prunus.tables import Builder, RecipeError, unknown


def fabric(recipe: Recipe) -> Fabric:
    """The device, precision and processes of a run. Raises RecipeError where the machine has none such."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would name the precision for every run
    if on_cpu(recipe) and recipe.precision == "16-mixed":
        raise RecipeError("precision: 16-mixed needs a GPU, found a CPU; take bf16-mixed, or 32-true")
    try:
        if ranks.world_size() == 1:
            # what a cluster's scheduler says of its tasks is not for one process alone
            plain = LightningEnvironment()
            return Fabric(accelerator=recipe.device, devices=1, precision=recipe.precision, plugins=plain)
        made = Fabric(
            accelerator=recipe.device,
            devices=ranks.per_node(),
            num_nodes=ranks.world_size() // ranks.per_node(),
            strategy="ddp",
            precision=recipe.precision,
        )
        made.launch()
        return made
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise RecipeError(f"device {recipe.device!r} with precision {recipe.precision!r}: {error}") from error


def on_cpu(recipe: Recipe) -> bool:
    """Whether the recipe's device is, or comes to, the CPU."""
    return recipe.device == "cpu" or (recipe.device == "auto" and not torch.accelerator.is_available())


def load_data(recipe: Recipe) -> Data:
    """The recipe's data set, with its augmentation: by name, from a file, or from a function of a plug-in module."""
    makers = [getattr(plugin, recipe.data, None) for plugin in modules(recipe.plugins)]
    make = next((found for found in makers if callable(found)), None)
    if make is None and not known(recipe.data):
        raise unknown("data set", recipe.data, list(DATA))
    data: Data = load(recipe.data) if make is None else make()
    if recipe.images is not None:
        data = replace(data, train=_some(data.train, recipe.images, recipe.split_seed))
    return replace(data, augmentation=recipe.augmentation) if recipe.augmentation else data


def _some(images: Labelled, count: int, seed: int) -> Labelled:
    if count > len(images):
        raise RecipeError(f"images must be at most the {len(images)} training images that there are, got {count}")
    chosen = torch.randperm(len(images), generator=seeded(seed, "images"))[:count]
    return images.select(chosen.sort().values)


def split_of(recipe: Recipe, data: Data) -> tuple[Labelled, Labelled]:
    """The training and the validation images of a run."""
    train, validation = split(data.train, recipe.validation, recipe.split_seed)
    if not len(train) or not len(validation):
        raise RecipeError(
            f"validation: must leave images on both sides of the split, got {recipe.validation} of {len(data.train)}, "
            f"which leaves {len(train)} to train on and {len(validation)} to validate; 0.1 is usual"
        )
    return train, validation


def build_model(recipe: Recipe, data: Data, builder: Builder) -> nn.Module:
    """The recipe's model for the shapes of ``data``."""
    given = {"input_shape": data.input_shape, "classes": data.classes}
    model: nn.Module = Builder(given, builder.plugins).build("model", recipe.model)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *data.input_shape))
    except RuntimeError as error:
        shape = " x ".join(map(str, data.input_shape))
        raise RecipeError(f"model {recipe.model!r} cannot take inputs of {shape}: {error}; choose another") from error
    return model.train(training)


def steps_of(recipe: Recipe, data: Data) -> int:
    """The optimizer steps of a run."""
    return recipe.steps or max(1, round((recipe.epochs or (0.0,))[0] * epoch_length(recipe, data)))


def epoch_length(recipe: Recipe, data: Data) -> float:
    """Optimizer steps in one pass over the training images, after validation is set aside."""
    images = len(data.train) - round(recipe.validation * len(data.train))
    return images / (recipe.batch_size * recipe.accumulate)
