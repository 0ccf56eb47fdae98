"""A network that is trained already: prune it, retrain it, and see what was lost and what came back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from prunus.carriers.retrained import Cycle
from prunus.evaluation import evaluate
from prunus.masks import Masks, prunable, sparsity_of
from prunus.methods import imp
from prunus.retraining import History, Peak
from prunus.schedules import Schedule
from prunus.sparsifier import sparsify
from prunus.training import Loss, Training
from prunus.updates import START_TOLERANCE
from prunus.watch import Measure, Watch

MOMENTS = ("trained", "pruned", "recalibrated", "retrained")  # of a cycle, in the order in which they are measured
MOMENTUM = 0.9  # of the optimizer that is made where none is given


class Batches(Protocol):
    """Batches of (inputs, targets), as many as ``len`` says and the same number each time, such as a DataLoader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Retraining:
    """What `retrain` did: the final masks and each cycle, with what was measured around it; prints as a table."""

    masks: Masks
    cycles: tuple[Cycle, ...]

    @property
    def sparsity(self) -> float:
        """The realised fraction of zeros among the prunable weights."""
        return sparsity_of(self.masks.values())

    def __str__(self) -> str:
        return table(self.cycles)


def retrain(
    model: nn.Module,
    data: Batches,
    *,
    sparsity: float,
    epochs: float,
    pretraining: History | None = None,
    optimizer: Optimizer | None = None,
    cycles: int = 1,
    schedule: str | Schedule = "allr",
    loss: Loss = nn.functional.cross_entropy,
    validation: Batches | Measure | None = None,
    recalibrate: int = 0,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> Retraining:
    """Prune the trained ``model`` to ``sparsity`` and retrain it for ``epochs`` of ``data``, in place.

    The rates of retraining follow from those of ``pretraining``: all of them, as ``Pretraining(rates)``, or what is
    left of them, as ``Peak(0.1)``. Without it the optimizer's own rate is taken for the highest of pretraining. The
    length of pretraining is counted in steps at the batch size of ``data``; without it (``Peak(0.1)``, or the
    optimizer alone) ALLR has no floor. ``optimizer`` should have the momentum and the weight decay of pretraining, and
    starts afresh; by default it is SGD with momentum 0.9 and no decay. ``cycles`` and ``schedule`` are those of `imp`,
    ``include`` and ``exclude`` those of `prunable`. Zeros that the model has already stay.

    ``validation`` are batches on which the accuracy of a classifier is measured around each pruning, or a function of
    the model that returns any number. ``recalibrate`` batches of ``data`` make the statistics of BatchNorm anew after
    each pruning and at the end. Batches are moved to the device of the model. Raises ValueError where the rates are
    not known, a cycle would have no step, or the model is sparser than asked or not finite.

    >>> model = nn.Linear(4, 2)
    >>> batches = [(torch.ones(4, 4), torch.tensor([0, 1, 0, 1]))]
    >>> retrain(model, batches, sparsity=0.5, epochs=3, pretraining=Peak(0.1)).sparsity
    0.5
    """
    _check_finite(model)
    if recalibrate < 0:
        raise ValueError(f"recalibrate must be a number of batches, at least 0, got {recalibrate}")
    history = pretraining or _peak_of(optimizer, schedule)
    optimizer = optimizer or SGD(model.parameters(), lr=history.peak if history else 1.0, momentum=MOMENTUM)
    batches = Moved(data, next(model.parameters()).device)
    watch = Watch(model, lambda: batches, _measure(validation), recalibrate)
    method = imp(sparsity, cycles=cycles, schedule=schedule, pretraining=history, watch=watch)
    steps = round(epochs * len(data))
    start = _zeros(model, include, exclude)
    sparsifier = sparsify(model, optimizer, method, steps, include=include, exclude=exclude, start=start)
    Training(model, optimizer, batches, loss, steps).run()
    masks = sparsifier.finalize()
    return Retraining(masks, tuple(with_ends(method.record, watch("retrained"))))


@dataclass(frozen=True)
class Moved:
    """Batches on a device."""

    batches: Iterable[tuple[Tensor, Tensor]]
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.batches:
            yield inputs.to(self.device), targets.to(self.device)


@dataclass(frozen=True)
class Accuracy:
    """The share of ``batches`` that a classifier gets right, in eval mode."""

    batches: Batches = field(repr=False)

    def __call__(self, model: nn.Module) -> float:
        return evaluate(model, Moved(self.batches, next(model.parameters()).device)).accuracy


def with_ends(cycles: Sequence[Cycle], end: dict[str, float]) -> list[Cycle]:
    """The cycles with what was measured at their ends: each where the next was about to prune, the last at ``end``."""
    trained = [cycle.measured.get("trained") for cycle in cycles[1:]]
    ends = [*({} if value is None else {"retrained": value} for value in trained), end]
    for cycle, measured in zip(cycles, ends, strict=True):
        cycle.measured |= measured
    return list(cycles)


def table(cycles: Sequence[Cycle]) -> str:
    """The cycles as a table, and below it what all their prunings lost and all their retrainings won back."""
    moments = [moment for moment in MOMENTS if moment in cycles[0].measured]
    rows = [["cycle", "sparsity", "norm dropped", "peak rate", *moments]]
    for number, cycle in enumerate(cycles, 1):
        shown = (cycle.sparsity, cycle.drop, cycle.peak, *(cycle.measured[moment] for moment in moments))
        rows.append([str(number), *(f"{value:.4f}" for value in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *_balance(cycles)])


def _balance(cycles: Sequence[Cycle]) -> list[str]:
    if "trained" not in cycles[0].measured:
        return []
    lost = sum(cycle.measured["trained"] - cycle.measured["pruned"] for cycle in cycles)
    won = sum(cycle.measured["retrained"] - cycle.measured["pruned"] for cycle in cycles)
    before, after = cycles[0].measured["trained"], cycles[-1].measured["retrained"]
    return [f"before {before:.4f}, after {after:.4f}: pruning lost {lost:.4f}, retraining won back {won:.4f}"]


def _peak_of(optimizer: Optimizer | None, schedule: str | Schedule) -> Peak | None:
    """What the optimizer tells of pretraining; None where the schedule does not ask."""
    if not isinstance(schedule, str):
        return None
    if optimizer is None:
        raise ValueError(
            f"{schedule} needs the learning rates of pretraining, whose highest no default can stand for; pass "
            "pretraining=Pretraining(rates), or Peak(rate) where the highest alone is known, or an optimizer with it"
        )
    group = optimizer.param_groups[0]
    return Peak(float(group.get("initial_lr", group["lr"])))  # a scheduler keeps the former


def _measure(validation: Batches | Measure | None) -> Measure | None:
    return validation if validation is None or callable(validation) else Accuracy(validation)


def _zeros(model: nn.Module, include: str | Sequence[str] | None, exclude: str | Sequence[str]) -> Masks | None:
    """The masks of what the model has left; None where it is dense."""
    masks = {name: weight != 0 for name, weight in prunable(model, include, exclude).items()}
    return masks if sparsity_of(masks.values()) >= START_TOLERANCE else None


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"retraining needs finite weights, {name} has NaN or infinity; take an earlier checkpoint")
