"""Schedules: pure functions from progress in [0, 1] to a number.

One family serves sparsities, drop fractions and learning rates alike; time is a value, never a counter inside.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The same value throughout."""

    value: float

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Polynomial:
    """``final + (initial - final) * (1 - progress) ** power``: fast first where power > 1.

    Zhu & Gupta 2017, Eq. 1, for power 3; with a final value of 0 it is RigL's ``exponential_<power>`` drop fraction.
    """

    initial: float
    final: float
    power: float = 3.0

    def __call__(self, progress: float) -> float:
        return self.final + (self.initial - self.final) * math.pow(1.0 - _clip(progress), self.power)


def linear(final: float, initial: float = 0.0) -> Polynomial:
    """A straight line from ``initial`` to ``final``."""
    return Polynomial(initial, final, power=1.0)


def quadratic(final: float, initial: float = 0.0) -> Polynomial:
    """A parabola from ``initial`` that arrives at ``final`` without slope."""
    return Polynomial(initial, final, power=2.0)


def cubic(final: float, initial: float = 0.0) -> Polynomial:
    """The cubic of gradual magnitude pruning (Zhu & Gupta 2017, Eq. 1) from ``initial`` to ``final``."""
    return Polynomial(initial, final, power=3.0)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``initial`` to ``final``: slow, fast, slow (RigL's drop fraction, Eq. 1 there)."""

    initial: float
    final: float = 0.0

    def __call__(self, progress: float) -> float:
        return self.final + (self.initial - self.final) * 0.5 * (1.0 + math.cos(math.pi * _clip(progress)))


@dataclass(frozen=True)
class Exponential:
    """``initial`` to ``final`` by equal factors; both positive."""

    initial: float
    final: float

    def __post_init__(self) -> None:
        if self.initial <= 0 or self.final <= 0:
            raise ValueError(f"an exponential needs positive ends, got {self.initial} and {self.final}; use Polynomial")

    def __call__(self, progress: float) -> float:
        progress = _clip(progress)
        return float(self.initial ** (1.0 - progress) * self.final**progress)


@dataclass(frozen=True)
class Geometric:
    """A sparsity whose kept fraction shrinks by equal factors: ``1 - (1 - initial)^(1-p) * (1 - final)^p``.

    The same fraction of the weights still alive goes at every step, as in iterative magnitude pruning and in SynFlow
    (Tanaka et al. 2020, Alg. 1).
    """

    final: float
    initial: float = 0.0

    def __call__(self, progress: float) -> float:
        progress = _clip(progress)
        kept = (1.0 - self.initial) ** (1.0 - progress) * (1.0 - self.final) ** progress
        return float(1.0 - kept) if progress < 1.0 else self.final


@dataclass(frozen=True)
class Piecewise:
    """``values[j]`` from ``boundaries[j-1]`` (included) to ``boundaries[j]``; one value more than boundaries.

    >>> Piecewise((0.5, 0.75), (0.1, 0.01, 0.001))(0.5)
    0.01
    """

    boundaries: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(
                "a piecewise schedule needs rising boundaries and one value more than boundaries, "
                f"got boundaries {self.boundaries} and values {self.values}"
            )

    def __call__(self, progress: float) -> float:
        return self.values[bisect_right(self.boundaries, _clip(progress))]


@dataclass(frozen=True)
class Table:
    """``values`` at equal stretches of progress: of K values number ``floor(K * progress)``, at 1 the last."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a table needs at least one value, got none")

    def __call__(self, progress: float) -> float:
        return self.values[min(len(self.values) - 1, math.floor(len(self.values) * _clip(progress) + 1e-9))]


@dataclass(frozen=True)
class WarmUp:
    """A line from ``initial`` up to where ``schedule`` begins, over the first ``fraction``; then the whole schedule."""

    schedule: Schedule
    fraction: float = 0.05
    initial: float = 0.0

    def __call__(self, progress: float) -> float:
        progress = _clip(progress)
        if progress < self.fraction:
            return self.initial + (self.schedule(0.0) - self.initial) * progress / self.fraction
        return Within(self.schedule, start=self.fraction)(progress)


@dataclass(frozen=True)
class Within:
    """The whole of ``schedule`` between ``start`` and ``until``, held at its ends outside."""

    schedule: Schedule
    start: float = 0.0
    until: float = 1.0

    def __call__(self, progress: float) -> float:
        if self.until <= self.start:
            return self.schedule(float(progress >= self.until))
        return self.schedule(_clip((progress - self.start) / (self.until - self.start)))


def handmade(family: str, sparsity: float) -> Schedule:
    """The sparsities of a handmade schedule of Tessera et al. 2022 (Sec. 3.2): density grows from half its target.

    So sparsity falls from ``1 - (1 - sparsity) / 2`` to ``sparsity``: linear, quadratic, cubic or cosine; constant
    holds the target. Raises ValueError for another family.
    """
    if family not in HANDMADE:
        raise ValueError(f"a handmade schedule must be one of {', '.join(HANDMADE)}, got {family!r}")
    return HANDMADE[family](1.0 - (1.0 - sparsity) / 2.0, sparsity)


HANDMADE: dict[str, Callable[[float, float], Schedule]] = {
    "linear": lambda initial, final: linear(final, initial),
    "quadratic": lambda initial, final: quadratic(final, initial),
    "cubic": lambda initial, final: cubic(final, initial),
    "cosine": Cosine,
    "constant": lambda initial, final: Constant(final),
}

Decay = Literal["constant", "linear", "cosine", "exponential"]


def decay(shape: Decay, initial: float) -> Schedule:
    """A drop fraction from ``initial`` to 0, the forms of RigL (Evci et al. 2020); "exponential" is its third power."""
    if shape == "constant":
        return Constant(initial)
    return Cosine(initial, 0.0) if shape == "cosine" else Polynomial(initial, 0.0, 1.0 if shape == "linear" else 3.0)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "linear": linear,
    "quadratic": quadratic,
    "cubic": cubic,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "exponential": Exponential,
    "geometric": Geometric,
    "piecewise": Piecewise,
    "table": Table,
    "warm-up": WarmUp,
    "within": Within,
}


def _clip(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)
