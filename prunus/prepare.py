"""From a recipe to everything that its training needs, ready for the first step."""

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
from lightning_fabric.plugins import Precision
from torch import Tensor, nn

from prunus import ranks
from prunus.carriers import Carrier
from prunus.data import DATA, Data, Labelled, TrainingStream, data_path, evaluation_batches, sized, training_stream
from prunus.distributed import Packing, pack_gradients_
from prunus.evaluation import Quality, evaluate, layer_costs
from prunus.masks import prunable
from prunus.materials import build_model, epoch_length, fabric, load_data, split_of, steps_of
from prunus.operations import Operations
from prunus.plugins import modules
from prunus.recipes import Recipe, Single, single, start_file
from prunus.retraining import History, Peak, Pretraining
from prunus.schedules import Schedule
from prunus.sparsifier import Sparsifier, sparsify
from prunus.start import Left, begin_, trained_by
from prunus.tables import Builder, RecipeError
from prunus.training import Training
from prunus.watch import Watch

EVALUATION_BATCH = 1000
EVIDENCE_BATCH = 100  # where the images to look at are given


@dataclass
class Evidence:
    """Some batches for methods that look at data before training, the first of a stream; counts those looked at."""

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
    packing: Packing | None = None  # of gradients, where several ranks may leave some of them out

    @property
    def examples(self) -> int:
        """Those of one step."""
        return self.stream.batch_size * self.training.accumulate

    def quality(self, images: Labelled) -> Quality:
        """The quality on the ``images`` of all ranks, under the precision of training."""
        return _quality(images, self.data, self.training.model)


@dataclass(frozen=True)
class Stage:
    """One of several trainings of a network, each on images of its own and from what the one before has ``left``.

    ``evidence`` are the images for methods that look at data before training; ``rate`` makes the stage's learning rates
    of the recipe's.
    """

    data: Data
    train: Labelled
    validation: Labelled
    evidence: Labelled
    left: Left | None = None
    rate: Callable[[Schedule], Schedule] = lambda schedule: schedule


def prepare(
    recipe: Recipe,
    *,
    start: Path | None = None,
    watched: bool = False,
    adapt: Callable[[Carrier], Carrier] = lambda method: method,
    stage: Stage | None = None,
) -> Prepared:
    """Data, model, method and loop of a run, on its device, ready for the first step.

    ``start`` is the file of the dense run that the recipe's start describes; without it the weights are those of
    initialisation. ``watched`` prunings are measured on the validation images, which takes time. ``adapt`` changes the
    method before it is attached. With a ``stage`` the run is that one alone.
    """
    run = single(recipe)
    around = fabric(recipe)
    data, train, validation = _images(recipe) if stage is None else (stage.data, stage.train, stage.validation)
    train, validation, test = (part.to(around.device) for part in (train, _share(validation), _share(data.test)))
    epoch = len(train) / (recipe.batch_size * recipe.accumulate)
    steps = recipe.steps or max(1, round((recipe.epochs or (0.0,))[0] * epoch))
    place = {"rank": ranks.rank(), "world_size": ranks.world_size()}
    fresh = partial(training_stream, train, recipe.batch_size, data=data, seed=run.seed, **place)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    builder = Builder(plugins=modules(recipe.plugins))

    model = seeded_model(recipe, run, data, builder, around.device)
    operations = _operations(model, recipe, data)
    file = start_file(origin) if (origin := recipe.origin()) else start
    if file:
        _refuse_leak(recipe, trained_by(file)[0])
    masks = begin_(model, recipe, run, file) if file else None
    rate: Schedule = builder.build("schedule", recipe.learning_rate, "learning_rate")
    rate = rate if stage is None else stage.rate(rate)
    optimizer = Builder({"params": model.parameters(), "lr": rate(0.0)}).build("optimizer", recipe.optimizer)
    if stage is not None and stage.left is not None:
        masks = stage.left.restore_(model, optimizer)
    watch = Watch(model, fresh, partial(_accuracy, validation, data), recipe.recalibrate, around.autocast, ranks.mean)
    evidence = Evidence(fresh, recipe.signal_batches) if stage is None else _evidence(stage, data, around.device)
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
        method = replace(builder, given=given).build("method", {run.method: run.own})
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
    wrapped, stepping = around.setup(trained, optimizer)
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
        backward=around.backward,
        mean=ranks.mean,
    )
    precision, device = around.strategy.precision, around.device
    held_out = (validation, test)
    prepared = Prepared(
        data, model, training, sparsifier, stream, precision, *held_out, evidence, watch, operations, epoch, device
    )
    return replace(prepared, packing=_packing(recipe, wrapped, sparsifier))


def _images(recipe: Recipe) -> tuple[Data, Labelled, Labelled]:
    data = load_data(recipe)
    return data, *split_of(recipe, data)


def seeded_model(recipe: Recipe, run: Single, data: Data, builder: Builder, device: torch.device) -> nn.Module:
    """The model with the same initial weights for every method."""
    torch.manual_seed(run.seed)
    random.seed(run.seed)  # for plug-ins, as NumPy's
    np.random.seed(run.seed)
    model = build_model(recipe, data, builder).to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _packing(recipe: Recipe, model: nn.Module, sparsifier: Sparsifier | None) -> Packing | None:
    if ranks.world_size() == 1 or sparsifier is None or recipe.gradients == "dense":
        return None
    return pack_gradients_(model, sparsifier, measure=recipe.gradients is None)


def _evidence(stage: Stage, data: Data, device: torch.device) -> Evidence:
    parts = math.ceil(len(stage.evidence) / EVIDENCE_BATCH)  # of equal size: a short one would weigh as much
    batches = evaluation_batches(stage.evidence.to(device), math.ceil(len(stage.evidence) / parts), data)
    return Evidence(lambda: iter(batches), len(batches))


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
