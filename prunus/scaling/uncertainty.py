"""How far a fitted curve can be trusted: over seeds, which is the real noise, or over the trials of one search."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from prunus.scaling.censored import Fit, Measurement, fit_censored, measurement, measurements
from prunus.scaling.curve import Curve
from prunus.scaling.trials import Cell

LEVEL = 0.95
Statistic = Callable[[Curve], float]


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that it lies in, at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CurveEstimate:
    """A curve fitted to all cells, and the curves that say how uncertain it is: of each seed, or of each resample.

    An interval over trials is biased upward only, because the best of fewer different trials can never be better; it
    does not hold the noise of initialisation and data order. Prefer ``"seeds"``.
    """

    fit: Fit
    curves: Mapping[int, Curve]
    over: Literal["seeds", "trials"]

    def of(self, statistic: Statistic) -> Estimate:
        """The positive number that ``statistic`` reads off a curve; over seeds, the geometric mean of their numbers.

        >>> # estimate.of(lambda curve: curve(256)), the steps at batch size 256
        """
        return self._estimate(statistic(self.fit.curve), list(map(statistic, self.curves.values())))

    def over_dense(self, dense: "CurveEstimate", statistic: Statistic) -> Estimate:
        """The ratio of ``statistic`` to that of the dense curve, paired by seed or by resample."""
        common = sorted(self.curves.keys() & dense.curves.keys())
        value = statistic(self.fit.curve) / statistic(dense.fit.curve)
        return self._estimate(value, [statistic(self.curves[key]) / statistic(dense.curves[key]) for key in common])

    def _estimate(self, value: float, values: Sequence[float]) -> Estimate:
        return over_seeds(values) if self.over == "seeds" else over_resamples(value, values)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The geometric mean of independent positive values and its interval by Student's t in the logarithms.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two or more, got {len(values)}; run the cells with more seeds")
    logs = np.log(values)
    spread = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = float(stdtrit(len(logs) - 1, 0.5 + LEVEL / 2.0)) * spread
    centre = float(logs.mean())
    return Estimate(math.exp(centre), math.exp(centre - reach), math.exp(centre + reach))


def over_resamples(value: float, values: Sequence[float]) -> Estimate:
    """``value`` and the middle 95 % of ``values``."""
    low, high = np.quantile(values, [0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])
    return Estimate(value, float(low), float(high))


def estimate_over_seeds(cells: Sequence[Cell], sharpness: float = 1.0) -> CurveEstimate:
    """The curve of the cells of one optimizer and sparsity, and one curve for each of their seeds.

    Raises ValueError where a seed met the goal at fewer than two batch sizes.
    """
    fit = fit_censored(measurements(cells), sharpness)
    curves = {
        seed: fit_censored(measurements(cell for cell in cells if cell.seed == seed), sharpness).curve
        for seed in sorted({cell.seed for cell in cells})
    }
    return CurveEstimate(fit, curves, "seeds")


def estimate_over_trials(
    cells: Sequence[Cell], sharpness: float = 1.0, *, resamples: int = 200, seed: int = 0
) -> CurveEstimate:
    """The curve of the cells of one optimizer and sparsity, and a bootstrap over the trials within each cell.

    A resample draws as many trials as a cell has, with replacement, takes the best again and refits. Where it left out
    all trials that arrived the cell is censored, as the study's own would be; a resample that met the goal at fewer
    than two batch sizes has no curve and is left out. Cells that raced have few trials that arrived, so their
    resamples are censored often. Cells of one batch size and seed draw the same trials at every sparsity: their
    settings are the same, so ratios are paired.
    """
    fit = fit_censored(measurements(cells), sharpness)
    samples = {number: [_resampled(cell, [seed, number]) for cell in cells] for number in range(resamples)}
    curves = {
        number: fit_censored(sample, sharpness, start=fit.curve).curve
        for number, sample in samples.items()
        if len({found.batch_size for found in sample if found.reached}) > 1
    }
    return CurveEstimate(fit, curves, "trials")


def _resampled(cell: Cell, key: list[int]) -> Measurement:
    generator = np.random.default_rng([*key, cell.batch_size, cell.seed])
    chosen = generator.integers(len(cell.trials), size=len(cell.trials))
    return measurement(replace(cell, trials=tuple(cell.trials[place] for place in chosen.tolist())))
