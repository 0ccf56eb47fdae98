"""Cycles: how iterative pruning divides its sparsity and its steps among them."""

import math
from dataclasses import dataclass
from itertools import accumulate

from prunus.masks import check_sparsity, keep_count


def fraction(sparsity: float, cycles: int, start: float = 0.0) -> float:
    """The share of the weights still alive that each cycle removes, from sparsity ``start`` to ``sparsity``, in [0, 1).

    ``1 - ((1 - sparsity) / (1 - start)) ** (1 / cycles)``, the same in every cycle; 0 where there is nothing to remove.
    """
    _check_cycles(cycles)
    check_sparsity(sparsity)
    return max(0.0, 1.0 - math.pow((1.0 - sparsity) / (1.0 - start), 1.0 / cycles))


def survivors(n: int, sparsity: float, cycles: int, alive: int | None = None) -> tuple[int, ...]:
    """How many of ``n`` weights are alive after each cycle; the last count is that of `keep_count`.

    A cycle removes ``round(fraction * alive)``, half to even, as in the released code of Zimmer et al. 2023, where the
    last count can be off by one. ``alive`` is how many there are before the first, all by default.

    >>> survivors(1000, 0.9, 3)
    (464, 215, 100)
    """
    left = n if alive is None else alive
    share = fraction(sparsity, cycles, 1.0 - left / n)
    last = min(left, keep_count(n, sparsity))
    counts = []
    for _ in range(cycles - 1):
        left = max(last, left - round(share * left))
        counts.append(left)
    return (*counts, last)


def split(total: int, cycles: int) -> tuple[int, ...]:
    """``total`` epochs or steps over ``cycles``: equal whole parts, the last takes the remainder.

    >>> split(20, 7)
    (2, 2, 2, 2, 2, 2, 8)
    """
    _check_cycles(cycles)
    part = total // cycles
    return (*(part,) * (cycles - 1), total - part * (cycles - 1))


@dataclass(frozen=True)
class Plan:
    """Where the cycles of a training begin, how long each lasts, and the sparsity that each prunes to.

    ``fraction`` is the share of the weights alive that each removes.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    sparsities: tuple[float, ...]
    fraction: float


def lay_out(total: int, alive: int, sparsity: float, *, steps: int, dense: int, cycles: int) -> Plan:
    """The plan of ``steps`` steps, the first ``dense`` of them without pruning, for ``alive`` of ``total`` weights.

    Raises ValueError where a cycle has no step.

    >>> lay_out(1000, 1000, 0.9, steps=20, dense=10, cycles=3).starts
    (10, 13, 16)
    """
    if steps - dense < cycles:
        raise ValueError(
            f"a budget of {steps} steps must hold {cycles} retrainings of at least a step after {dense} dense steps; "
            "train longer, or with fewer cycles"
        )
    lengths = split(steps - dense, cycles)
    counts = survivors(total, sparsity, cycles, alive)
    begin = tuple(accumulate(lengths[:-1], initial=dense))
    return Plan(begin, lengths, tuple(1.0 - n / total for n in counts), fraction(sparsity, cycles, 1.0 - alive / total))


def _check_cycles(cycles: int) -> None:
    if cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}; 1 prunes at once")
