"""Trials and cells: what a steps-to-result study measures, before anything is fitted to it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

Status = Literal["complete", "incomplete", "infeasible"]
Plain = dict[str, Any]  # what JSON holds
REPEATS = 1000  # the seeds of repeats: that of the search, and so much more for each


@dataclass(frozen=True)
class Trial:
    """One training with one setting of the metaparameters.

    ``steps`` is the first evaluation at which the goal was met, for the others the last step that was evaluated, and
    ``before`` the evaluation just before it, 0 for none. ``curve`` has (step, validation examples wrong) of every
    evaluation that saw the full validation set.
    """

    number: int
    metaparameters: Mapping[str, float]
    status: Status
    steps: int
    before: int
    curve: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Cell:
    """The search at one batch size, sparsity and seed: all its trials.

    ``goal`` is the most validation examples that may be wrong. The trials of a cell that ``raced`` stopped soon after
    the first of them arrived; otherwise each ran until it arrived or its budget was used up.
    """

    optimizer: str
    sparsity: float
    batch_size: int
    seed: int
    goal: int
    trials: tuple[Trial, ...]
    raced: bool

    def to_plain(self) -> Plain:
        """The cell as JSON holds it; `of_plain` brings back an equal one."""
        return asdict(self)


@dataclass(frozen=True)
class Outcomes:
    """How many trials ended in which way."""

    complete: int
    incomplete: int
    infeasible: int


def of_plain(plain: Plain) -> Cell:
    """The cell whose `Cell.to_plain` went through JSON."""
    return Cell(**plain | {"trials": tuple(map(_trial, plain["trials"]))})


def goal_count(error: float, examples: int) -> int:
    """The most of ``examples`` that may be wrong at an ``error``, in [0, 1]: goals are compared in whole examples.

    >>> goal_count(0.02, 6000)
    120
    """
    return round(error * examples)


def steps_to_result(cell: Cell) -> Trial | None:
    """The trial that met the goal in the fewest steps, of equals the lowest number; None where no trial met it."""
    return min(_complete(cell), key=lambda trial: (trial.steps, trial.number), default=None)


def outcomes(cell: Cell) -> Outcomes:
    """The numbers of complete, incomplete and infeasible trials; those of a raced cell say when it was stopped."""
    statuses = [trial.status for trial in cell.trials]
    return Outcomes(*(statuses.count(status) for status in ("complete", "incomplete", "infeasible")))


def by_curve(cells: Iterable[Cell]) -> dict[tuple[str, float], tuple[Cell, ...]]:
    """The cells of each curve over the batch size, by optimizer and sparsity, in the order of batch size and seed."""
    curves: dict[tuple[str, float], tuple[Cell, ...]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.optimizer, cell.sparsity, cell.batch_size, cell.seed)):
        key = (cell.optimizer, cell.sparsity)
        curves[key] = (*curves.get(key, ()), cell)
    return curves


def _complete(cell: Cell) -> list[Trial]:
    return [trial for trial in cell.trials if trial.status == "complete"]


def _trial(plain: Plain) -> Trial:
    curve = tuple(cast("tuple[int, int]", tuple(point)) for point in plain["curve"])
    return Trial(**plain | {"curve": curve})
