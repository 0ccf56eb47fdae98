"""What the theory of Lee et al. 2021 says about the curve, from the constants of smoothness and noise."""

import math
from dataclasses import dataclass

from prunus.scaling.curve import Curve


@dataclass(frozen=True)
class CappedCurve:
    """Steps with the best step size up to a cap: 4 c1 / B up to B = 2 c1 / c2, then c2 B / (B - c1 / c2).

    A second curve of two parameters, with a sudden end of perfect scaling. ``linear`` is c1, in steps times examples,
    and ``plateau`` c2, the steps of an endless batch.
    """

    linear: float
    plateau: float

    @property
    def critical_batch(self) -> float:
        """B_c = c1 / c2; perfect scaling ends at twice it."""
        return self.linear / self.plateau

    @property
    def least_examples(self) -> float:
        """4 c1: the examples of every batch in perfect scaling."""
        return 4.0 * self.linear

    def __call__(self, batch: float) -> float:
        """The steps to the goal at batch size ``batch``."""
        critical = self.critical_batch
        if batch <= 2.0 * critical:
            return 4.0 * self.linear / batch
        return self.plateau * batch / (batch - critical)

    def efficiency(self, batch: float) -> float:
        """E_min / (B K(B)), in (0, 1]: 1 up to 2 B_c, one half at (4 + 2 sqrt 2) B_c."""
        return self.least_examples / (batch * self(batch))

    def batch_at(self, efficiency: float) -> float:
        """The largest batch size with this efficiency, in (0, 1]."""
        return self.critical_batch * 2.0 * (1.0 + math.sqrt(1.0 - efficiency)) / efficiency


@dataclass(frozen=True)
class Theory:
    """Stochastic gradient descent on an L-smooth function (Bottou, Curtis & Nocedal 2018), as Lee et al. 2021 use it.

    The mean of |grad f|^2 over K steps of size eta is at most eta L beta / (mu B) + Delta / (mu eta K); the goal is
    that it is at most eps. ``smoothness`` is L, ``variance`` beta, of one example's gradient, ``alignment`` mu, ``gap``
    Delta = 2 (f(x_0) - inf f), ``tolerance`` eps and ``cap`` the largest step size.
    """

    smoothness: float
    variance: float
    alignment: float
    gap: float
    tolerance: float
    cap: float

    @property
    def linear(self) -> float:
        """c1 = Delta L beta / (mu^2 eps^2), of K ~ c1 / B + c2."""
        return self.gap * self.smoothness * self.variance / (self.alignment * self.tolerance) ** 2

    @property
    def plateau(self) -> float:
        """c2 = Delta / (cap mu eps)."""
        return self.gap / (self.cap * self.alignment * self.tolerance)

    @property
    def critical_batch(self) -> float:
        """B_crit = c1 / c2 = cap L beta / (mu eps)."""
        return self.cap * self.smoothness * self.variance / (self.alignment * self.tolerance)

    @property
    def first_order(self) -> Curve:
        """K = c1 / B + c2: the step size at its cap, to first order in 1 / B."""
        return Curve(self.plateau, self.critical_batch)

    @property
    def capped(self) -> CappedCurve:
        """The curve with the best step size at every batch size, no larger than the cap."""
        return CappedCurve(self.linear, self.plateau)

    def rate(self, batch: float) -> float:
        """The best step size at batch size ``batch``: min(cap, eps mu B / (2 L beta))."""
        return min(self.cap, self.tolerance * self.alignment * batch / (2.0 * self.smoothness * self.variance))

    def steps(self, batch: float, rate: float) -> float:
        """K = Delta / (mu eta (eps - eta L beta / (mu B))) for step size ``rate``; infinite where noise forbids eps."""
        left = self.tolerance - rate * self.smoothness * self.variance / (self.alignment * batch)
        return self.gap / (self.alignment * rate * left) if left > 0.0 else math.inf
