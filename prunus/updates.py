"""Update rules: ``State -> masks``. Prune, follow a schedule, drop and grow, or one and then the other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from prunus.allocation import Allocation, global_, is_blockwise
from prunus.candidates import Candidates
from prunus.criteria import Criterion, gradient, is_elementwise, magnitude, random
from prunus.masks import Masks, Tensors
from prunus.plans import Plan
from prunus.ranking import top_k
from prunus.schedules import Schedule
from prunus.signals import Gradient, Signal

START_TOLERANCE = 0.005  # budgets of layers are rounded, so a network asked for 0.9 may have 0.9004


@dataclass(frozen=True)
class State:
    """What a rule may look at: detached weights, their masks, the signals it asked for, progress and a generator.

    ``floor`` is the sparsity that training began with; a rule may not end below it. With ``in_place`` a rule may write
    the new masks into the present ones. ``at_start`` holds before the first step.
    """

    weights: Tensors
    masks: Masks
    signals: Tensors | None
    progress: float
    generator: torch.Generator
    floor: float = 0.0
    in_place: bool = False
    at_start: bool = False

    def sparsity(self, schedule: Schedule) -> float:
        """What the schedule asks for now, at least ``floor``. Raises ValueError for one that ends below the floor."""
        check_floor(self.floor, schedule(1.0))
        return max(schedule(self.progress), self.floor)

    def scores(self, criterion: Criterion) -> Tensors:
        """The criterion's scores of every weight, shaped like the weights."""
        evidence: Mapping[str, Tensor] = self.signals or {}
        return {n: criterion(w, evidence.get(n), self.generator) for n, w in self.weights.items()}

    def candidates(self, name: str, criterion: Criterion, among: Tensor | None) -> Candidates:
        """The entries of one weight that compete by the criterion, ``among`` some or all of them.

        Scores are computed when they are read, unless the criterion is not `elementwise`: then all of them, now.
        """
        weight, signal = self.weights[name], (self.signals or {}).get(name)
        if is_elementwise(criterion):
            return Candidates(weight, signal, criterion, self.generator, among)
        return Candidates(criterion(weight, signal, self.generator), among=among)


def check_floor(floor: float, sparsity: float) -> None:
    """Raises ValueError where training that began at sparsity ``floor`` should end at a lower one."""
    if sparsity < floor - START_TOLERANCE:
        raise ValueError(
            f"training began at sparsity {floor:.4g} and cannot end at {sparsity:.4g}: what was dropped is gone; ask "
            f"for at least {floor:.4g}, or begin from dense weights"
        )


class Update(Protocol):
    """A rule and the evidence it needs."""

    @property
    def signal(self) -> Signal | None:
        """The evidence that ``State.signals`` must hold, None for none."""

    def __call__(self, state: State) -> Masks:
        """The new masks."""


@dataclass(frozen=True)
class Prune:
    """Keep the best weights at the sparsity that the schedule asks for.

    Dropped weights stay dropped, unless ``recover``: then every weight competes again, which is of use only to a
    carrier that keeps the values behind the mask.
    """

    sparsity: Schedule
    criterion: Criterion = magnitude
    allocation: Allocation = global_
    recover: bool = False
    signal: Signal | None = None

    def __call__(self, state: State) -> Masks:
        among = {name: None if self.recover else mask for name, mask in state.masks.items()}
        contest = {name: state.candidates(name, self.criterion, among[name]) for name in state.weights}
        sparsity = state.sparsity(self.sparsity)
        if is_blockwise(self.allocation):
            if state.in_place:
                contest = {name: replace(one, into=state.masks[name]) for name, one in contest.items()}
            return self.allocation(contest, sparsity)
        masks = self.allocation({name: one.whole() for name, one in contest.items()}, sparsity)
        return masks if self.recover else {name: mask & state.masks[name] for name, mask in masks.items()}


