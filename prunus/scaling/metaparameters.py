"""The metaparameters that a study tunes: their ranges, its points in them, and whether a range was wide enough."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

from prunus.scaling.sobol import Variant, sobol

Side = Literal["low", "high"]


class Metaparameter(Protocol):
    """A range of numbers, and how it is spread over [0, 1)."""

    def __call__(self, fraction: float) -> float:
        """The number at ``fraction`` of the range."""
        ...

    def fraction(self, value: float) -> float:
        """Where ``value`` lies in the range: the inverse, but for rounding."""
        ...

    def widened(self, side: Side, by: float) -> Self:
        """The range with ``by`` of its length more on the side of its low or high numbers."""
        ...


@dataclass(frozen=True)
class Logarithmic:
    """From ``low`` to ``high``, evenly in the logarithm: learning rates."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check(0.0 < self.low < self.high < math.inf, "0 < low < high", self.low, self.high)

    def __call__(self, fraction: float) -> float:
        low, high = math.log10(self.low), math.log10(self.high)
        return math.pow(10.0, low + (high - low) * fraction)

    def fraction(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)

    def widened(self, side: Side, by: float) -> Self:
        factor = math.pow(self.high / self.low, by)
        return replace(self, low=self.low / factor) if side == "low" else replace(self, high=self.high * factor)


@dataclass(frozen=True)
class FromOne:
    """From ``low`` to ``high`` below 1, evenly in the logarithm of 1 - m: momenta. A fraction of 0 is ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check(self.low < self.high < 1.0, "low < high < 1", self.low, self.high)

    def __call__(self, fraction: float) -> float:
        return 1.0 - self._distance(fraction)

    def fraction(self, value: float) -> float:
        return self._distance.fraction(1.0 - value)

    def widened(self, side: Side, by: float) -> Self:
        distance = self._distance.widened("high" if side == "low" else "low", by)
        return replace(self, low=1.0 - distance.high, high=1.0 - distance.low)

    @property
    def _distance(self) -> Logarithmic:
        return Logarithmic(1.0 - self.high, 1.0 - self.low)


@dataclass(frozen=True)
class Whole:
    """Whole numbers from ``low`` to below ``high``, evenly: steps."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check(self.low < self.high, "low < high", self.low, self.high)

    def __call__(self, fraction: float) -> int:
        return int(self.low + (self.high - self.low) * fraction)

    def fraction(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def widened(self, side: Side, by: float) -> Self:
        more = round((self.high - self.low) * by)
        return replace(self, low=self.low - more) if side == "low" else replace(self, high=self.high + more)


Space = Mapping[str, Metaparameter]


def setting(space: Space, number: int, variant: Variant = "bratley-fox") -> dict[str, float]:
    """The metaparameters of trial ``number``, counted from 0: the Sobol point after it, for point 0 is a corner.

    The same in every cell of a study. Dimensions are in the order of the names.
    """
    point = sobol(number + 1, len(space), variant)
    return {name: space[name](fraction) for name, fraction in zip(space, point, strict=True)}


@dataclass(frozen=True)
class AtEdge:
    """A metaparameter whose best value lies at an end of its range, and a wider range to try."""

    name: str
    side: Side
    value: float
    widened: Metaparameter


def at_edges(space: Space, best: Mapping[str, float], *, margin: float = 0.1, by: float = 0.25) -> tuple[AtEdge, ...]:
    """The metaparameters of the ``best`` trial that lie within ``margin`` of an end of their range.

    ``margin`` and ``by``, how much wider the new range is, are shares of the range's length as it is searched.
    """
    edges = []
    for name, metaparameter in space.items():
        fraction = metaparameter.fraction(best[name])
        if min(fraction, 1.0 - fraction) < margin:
            side: Side = "low" if _distance_to_low(metaparameter, fraction) < margin else "high"
            edges.append(AtEdge(name, side, best[name], metaparameter.widened(side, by)))
    return tuple(edges)


def effective_rate(metaparameters: Mapping[str, float]) -> float:
    """lr / (1 - m): the length that momentum gives a step in the long run."""
    return metaparameters["learning_rate"] / (1.0 - metaparameters.get("momentum", 0.0))


def _distance_to_low(metaparameter: Metaparameter, fraction: float) -> float:
    return fraction if metaparameter(0.0) < metaparameter(0.5) else 1.0 - fraction


def _check(right: bool, expected: str, low: float, high: float) -> None:
    if not right:
        raise ValueError(f"a range must have {expected}, got {low} to {high}; swap or mend them")


LEARNING_RATE = Logarithmic(1e-4, 1.0)
MOMENTUM = FromOne(0.9, 0.9999)
# The spaces of Lee et al. 2021; the order of the names is that of the dimensions.
SGD: Space = {"learning_rate": LEARNING_RATE}
WITH_MOMENTUM: Space = {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM}
LINEAR_DECAY: Space = {
    "learning_rate": LEARNING_RATE,
    "momentum": MOMENTUM,
    "decay_steps": Whole(30_000, 60_000),
    "end_factor": Logarithmic(1e-4, 0.1),
}
