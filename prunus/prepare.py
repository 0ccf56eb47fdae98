"""From a recipe to everything that its training needs, ready for the first step."""

import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from prunus import ranks
from prunus.carriers import Carrier
from prunus.data import (
    DATA,
    Data,
    Labelled,
    TrainingStream,
    data_path,
    evaluation_batches,
    known,
    load,
    sized,
    split,
    training_stream,
)
from prunus.evaluation import Quality, evaluate, layer_costs
from prunus.masks import prunable
from prunus.operations import Operations
from prunus.plugins import modules
from prunus.randomness import seeded
from prunus.recipes import Recipe, single, start_file
from prunus.retraining import History, Peak, Pretraining
from prunus.schedules import Schedule
from prunus.sparsifier import Sparsifier, sparsify
from prunus.start import begin_, trained_by
from prunus.tables import Builder, RecipeError, unknown
from prunus.training import Training
from prunus.watch import Watch

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
    """Everything a run trains with: the plain model, the loop over its wrapped twin, and the held-out images.

    Of stream, evidence and held-out images each rank has its share.
    """

    data: Data
    model: nn.Module
    training: Training
    sparsifier: Sparsifier | None
    stream: TrainingStream
    precision: Precision
    validation: Labelled
    test: Labelled
    evidence: Evidence
    watch: Watch
    operations: Operations
    epoch_steps: float
    device: torch.device

    def quality(self, images: Labelled) -> Quality:
        """The quality on the ``images`` of all ranks, under the precision of training."""
        return _quality(images, self.data, self.training.model)


def prepare(
    recipe: Recipe,
    *,
    start: Path | None = None,
    watched: bool = False,
    adapt: Callable[[Carrier], Carrier] = lambda method: method,
) -> Prepared:
    """Data, model, method and loop of a run, on its device, ready for the first step.

    ``start`` is the file of the dense run that the recipe's start describes; without it the weights are those of
    initialisation. ``watched`` prunings are measured on the validation images, which takes time. ``adapt`` changes the
    method before it is attached.
    """
    run = single(recipe)
    fabric = _fabric(recipe)
    data = load_data(recipe)
    train, validation = _split(recipe, data)
    train, validation, test = (part.to(fabric.device) for part in (train, _share(validation), _share(data.test)))
    place = {"rank": ranks.rank(), "world_size": ranks.world_size()}
    fresh = partial(training_stream, train, recipe.batch_size, data=data, seed=run.seed, **place)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    builder = Builder(plugins=modules(recipe.plugins))

    torch.manual_seed(run.seed)  # the same initial weights for every method
    random.seed(run.seed)  # for plug-ins, as NumPy's
    np.random.seed(run.seed)
    model = build_model(recipe, data, builder).to(fabric.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    operations = _operations(model, recipe, data)
    file = start_file(origin) if (origin := recipe.origin()) else start
    if file:
        _refuse_leak(recipe, trained_by(file)[0])
    masks = begin_(model, recipe, run, file) if file else None
    rate = builder.build("schedule", recipe.learning_rate, "learning_rate")
    optimizer = Builder({"params": model.parameters(), "lr": rate(0.0)}).build("optimizer", recipe.optimizer)
    steps = steps_of(recipe, data)
    watch = Watch(model, fresh, partial(_accuracy, validation, data), recipe.recalibrate, fabric.autocast, ranks.mean)
    evidence = Evidence(fresh, recipe.signal_batches)
    sparsifier = None
    if run.method != "dense":
        given = {
            "batches": evidence,
            "loss": loss,
            "input_shape": data.input_shape,
            "sparsity": run.sparsity,
            "pretraining": rates_before(recipe, data, builder),
            "peak": max(rate(step / steps) for step in range(steps)),
            "watch": watch if watched else None,
        }
        method = replace(builder, given=given).build("method", {run.method: run.arguments})
        sparsifier = sparsify(
            model,
            optimizer,
            adapt(method),
            steps,
            include=recipe.include,
            exclude=recipe.exclude,
            seed=run.seed,
            start=masks,
        )
    trained: nn.Module = torch.compile(model) if recipe.compile else model  # type: ignore[assignment]
    wrapped, stepping = fabric.setup(trained, optimizer)
    ranks.keep_buffers_(wrapped)
    watch.model = wrapped
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
        mean=ranks.mean,
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
        watch,
        operations,
        epoch_length(recipe, data),
        fabric.device,
    )


