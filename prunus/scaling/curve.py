"""The curve of steps-to-result over the batch size, and what is read off it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """K(B) = K_min (1 + (B_crit / B)^p)^(1/p): the steps that a batch of B examples needs.

    With p = 1, M2 of McCandlish et al. 2018, (K / K_min - 1) (E / E_min - 1) = 1 with E = B K. A larger ``sharpness``
    p has a sharper bend. ``least_steps`` is K_min and ``critical_batch`` B_crit.

    >>> Curve(least_steps=400.0, critical_batch=256.0)(64)
    2000.0
    """

    least_steps: float
    critical_batch: float
    sharpness: float = 1.0

    @property
    def least_examples(self) -> float:
        """E_min = K_min B_crit: the examples that the smallest batches need."""
        return self.least_steps * self.critical_batch

    def __call__(self, batch: float) -> float:
        """The steps to the goal at batch size ``batch``."""
        return self.least_steps * _power_mean(self.critical_batch / batch, self.sharpness)

    def efficiency(self, batch: float) -> float:
        """e(B) = E_min / (B K(B)), in (0, 1]: which share of the examples the smallest batches would have needed."""
        return 1.0 / _power_mean(batch / self.critical_batch, self.sharpness)

    def slope(self, batch: float) -> float:
        """d log K / d log B = -e(B)^p: -1 where doubling the batch halves the steps, 0 where it does nothing."""
        return -math.pow(self.efficiency(batch), self.sharpness)

    def batch_at(self, efficiency: float) -> float:
        """The batch size with this efficiency, in (0, 1); half of it is reached at B_crit where p = 1."""
        return self.critical_batch * math.pow(math.pow(efficiency, -self.sharpness) - 1.0, 1.0 / self.sharpness)

    def batch_within(self, slack: float) -> float:
        """The batch size from which on no more than ``1 + slack`` times the fewest steps are needed."""
        return self.critical_batch * math.pow(math.pow(1.0 + slack, self.sharpness) - 1.0, -1.0 / self.sharpness)


@dataclass(frozen=True)
class Regions:
    """Perfect scaling up to one batch size, maximal data parallelism from another on, diminishing returns between."""

    perfect_until: float
    maximal_from: float

    @property
    def doublings(self) -> float:
        """How many doublings of the batch the diminishing returns last; 6.5 by default where p = 1."""
        return math.log2(self.maximal_from / self.perfect_until)


def regions(curve: Curve, efficiency: float = 0.9, slack: float = 0.1) -> Regions:
    """Where the three regions meet: efficiency falls below ``efficiency``, steps come within ``slack`` of the fewest.

    >>> regions(Curve(400.0, 256.0)).perfect_until * 9
    256.0...
    """
    return Regions(curve.batch_at(efficiency), curve.batch_within(slack))


def _power_mean(ratio: float, sharpness: float) -> float:
    """(1 + ratio^p)^(1/p), without leaving the range of floats."""
    if sharpness == 1.0:
        return 1.0 + ratio
    larger, smaller = max(1.0, ratio), min(1.0, ratio)
    return larger * math.exp(math.log1p(math.pow(smaller / larger, sharpness)) / sharpness)
