"""From a recipe to everything that its training needs, ready for the first step."""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from torch import Tensor, nn

from prunus.data import DATA, Data, Images, Stream, evaluation_batches, load, split
from prunus.evaluation import Quality, evaluate
from prunus.recipes import Recipe, modules, single
from prunus.sparsifier import Sparsifier, sparsify
from prunus.start import begin_
from prunus.tables import Builder, RecipeError, unknown
from prunus.training import Training

EVALUATION_BATCH = 1000


@dataclass
class Evidence:
    """The first training batches, for methods that look at data before training; counts what they look at."""

    make: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    batches: int
    passes: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in islice(self.make(), self.batches):
            self.passes += 1
            yield batch


@dataclass
class Prepared:
    """Everything a run trains with: the plain model, the loop over its wrapped twin, and the held-out images."""

    data: Data
    model: nn.Module
    training: Training
    sparsifier: Sparsifier | None
    stream: Stream
    precision: Precision
    validation: Images
    test: Images
    evidence: Evidence
    epoch_steps: float
    device: torch.device

    def quality(self, images: Images) -> Quality:
        """The quality on ``images``, under the precision of training."""
        batches = evaluation_batches(images, EVALUATION_BATCH, self.data)
        return evaluate(self.training.model, batches, self.data.classes)


def prepare(recipe: Recipe) -> Prepared:
    """Data, model, method and loop of a run, on its device, ready for the first step."""
    run = single(recipe)
    fabric = _fabric(recipe)
    data = load_data(recipe)
    train, validation = split(data.train, recipe.validation, recipe.split_seed)
    if not len(train) or not len(validation):
        raise RecipeError(
            f"validation: must leave images on both sides of the split, got {recipe.validation} of {len(data.train)}, "
            f"which leaves {len(train)} to train on and {len(validation)} to validate; 0.1 is usual"
        )
    train, validation, test = (part.to(fabric.device) for part in (train, validation, data.test))
    fresh = partial(Stream, train, recipe.batch_size, data=data, seed=run.seed)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    evidence = Evidence(fresh, recipe.signal_batches)
    given = {"batches": evidence, "loss": loss, "input_shape": data.input_shape, "sparsity": run.sparsity}
    builder = Builder(given, modules(recipe.plugins))

    torch.manual_seed(run.seed)  # the same initial weights for every method
    random.seed(run.seed)  # for plug-ins, as NumPy's
    np.random.seed(run.seed)
    model = build_model(recipe, data, builder).to(fabric.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = begin_(model, recipe, run) if recipe.start else None
    rate = builder.build("schedule", recipe.learning_rate, "learning_rate")
    optimizer = Builder({"params": model.parameters(), "lr": rate(0.0)}).build("optimizer", recipe.optimizer)
    epoch_steps = epoch_length(recipe, data)
    steps = recipe.steps or max(1, round((recipe.epochs or 0) * epoch_steps))
    sparsifier = None
    if run.method != "dense":
        method = builder.build("method", {run.method: run.arguments})
        sparsifier = sparsify(
            model,
            optimizer,
            method,
            steps,
            include=recipe.include,
            exclude=recipe.exclude,
            seed=run.seed,
            start=start,
        )
    trained: nn.Module = torch.compile(model) if recipe.compile else model  # type: ignore[assignment]
    wrapped, stepping = fabric.setup(trained, optimizer)
    stream = fresh()
    training = Training(
        wrapped,
        stepping,
        stream,
        loss,
        steps,
        learning_rate=rate,
        accumulate=recipe.accumulate,
        clip=recipe.clip,
        backward=fabric.backward,
    )
    return Prepared(
        data,
        model,
        training,
        sparsifier,
        stream,
        fabric.strategy.precision,
        validation,
        test,
        evidence,
        epoch_steps,
        fabric.device,
    )


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


def _fabric(recipe: Recipe) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would name the precision for every run
    if on_cpu(recipe) and recipe.precision == "16-mixed":
        raise RecipeError("precision: 16-mixed needs a GPU, found a CPU; take bf16-mixed, or 32-true")
    try:
        return Fabric(accelerator=recipe.device, devices=1, precision=recipe.precision)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"device {recipe.device!r} with precision {recipe.precision!r}: {error}") from error


def on_cpu(recipe: Recipe) -> bool:
    """Whether the recipe's device is, or comes to, the CPU."""
    return recipe.device == "cpu" or (recipe.device == "auto" and not torch.accelerator.is_available())


def load_data(recipe: Recipe) -> Data:
    """The recipe's data set, with its augmentation: by name, from a file, or from a function of a plug-in module."""
    makers = [getattr(plugin, recipe.data, None) for plugin in modules(recipe.plugins)]
    make = next((found for found in makers if callable(found)), None)
    if make is None and recipe.data not in DATA and not recipe.data.endswith(".npz"):
        raise unknown("data set", recipe.data, list(DATA))
    data: Data = load(recipe.data) if make is None else make()
    return replace(data, augmentation=recipe.augmentation) if recipe.augmentation else data


def epoch_length(recipe: Recipe, data: Data) -> float:
    """Optimizer steps in one pass over the training images, after validation is set aside."""
    images = len(data.train) - round(recipe.validation * len(data.train))
    return images / (recipe.batch_size * recipe.accumulate)
