"""The steps at which trials are evaluated."""

from collections.abc import Iterator


def grid(budget: int, *, every: int | None = None, ratio: float = 1.06) -> Iterator[int]:
    """Every so many steps, or steps that grow by ``ratio`` from 1 on; up to ``budget``, which is the last.

    >>> list(grid(10, ratio=1.5))
    [1, 2, 3, 4, 6, 9, 10]
    """
    step = every or 1
    while step < budget:
        yield step
        step = step + every if every else max(step + 1, round(step * ratio))
    yield budget
