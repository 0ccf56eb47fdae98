"""Curves fitted to what a grid of evaluations tells: between which two steps the goal was met, or that it was not."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_ndtr

from prunus.scaling.curve import Curve
from prunus.scaling.fits import SHARPNESSES, STARTS, Vector, critical_bounds, curve_of, log_steps, log_steps_gradient
from prunus.scaling.trials import Cell, steps_to_result

LEAST_SPREAD = 0.01  # the likelihood is unbounded at a perfect fit
MOST_SPREAD = 3.0
WORTH_A_PARAMETER = 2.0  # in log-likelihood


@dataclass(frozen=True)
class Measurement:
    """The goal was met after step ``before`` and no later than ``steps``; if not ``reached``, after ``steps``."""

    batch_size: int
    steps: int
    before: int
    reached: bool = True


@dataclass(frozen=True)
class Fit:
    """The likeliest curve.

    ``spread`` is the standard deviation of log K around it, at least 0.01. ``smallest`` and ``largest`` are the
    smallest and largest batch size that met the goal.
    """

    curve: Curve
    spread: float
    log_likelihood: float
    smallest: int
    largest: int

    @property
    def bend_was_measured(self) -> bool:
        """Whether the critical batch lies within the batch sizes measured; outside, it is an extrapolation."""
        return self.smallest <= self.curve.critical_batch <= self.largest


def measurement(cell: Cell) -> Measurement:
    """What a cell tells about the curve; unreached, that more steps are needed than any trial was given."""
    winner = steps_to_result(cell)
    if winner is not None:
        return Measurement(cell.batch_size, winner.steps, winner.before)
    steps = max((trial.steps for trial in cell.trials), default=0)
    return Measurement(cell.batch_size, steps, steps, reached=False)


def measurements(cells: Iterable[Cell]) -> tuple[Measurement, ...]:
    """The measurement of each cell, in the order of batch sizes; several seeds give several at one batch size."""
    return tuple(sorted(map(measurement, cells), key=lambda found: found.batch_size))


def fit_censored(measured: Sequence[Measurement], sharpness: float | None = 1.0, start: Curve | None = None) -> Fit:
    """The maximum of the sum of log (Phi((log steps - mu) / sigma) - Phi((log before - mu) / sigma)), mu = log K(B).

    Of those that did not reach the goal, log (1 - Phi((log steps - mu) / sigma)). ``sharpness`` is p of the curve,
    None to fit it as well. From ``start`` alone where it is given, which is faster. Raises ValueError unless the goal
    was met at two batch sizes, at three if p is fitted.
    """
    grid = _Grid.of(measured, 2 if sharpness is not None else 3)
    starts = STARTS if start is None else (start.critical_batch,)
    begin = 0.0 if start is None else math.log(start.sharpness)
    fixed = None if sharpness is None else math.log(sharpness)
    found = [
        grid.climb(math.log(critical), begin if fixed is None else fixed, free=fixed is None) for critical in starts
    ]
    cost, parameters, spread = min(found, key=lambda result: result[0])
    return Fit(curve_of(parameters), spread, -cost, *grid.extent)


def fit_best(measured: Sequence[Measurement]) -> Fit:
    """The curve with p = 1, or with p fitted where that improves the log-likelihood by more than 2."""
    plain = fit_censored(measured)
    if len({found.batch_size for found in measured if found.reached}) < 3:
        return plain
    sharp = fit_censored(measured, sharpness=None)
    return sharp if sharp.log_likelihood - plain.log_likelihood > WORTH_A_PARAMETER else plain


def common_sharpness(groups: Sequence[Sequence[Measurement]]) -> float:
    """The likeliest p for several curves together, so that their critical batches compare.

    1 unless that improves the joint log-likelihood by more than 2; two batch sizes alone tell nothing of it.
    """
    telling = [group for group in groups if len({one.batch_size for one in group if one.reached}) > 2]
    if not telling:
        return 1.0

    def cost(log_sharpness: float) -> float:
        return -sum(fit_censored(group, math.exp(log_sharpness)).log_likelihood for group in telling)

    found = minimize_scalar(cost, bounds=[math.log(edge) for edge in SHARPNESSES], method="bounded")
    return math.exp(found.x) if cost(0.0) - found.fun > WORTH_A_PARAMETER else 1.0


@dataclass(frozen=True)
class _Grid:
    """The measurements as arrays; log steps are infinite where a bound is missing."""

    log_batches: Vector
    low: Vector
    high: Vector
    reached: NDArray[np.bool_]

    @classmethod
    def of(cls, measured: Sequence[Measurement], needed: int) -> "_Grid":
        reached = {found.batch_size for found in measured if found.reached}
        if len(reached) < needed:
            raise ValueError(
                f"the goal must be met at {needed} batch sizes or more, got {sorted(reached)}; measure more, give the "
                "trials more steps, or choose an easier goal"
            )
        with np.errstate(divide="ignore"):
            low = np.log(np.array([found.before if found.reached else found.steps for found in measured], np.float64))
        high = np.log(np.array([found.steps if found.reached else math.inf for found in measured], np.float64))
        batches = np.log(np.array([found.batch_size for found in measured], np.float64))
        return cls(batches, low, high, np.isfinite(high))

    @property
    def extent(self) -> tuple[int, int]:
        batches = np.exp(self.log_batches[self.reached])
        return round(batches.min()), round(batches.max())

    def climb(self, log_critical: float, log_sharpness: float, *, free: bool) -> tuple[float, Vector, float]:
        """The least cost from one start, where it lies, and the spread there; ``free`` moves the sharpness too."""
        shape = np.array([0.0, log_critical, log_sharpness])
        level = float(np.mean((self.high - log_steps(shape, self.log_batches))[self.reached])) + self._at_centre(shape)
        bounds = [
            (None, None),
            critical_bounds(self.log_batches),
            tuple(map(math.log, SHARPNESSES)) if free else (log_sharpness, log_sharpness),
            (math.log(LEAST_SPREAD), math.log(MOST_SPREAD)),
        ]
        begin = np.array([level, log_critical, log_sharpness, math.log(0.1)])
        options = {"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-7}
        found = minimize(self._cost, begin, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        parameters = found.x[:3].copy()
        parameters[0] -= self._at_centre(np.array([0.0, *found.x[1:3]]))
        return float(found.fun), parameters, math.exp(found.x[3])

    def _at_centre(self, shape: Vector) -> float:
        return float(log_steps(shape, self._centre)[0])

    @property
    def _centre(self) -> Vector:
        return np.array([self.log_batches.mean()])

    def _cost(self, point: Vector) -> tuple[float, Vector]:
        """The negative log-likelihood and its gradient by (log K at the mean log B, log B_crit, log p, log spread)."""
        # the level in the middle instead of log K_min, which runs off with log B_crit where no bend was measured
        shape, spread = np.array([0.0, point[1], point[2]]), math.exp(point[3])
        centre = point[0] + log_steps(shape, self.log_batches) - self._at_centre(shape)
        low, high = (self.low - centre) / spread, (self.high - centre) / spread
        log_mass = _log_mass(low, high)
        below, above = _share(low, log_mass), _share(high, log_mass)
        by_centre = (below - above) / spread
        by_spread = _times(low, below) - _times(high, above)
        moved = log_steps_gradient(shape, self.log_batches) - log_steps_gradient(shape, self._centre)
        moved[:, 0] = 1.0
        return -float(log_mass.sum()), -np.append(by_centre @ moved, by_spread.sum())


def _log_mass(low: Vector, high: Vector) -> Vector:
    """log (Phi(high) - Phi(low)); in the upper tail by the mirrored interval, where Phi is exact."""
    upper = low > 0.0
    left, right = np.where(upper, -high, low), np.where(upper, -low, high)
    log_right = log_ndtr(right)
    mass: Vector = log_right + np.log(-np.expm1(log_ndtr(left) - log_right))
    return mass


def _share(edge: Vector, log_mass: Vector) -> Vector:
    """The normal density at an edge of each interval, over the interval's mass."""
    share: Vector = np.exp(-0.5 * edge**2 - 0.5 * math.log(2.0 * math.pi) - log_mass)
    return share


def _times(edge: Vector, share: Vector) -> Vector:
    return np.where(np.isfinite(edge), edge, 0.0) * share