def _refuse_leak(recipe: Recipe, before: Recipe | None) -> None:
    """Raises RecipeError where the start was trained on images that this run would validate on."""
    if before is None or _source(before.data) != _source(recipe.data):
        return
    ours, theirs = ((one.validation, one.split_seed, one.images) for one in (recipe, before))
    if ours != theirs:
        raise RecipeError(
            f"validation, split_seed and images must be those of the start, {theirs[0]}, {theirs[1]} and {theirs[2]}, "
            f"got {ours[0]}, {ours[1]} and {ours[2]}: it was trained on images that this run would validate on"
        )


def _source(data: str) -> str | Path:
    """A data set whatever the size of its images, a path however it is written."""
    name, _ = sized(data)
    return name if name in DATA else data_path(name).resolve()


def _quality(images: Labelled, data: Data, model: nn.Module) -> Quality:
    ranks.share_buffers_(model)
    return evaluate(model, evaluation_batches(images, EVALUATION_BATCH, data), total=ranks.total)


def _share(images: Labelled) -> Labelled:
    """Those of this rank."""
    if ranks.world_size() == 1:
        return images
    return images.select(torch.arange(ranks.rank(), len(images), ranks.world_size()))


def _accuracy(images: Labelled, data: Data, model: nn.Module) -> float:
    return _quality(images, data, model).accuracy


def rates_before(recipe: Recipe, data: Data, builder: Builder) -> History | Schedule | None:
    """How the network was trained that the run begins from, or the schedule of a dense phase of its own.

    None for a start that does not say: a file of weights alone, or a run whose method set its own rates.
    """
    start = recipe.start
    if start is None or single(recipe).arguments.get("dense"):
        schedule: Schedule = builder.build("schedule", recipe.learning_rate, "learning_rate")
        return schedule
    if isinstance(start, str):
        before, epochs = trained_by(start_file(start))
    else:
        before = recipe.history() if start.keys() & {"epochs", "steps"} else None
        epochs = steps_of(before, data) / epoch_length(before, data) if before else 0.0
    # in steps of this run, whose batches may be of another size: what counts is the share of the epochs
    steps = max(1, round(epochs * epoch_length(recipe, data))) if epochs else 0
    if isinstance(start, dict) and "peak" in start:
        return Peak(start["peak"], steps or math.inf)
    if before is None or has_cycles(before):
        return None
    return Pretraining.of(builder.build("schedule", before.learning_rate, "start.learning_rate"), steps)


def has_cycles(run: Recipe) -> bool:
    """Whether the run's method prunes once a cycle and sets its own learning rates."""
    return takes(run, "cycles")


def takes(run: Recipe, argument: str) -> bool:
    """Whether the run's method has an argument of that name."""
    chosen = single(run)
    return (
        chosen.method != "dense"
        and argument in signature(Builder(plugins=modules(run.plugins)).entry("method", chosen.method)).parameters
    )


def _operations(model: nn.Module, recipe: Recipe, data: Data) -> Operations:
    first = next(model.parameters())
    example = torch.zeros(1, *data.input_shape, device=first.device, dtype=first.dtype)
    costs = {cost.name: cost.macs for cost in layer_costs(model, prunable(model), example)}
    chosen = prunable(model, recipe.include, recipe.exclude)
    return Operations(sum(costs.values()), {name: costs.get(name, 0) for name in chosen})


def _split(recipe: Recipe, data: Data) -> tuple[Labelled, Labelled]:
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


def _fabric(recipe: Recipe) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would name the precision for every run
    if on_cpu(recipe) and recipe.precision == "16-mixed":
        raise RecipeError("precision: 16-mixed needs a GPU, found a CPU; take bf16-mixed, or 32-true")
    try:
        if ranks.world_size() == 1:
            # what a cluster's scheduler says of its tasks is not for one process alone
            plain = LightningEnvironment()
            return Fabric(accelerator=recipe.device, devices=1, precision=recipe.precision, plugins=plain)
        fabric = Fabric(
            accelerator=recipe.device,
            devices=ranks.per_node(),
            num_nodes=ranks.world_size() // ranks.per_node(),
            strategy="ddp",
            precision=recipe.precision,
        )
        fabric.launch()
        return fabric
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


def steps_of(recipe: Recipe, data: Data) -> int:
    """The optimizer steps of a run."""
    return recipe.steps or max(1, round((recipe.epochs or (0.0,))[0] * epoch_length(recipe, data)))


def epoch_length(recipe: Recipe, data: Data) -> float:
    """Optimizer steps in one pass over the training images, after validation is set aside."""
    images = len(data.train) - round(recipe.validation * len(data.train))
    return images / (recipe.batch_size * recipe.accumulate)
