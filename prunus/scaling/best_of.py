"""How good the search would have been with fewer trials, as evidence that its budget was enough."""

from dataclasses import dataclass
from fractions import Fraction
from math import comb

from prunus.scaling.trials import Cell


@dataclass(frozen=True)
class BestOf:
    """The steps-to-result of ``count`` of a cell's trials, drawn without replacement.

    ``unreached`` is the probability that none of them meets the goal, ``mean`` the mean where one does, and ``median``
    the fewest steps that are enough in at least half of all draws; None where there is no such number.
    """

    count: int
    unreached: float
    mean: float | None
    median: int | None


def best_of(cell: Cell, count: int) -> BestOf:
    """The exact distribution over all draws of ``count`` trials; infeasible trials are trials too.

    Of a raced cell, unreached means not reached when the race ended. Raises ValueError for a count outside 1 to the
    number of trials.
    """
    total = len(cell.trials)
    if not 1 <= count <= total:
        raise ValueError(f"count must be in 1 to the cell's {total} trials, got {count}; draws are without replacement")
    steps = sorted(trial.steps for trial in cell.trials if trial.status == "complete")
    # the draws whose best is the trial at this place: it, and the rest from those after it
    draws = [comb(total - place - 1, count - 1) for place in range(len(steps))]
    reached, every = sum(draws), comb(total, count)
    mean = Fraction(sum(k * n for k, n in zip(steps, draws, strict=True)), reached) if reached else None
    return BestOf(
        count,
        unreached=float(Fraction(every - reached, every)),
        mean=None if mean is None else float(mean),
        median=_median(steps, draws, every),
    )


def _median(steps: list[int], draws: list[int], every: int) -> int | None:
    reached = 0
    for k, n in zip(steps, draws, strict=True):
        reached += n
        if 2 * reached >= every:
            return k
    return None
