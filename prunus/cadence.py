"""Cadences: when a rule runs. The clock is the optimizer's step; clock t is the moment after t steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cadence = Callable[[int, int], Sequence[float]]  # (clock, steps) -> the progress of each update due now


@dataclass(frozen=True)
class Every:
    """Every ``steps`` ticks from ``start`` to ``until`` (fractions of training); the last falls exactly on its end.

    Progress is counted inside the window. ``at_start=False`` leaves out the first moment: a drop-and-grow rule would
    swap weights for zeros before anything was learned. ``at_end=False`` leaves out the last: none would train what it
    grew there.

    >>> [clock for clock in range(101) if Every(30, until=0.75)(clock, 100)]
    [0, 30, 60, 75]
    """

    steps: int = 100
    start: float = 0.0
    until: float = 1.0
    at_start: bool = True
    at_end: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"update_every must be at least 1 step, got {self.steps}")
        if not 0.0 <= self.start <= self.until <= 1.0:
            raise ValueError(f"a window needs 0 <= start <= until <= 1, got {self.start} and {self.until}")

    def __call__(self, clock: int, steps: int) -> Sequence[float]:
        first, last = round(self.start * steps), round(self.until * steps)
        due = first <= clock <= last and ((clock - first) % self.steps == 0 or clock == last)
        due = due and (self.at_start or clock > first) and (self.at_end or clock < last)
        return [(clock - first) / (last - first) if last > first else 1.0] if due else []


@dataclass(frozen=True)
class Decisions:
    """The K decisions of a training: at clock 0 and after every ``steps``, as long as ``steps`` more can follow.

    Decision k has progress k / K, the last one 1, so that a schedule arrives at its end; what is left of the training
    follows it. Tessera et al. 2022, Sec. 2.1: masks are set before the steps that train them.

    >>> [(clock, Decisions(30)(clock, 100)) for clock in range(101) if Decisions(30)(clock, 100)]
    [(0, [0.0]), (30, [0.3333333333333333]), (60, [1.0])]
    """

    steps: int = 100

    def __call__(self, clock: int, steps: int) -> Sequence[float]:
        count = steps // self.steps
        if count < 1:
            raise ValueError(f"update_every must be at most the {steps} steps of the training, got {self.steps}")
        number, rest = divmod(clock, self.steps)
        if rest or not 0 <= number < count:
            return []
        return [1.0 if number == count - 1 else number / count]


@dataclass(frozen=True)
class Never:
    """No update by the clock: masks are changed by whoever holds the sparsifier."""

    def __call__(self, clock: int, steps: int) -> Sequence[float]:
        return []


@dataclass(frozen=True)
class Once:
    """A single time, ``at`` a fraction of training; in ``rounds`` updates with progress 1/rounds … 1."""

    at: float = 0.0
    rounds: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.at <= 1.0 or self.rounds < 1:
            raise ValueError(f"once needs at in [0, 1] and at least one round, got at={self.at}, rounds={self.rounds}")

    def __call__(self, clock: int, steps: int) -> Sequence[float]:
        due = clock == round(self.at * steps)
        return [(number + 1) / self.rounds for number in range(self.rounds)] if due else []