@dataclass(frozen=True)
class Resize:
    """Follow a plan up or down, layer by layer, changing only the difference.

    Fewer: the lowest ``drop`` scores among the kept go. More: the highest ``grow`` scores among the dropped come, with
    value zero. The same count: the mask stays bit-identical. Before the first step ``first``, where it is given, takes
    the place of ``drop``. The masks of RP-RR and MP-RR (Tessera et al. 2022, Sec. 2).
    """

    plan: Plan
    drop: Criterion = magnitude
    grow: Criterion = random
    first: Criterion | None = None
    signal: Signal | None = None

    def __call__(self, state: State) -> Masks:
        shapes = {name: tuple(weight.shape) for name, weight in state.weights.items()}
        sizes = sum(weight.numel() for weight in state.weights.values())
        check_floor(state.floor, 1.0 - sum(self.plan(shapes, 1.0).values()) / sizes)
        counts = self.plan(shapes, state.progress)
        return {name: self._layer(name, count, state) for name, count in counts.items()}

    def _layer(self, name: str, count: int, state: State) -> Tensor:
        mask = state.masks[name]
        active = int(mask.count_nonzero())
        if count == active:
            return mask
        if count < active:
            drop = self.first if self.first is not None and state.at_start else self.drop
            return top_k(state.candidates(name, drop, among=mask), count)
        return mask | top_k(state.candidates(name, self.grow, among=~mask), count - active)


Share = Callable[[State, Masks, dict[str, int], Masks], dict[str, int]]


def own_layer(state: State, kept: Masks, dropped: dict[str, int], barred: Masks) -> dict[str, int]:
    """Every layer grows as many weights as it dropped."""
    return dropped


def mean_signal(state: State, kept: Masks, dropped: dict[str, int], barred: Masks | None = None) -> dict[str, int]:
    """Layers share all growth by the mean absolute signal of their kept weights (SNFS, Dettmers & Zettlemoyer 2019).

    A layer takes at most 99 % of its free places; what it cannot take goes to the others, largest share first.
    """
    assert state.signals is not None
    means = {n: float((state.signals[n].abs() * mask).sum() / mask.sum().clamp(min=1)) for n, mask in kept.items()}
    room = {n: max(dropped[n], int(0.99 * int((~mask).sum()))) for n, mask in (barred or kept).items()}
    total, grown = sum(dropped.values()), dict.fromkeys(kept, 0)
    scale = sum(means.values()) or 1.0
    for name in sorted(kept, key=lambda n: means[n], reverse=True):
        grown[name] = min(room[name], round(total * means[name] / scale))
    for name in sorted(kept, key=lambda n: means[n], reverse=True):
        missing = total - sum(grown.values())
        grown[name] = max(0, min(room[name], grown[name] + missing))
    return grown


@dataclass(frozen=True)
class DropGrow:
    """Drop a fraction of the kept weights and grow as many: SET, RigL, SNFS.

    Dropped go the lowest ``drop`` scores among the kept, grown are the highest ``grow`` scores among all that are then
    off, the just dropped included (``regrow``); those keep their values, others start at zero. The count is
    ``rounding(fraction * kept)``, at most the free places of the layer.
    """

    fraction: Schedule
    drop: Criterion = magnitude
    grow: Criterion = gradient
    signal: Signal | None = field(default_factory=Gradient)
    regrow: bool = True
    share: Share = own_layer
    rounding: Callable[[float], int] = math.floor

    def __call__(self, state: State) -> Masks:
        fraction = self.fraction(state.progress)
        active = {name: int(mask.count_nonzero()) for name, mask in state.masks.items()}
        turned = {n: min(self.rounding(fraction * k), state.masks[n].numel() - k) for n, k in active.items()}
        if not any(turned.values()):
            return state.masks
        kept = {
            name: top_k(state.candidates(name, self.drop, among=mask), active[name] - turned[name])
            for name, mask in state.masks.items()
        }
        return self._grow(state, kept, turned)

    def _grow(self, state: State, kept: Masks, turned: dict[str, int]) -> Masks:
        barred = kept if self.regrow else {name: kept[name] | mask for name, mask in state.masks.items()}
        counts = self.share(state, kept, turned, barred)
        for name, mask in kept.items():
            mask |= top_k(state.candidates(name, self.grow, among=~barred[name]), counts[name])
        return kept


@dataclass(frozen=True)
class Then:
    """One rule, then another on the masks that the first left, as in GraNet: prune, then drop and grow."""

    first: Update
    second: Update

    @property
    def signal(self) -> Signal | None:
        """The evidence of whichever of the two asks for one."""
        return self.first.signal or self.second.signal

    def __call__(self, state: State) -> Masks:
        return self.second(replace(state, masks=self.first(state)))
