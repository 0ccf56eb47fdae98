"""Curves fitted to steps that are known exactly; `censored` has the fit for what a grid of evaluations leaves open."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from prunus.scaling.curve import Curve

Vector = NDArray[np.float64]
STARTS = (4.0, 64.0, 1024.0)  # critical batches to begin at
BEYOND = 1024.0  # how far outside the measured batch sizes, as a factor, a critical batch is looked for
SHARPNESSES = (0.25, 32.0)


@dataclass(frozen=True)
class Fitted:
    """A curve, and the root mean square of log K - log curve(B)."""

    curve: Curve
    residual: float


def fit_linear(table: Mapping[int, float]) -> Curve:
    """Linear least squares of K in (1 / B, 1) with weights 1 / K^2, without iterations; p = 1.

    Where the steps do not fall enough the answer is no curve: raises ValueError for a negative coefficient.
    """
    batches, steps = _columns(table)
    rows = np.stack([1.0 / batches, np.ones_like(batches)], axis=1) / steps[:, None]
    (linear, plateau), *_ = np.linalg.lstsq(rows, np.ones_like(steps))
    if linear <= 0.0 or plateau <= 0.0:
        raise ValueError(
            f"steps must fall with the batch size and flatten, got K = {linear:.4g} / B + {plateau:.4g}; "
            "measure batch sizes on both sides of the bend"
        )
    return Curve(float(plateau), float(linear / plateau))


def fit(table: Mapping[int, float], *, huber: float | None = None, sharpness: float | None = 1.0) -> Fitted:
    """Least squares in log K over log K_min and log B_crit.

    ``huber`` is the |residual| from which on the loss grows linearly, which takes its weight from an outlier; None for
    plain squares. ``sharpness`` is p, None to fit it as well. Where no bend was measured, B_crit ends at most a factor
    of 1024 outside the batch sizes. Raises ValueError for fewer batch sizes than parameters.
    """
    batches, steps = map(np.log, _columns(table))
    needed = 2 if sharpness is not None else 3
    if len(batches) < needed:
        raise ValueError(f"a curve of {needed} parameters needs as many batch sizes, got {len(batches)}; measure more")

    def residuals(parameters: Vector) -> Vector:
        return log_steps(_expanded(parameters, sharpness), batches) - steps

    def jacobian(parameters: Vector) -> Vector:
        return log_steps_gradient(_expanded(parameters, sharpness), batches)[:, : len(parameters)]

    low, high = critical_bounds(batches)
    bounds = np.array([(-np.inf, np.inf), (low, high), np.log(SHARPNESSES)][:needed]).T
    loss = {"loss": "linear"} if huber is None else {"loss": "huber", "f_scale": huber}
    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 500}
    begins = [[steps.min(), min(max(math.log(critical), low), high), 0.0][:needed] for critical in STARTS]
    found = [least_squares(residuals, begin, jacobian, tuple(bounds), **loss, **tolerances) for begin in begins]
    best = min(found, key=lambda result: float(result.cost))
    curve = curve_of(_expanded(best.x, sharpness))
    return Fitted(curve, float(np.sqrt(np.mean(residuals(best.x) ** 2))))


def critical_bounds(log_batches: Vector) -> tuple[float, float]:
    """Between which log B_crit are looked for: a factor of 1024 beyond the batch sizes measured."""
    return float(log_batches.min()) - math.log(BEYOND), float(log_batches.max()) + math.log(BEYOND)


def log_steps(parameters: Vector, log_batches: Vector) -> Vector:
    """log K at each log B, for parameters (log K_min, log B_crit, log p)."""
    least, critical, sharpness = parameters[0], parameters[1], math.exp(parameters[2])
    bent: Vector = least + np.logaddexp(0.0, sharpness * (critical - log_batches)) / sharpness
    return bent


def log_steps_gradient(parameters: Vector, log_batches: Vector) -> Vector:
    """The derivatives of `log_steps` by its parameters, one row for each batch size."""
    sharpness = math.exp(parameters[2])
    ahead = parameters[1] - log_batches
    rising = np.exp(-np.logaddexp(0.0, -sharpness * ahead))  # 1 far below the bend, 0 far above
    bend = ahead * rising - np.logaddexp(0.0, sharpness * ahead) / sharpness
    return np.stack([np.ones_like(ahead), rising, bend], axis=1)


def curve_of(parameters: Vector) -> Curve:
    """The curve of (log K_min, log B_crit, log p)."""
    least, critical, sharpness = (math.exp(value) for value in parameters)
    return Curve(least, critical, sharpness)


def _expanded(parameters: Vector, sharpness: float | None) -> Vector:
    return parameters if sharpness is None else np.append(parameters, math.log(sharpness))


def _columns(table: Mapping[int, float]) -> tuple[Vector, Vector]:
    batches = sorted(table)
    return np.array(batches, dtype=np.float64), np.array([table[batch] for batch in batches], dtype=np.float64)
