"""How many workers are worth it: what each doubling of them saves in steps and costs in examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunus.scaling.curve import Curve
from prunus.scaling.uncertainty import CurveEstimate, Estimate

HALF = 0.5


@dataclass(frozen=True)
class Row:
    """So many workers, each with the same batch.

    ``speedup`` is the steps of one worker over theirs, ``efficiency`` the speed-up for each worker, in (0, 1], and
    ``cost`` the examples they need over the fewest that any batch size needs. ``steps`` and ``examples`` are None where
    only the noise scale is known.
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
    """The rows, up to how many ``workers`` the efficiency stays at ``threshold`` or above, and that in one sentence.

    ``workers`` is whole in its value and its bounds; ``measured`` is the largest batch size that met the goal, beyond
    which all is extrapolated, None where only the noise scale is known.
    """

    rows: tuple[Row, ...]
    workers: Estimate
    threshold: float
    worker_batch: int
    measured: int | None

    @property
    def sentence(self) -> str:
        """What a person wants to know before renting machines."""
        most, low, high = (_count(n) for n in (self.workers.value, self.workers.low, self.workers.high))
        batch = self.workers.value * self.worker_batch
        text = (
            f"With batches of {self.worker_batch} per worker it pays up to {most} worker{'s' * (most != '1')} "
            f"(between {low} and {high}), a batch of {_count(batch)}; beyond that the speed-up is less than "
            f"{self.threshold:g} times the number of workers."
        )
        if self.measured is not None and batch > self.measured:
            text += f" The largest batch measured was {self.measured}, so this is an extrapolation."
        return text


def worth(estimate: CurveEstimate, worker_batch: int, *, workers: Sequence[int] = (), threshold: float = HALF) -> Worth:
    """What a fitted curve says for workers of ``worker_batch`` examples each.

    ``workers`` are the rows, by default 1, 2, 4, … until one falls below ``threshold``, in (0, 1).
    """
    critical = estimate.of(lambda curve: curve.critical_batch)
    sharpness = estimate.fit.curve.sharpness

    def totals(batch: int) -> tuple[Estimate, Estimate]:
        steps = estimate.of(lambda curve: curve(batch))
        return steps, _scaled(steps, batch)

    return _Ask(critical, sharpness, worker_batch, threshold).answer(workers, totals, estimate.fit.largest)


def worth_of_noise(
    critical_batch: Estimate, worker_batch: int, *, workers: Sequence[int] = (), threshold: float = HALF
) -> Worth:
    """What the gradient noise scale of one run predicts, taken for the critical batch; steps are then unknown."""
    return _Ask(critical_batch, 1.0, worker_batch, threshold).answer(workers, lambda batch: (None, None), None)


@dataclass(frozen=True)
class _Ask:
    critical: Estimate
    sharpness: float
    worker_batch: int
    threshold: float

    def answer(
        self,
        workers: Sequence[int],
        totals: Callable[[int], tuple[Estimate | None, Estimate | None]],
        measured: int | None,
    ) -> Worth:
        most = Estimate(
            *(self._most(critical) for critical in (self.critical.value, self.critical.low, self.critical.high))
        )
        shown = workers or _doubling(most.value)
        rows = [self._row(count, *totals(count * self.worker_batch)) for count in shown]
        return Worth(tuple(rows), most, self.threshold, self.worker_batch, measured)

    def _row(self, workers: int, steps: Estimate | None, examples: Estimate | None) -> Row:
        one, all_ = self.worker_batch, workers * self.worker_batch
        speedup = self._read(lambda curve: curve(one) / curve(all_))
        cost = self._read(lambda curve: 1.0 / curve.efficiency(all_))
        return Row(workers, all_, steps, examples, speedup, _scaled(speedup, 1.0 / workers), cost)

    def _read(self, statistic: Callable[[Curve], float]) -> Estimate:
        """A number that depends on the critical batch alone, and goes up with it or down."""
        ends = sorted(statistic(self._curve(edge)) for edge in (self.critical.low, self.critical.high))
        return Estimate(statistic(self._curve(self.critical.value)), *ends)

    def _most(self, critical: float) -> float:
        curve = self._curve(critical)
        batch = curve.batch_at(self.threshold * curve.efficiency(self.worker_batch))
        return float(math.floor(batch / self.worker_batch * (1.0 + 1e-9)))  # an exact number may round down

    def _curve(self, critical: float) -> Curve:
        return Curve(1.0, critical, self.sharpness)


def _doubling(most: float) -> list[int]:
    """1, 2, 4, … and the first of them beyond ``most``."""
    return [1 << power for power in range(int(most).bit_length() + 1)]


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)


def _count(number: float) -> str:
    return f"{number:.0f}"
