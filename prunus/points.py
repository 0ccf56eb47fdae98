"""Points that fill a space evenly, for searches whose workers share nothing but the number of a trial."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

Value = float | int | str


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, spread evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"a range must have finite low < high, got {self.low} to {self.high}; swap or mend them")
        if self.log and self.low <= 0:
            raise ValueError(f"low of a logarithmic range must be above 0, got {self.low}; raise it, or leave out log")

    def __call__(self, fraction: float) -> float:
        """The number that lies ``fraction``, in [0, 1), of the way from low to high."""
        if self.log:
            value = self.low * math.pow(self.high / self.low, fraction)
        else:
            value = self.low + (self.high - self.low) * fraction
        return min(max(value, self.low), self.high)  # which rounding may pass


@dataclass(frozen=True)
class Choices:
    """Some values, each as likely as the others."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"choices must be one or more different values, got {self.values}; name each once")

    def __call__(self, fraction: float) -> Value:
        """The value at ``fraction``, in [0, 1), of their list."""
        return self.values[int(fraction * len(self.values))]


Dimension = Range | Choices


def points(space: Mapping[str, Dimension], count: int, seed: int) -> list[dict[str, Value]]:
    """The first ``count`` points of a Sobol sequence in ``space`` (Sobol 1967), scrambled by ``seed`` (Owen 1998).

    A point depends on its number and the seed alone: a larger count only adds points. No two are equal where the space
    has a range. ``space`` is walked in the order of its names, which are the keys of each point.
    """
    sequence = qmc.Sobol(len(space), rng=np.random.default_rng(seed))
    # whole powers of two, for which alone scipy does not warn; the rest is dropped
    fractions = sequence.random_base2(max(count - 1, 0).bit_length())[:count] if space else np.empty((count, 0))
    return [
        {name: dimension(fraction) for (name, dimension), fraction in zip(space.items(), row, strict=True)}
        for row in fractions.tolist()
    ]
