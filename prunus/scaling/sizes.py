"""What a table of steps over batch sizes shows without a fit."""

import math
from collections.abc import Mapping
from itertools import pairwise

Table = Mapping[int, float]  # steps-to-result by batch size


def perfect_scaling(table: Table, anchor: int | None = None) -> dict[int, float]:
    """The line K(B0) B0 / B at the batch sizes of ``table``; B0 is ``anchor``, by default the smallest of them.

    >>> perfect_scaling({8: 1000, 16: 600})
    {8: 1000.0, 16: 500.0}
    """
    first = min(table) if anchor is None else anchor
    return {batch: table[first] * first / batch for batch in sorted(table)}


def normalised(table: Table, reference: int) -> dict[int, float]:
    """K(B) / K(reference): without the vertical shift, curves show where they bend."""
    return {batch: table[batch] / table[reference] for batch in sorted(table)}


def slopes(table: Table) -> dict[float, float]:
    """d log K / d log B between neighbours, by the geometric mean of their batch sizes."""
    return {
        math.sqrt(low * high): math.log(table[high] / table[low]) / math.log(high / low)
        for low, high in pairwise(sorted(table))
    }


def half_efficiency_batch(table: Table) -> float | None:
    """The batch size that first needs twice the examples of the smallest: B K(B) = 2 B0 K(B0).

    Straight lines between the points of log B K(B) over log B. None where no measured batch size needs as many.
    """
    batches = sorted(table)
    excess = {b: math.log(b * table[b] / (2.0 * batches[0] * table[batches[0]])) for b in batches}
    for low, high in pairwise(batches):
        if excess[high] >= 0.0:
            share = -excess[low] / (excess[high] - excess[low])
            return low * math.pow(high / low, share)
    return None


def mean_ratio(table: Table, dense: Table) -> float:
    """The geometric mean of K(B, s) / K(B, 0) over the batch sizes that both have.

    Raises ValueError where there is none.
    """
    common = sorted(table.keys() & dense.keys())
    if not common:
        raise ValueError(
            f"tables must share a batch size, got {sorted(table)} and {sorted(dense)}; measure one in both"
        )
    return math.exp(sum(math.log(table[batch] / dense[batch]) for batch in common) / len(common))
