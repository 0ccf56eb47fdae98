"""How many workers are worth it: what each doubling of them saves in steps and costs in examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunus.scaling.curve import Curve
from prunus.scaling.uncertainty import CurveEstimate, Estimate

HALF = 0.5
Totals = Callable[[int], tuple[Estimate | None, Estimate | None]]  # steps and examples at a batch size


@dataclass(frozen=True)
class Row:
    """So many workers, each with the same batch, against one of them.

    ``speedup`` is the steps of one worker over theirs, ``cost`` their examples over those of one worker, and
    ``efficiency`` e(B), in (0, 1]: the fewest examples that any batch size needs over theirs. ``steps`` and
    ``examples`` are None where only the noise scale is known.
    """

    workers: int
    batch_size: int
    steps: Estimate | None
    examples: Estimate | None
    speedup: Estimate
    efficiency: Estimate
    cost: Estimate


@dataclass(frozen=True)
class Worth:
    """The rows, and up to which batch size and how many ``workers`` the efficiency stays at ``threshold`` or above.

    ``workers`` is whole in its value and its bounds, 0 where the batch of one worker is too large already; ``at_most``
    is the row of so many, or of one. ``measured`` are the smallest and the largest batch size that met the goal, beyond
    which all is extrapolated; None where only the noise scale is known.
    """

    rows: tuple[Row, ...]
    batch_size: Estimate
    workers: Estimate
    at_most: Row
    threshold: float
    measured: tuple[int, int] | None

    @property
    def sentence(self) -> str:
        """What a person wants to know before renting machines."""
        batch = self.at_most.batch_size // self.at_most.workers
        if self.measured is not None and self.batch_size.value < self.measured[0]:
            return (
                f"The bend lies below the smallest batch that was measured, {self.measured[0]}: from there on the "
                f"efficiency is below {self.threshold:.0%}, and where it is not, this study does not know."
            )
        if self.workers.value < 1:
            return (
                f"A batch of {batch} per worker is too large already, with an efficiency of "
                f"{self.at_most.efficiency.value:.0%}: {self.threshold:.0%} is reached at {self.batch_size.value:.0f} "
                "examples a step, of all workers together."
            )
        return self._limit(batch) + self._extrapolation

    def _limit(self, batch: int) -> str:
        most, low, high = (f"{n:.0f}" for n in (self.workers.value, self.workers.low, self.workers.high))
        row = self.at_most
        return (
            f"With a batch of {batch} per worker it pays up to {most} worker{'s' * (most != '1')} (between {low} and "
            f"{high}), {row.batch_size} examples a step: {row.speedup.value:.3g} times fewer steps than one worker, "
            f"for {row.cost.value:.3g} times the examples; beyond that the efficiency falls below "
            f"{self.threshold:.0%}."
        )

    @property
    def _extrapolation(self) -> str:
        if self.measured is None or self.at_most.batch_size <= self.measured[1]:
            return ""
        return f" This is an extrapolation: the largest batch that was measured is {self.measured[1]}."


def worth(estimate: CurveEstimate, worker_batch: int, *, workers: Sequence[int] = (), threshold: float = HALF) -> Worth:
    """What a fitted curve says for workers of ``worker_batch`` examples each.

    ``workers`` are the rows, by default 1, 2, 4, … until one falls below ``threshold``, in (0, 1).
    """
    critical = estimate.of(lambda curve: curve.critical_batch)
    sharpness = estimate.fit.curve.sharpness

    def totals(batch: int) -> tuple[Estimate, Estimate]:
        steps = estimate.of(lambda curve: curve(batch))
        return steps, _scaled(steps, batch)

    return _Ask(critical, sharpness, worker_batch, threshold).answer(
        workers, totals, (estimate.fit.smallest, estimate.fit.largest)
    )


def worth_of_noise(
    critical_batch: Estimate, worker_batch: int, *, workers: Sequence[int] = (), threshold: float = HALF
) -> Worth:
    """What the gradient noise scale of one run predicts, taken for the critical batch; steps are then unknown.

    Raises ValueError unless the critical batch is above 0 and finite.
    """
    if not 0.0 < critical_batch.low <= critical_batch.high < math.inf:
        raise ValueError(
            f"the noise scale must be above 0 and finite, got {critical_batch.low} to {critical_batch.high}; "
            "average over more steps"
        )
    return _Ask(critical_batch, 1.0, worker_batch, threshold).answer(workers, lambda batch: (None, None), None)


@dataclass(frozen=True)
class _Ask:
    critical: Estimate
    sharpness: float
    worker_batch: int
    threshold: float

    def answer(self, workers: Sequence[int], totals: Totals, measured: tuple[int, int] | None) -> Worth:
        batch_size = self._read(lambda curve: curve.batch_at(self.threshold))
        most = Estimate(*map(self._workers, (batch_size.value, batch_size.low, batch_size.high)))
        counts = [*(workers or _doubling(most.value)), max(1, int(most.value))]
        *rows, last = [self._row(count, *totals(count * self.worker_batch)) for count in counts]
        return Worth(tuple(rows), batch_size, most, last, self.threshold, measured)

    def _row(self, workers: int, steps: Estimate | None, examples: Estimate | None) -> Row:
        one, all_ = self.worker_batch, workers * self.worker_batch
        speedup = self._read(lambda curve: curve(one) / curve(all_))
        efficiency = self._read(lambda curve: curve.efficiency(all_))
        cost = self._read(lambda curve: curve.efficiency(one) / curve.efficiency(all_))
        return Row(workers, all_, steps, examples, speedup, efficiency, cost)

    def _read(self, statistic: Callable[[Curve], float]) -> Estimate:
        """A number that depends on the critical batch alone, and goes up with it or down."""
        ends = sorted(statistic(self._curve(edge)) for edge in (self.critical.low, self.critical.high))
        return Estimate(statistic(self._curve(self.critical.value)), *ends)

    def _workers(self, batch: float) -> float:
        return float(math.floor(batch / self.worker_batch * (1.0 + 1e-9)))  # an exact number may round down

    def _curve(self, critical: float) -> Curve:
        return Curve(1.0, critical, self.sharpness)


def _doubling(most: float) -> list[int]:
    """1, 2, 4, … and the first of them beyond ``most``."""
    return [1 << power for power in range(int(most).bit_length() + 1)]


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
