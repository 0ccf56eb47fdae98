"""Another goal than the one that a study ran for, from the curves it stored."""

from dataclasses import replace

from prunus.scaling.trials import Cell, Status, Trial, steps_to_result


def at_goal(cell: Cell, goal: int) -> Cell | None:
    """The cell as it would be for ``goal`` wrong examples; None where the stored curves cannot tell its winner.

    They cannot where a trial that was stopped early might yet have met ``goal`` before any that did: all trials of a
    race that somebody won, otherwise those that met the cell's own goal. A cell whose `steps_to_result` is then None
    met ``goal`` in no trial within its budget.

    Of evaluations that were screened, a curve has only those that saw the full validation set. For a goal easier than
    the cell's own a trial may therefore have arrived earlier than is known: between ``before`` and ``steps``.
    """
    trials = tuple(_at_goal(trial, goal) for trial in cell.trials)
    won = cell.raced and steps_to_result(cell) is not None
    stopped = [old for old, new in zip(cell.trials, trials, strict=True) if _was_stopped(old, new, won=won)]
    again = replace(cell, goal=goal, trials=trials, raced=cell.raced or bool(stopped))
    winner = steps_to_result(again)
    if winner is None:
        return None if stopped else again
    return again if all(trial.steps >= winner.steps for trial in stopped) else None


def _at_goal(trial: Trial, goal: int) -> Trial:
    met = next((step for step, wrong in trial.curve if wrong <= goal), None)
    if met is None:
        status: Status = "incomplete" if trial.status == "complete" else trial.status
        return replace(trial, status=status)
    earlier = [step for step, _ in trial.curve] + [trial.before]
    before = max((step for step in earlier if step < met), default=0)
    curve = tuple(point for point in trial.curve if point[0] <= met)
    return replace(trial, status="complete", steps=met, before=before, curve=curve)


def _was_stopped(old: Trial, new: Trial, *, won: bool) -> bool:
    """Whether the trial might have met the new goal later, had it gone on; ``won`` says that the race was."""
    if new.status == "complete" or old.status == "infeasible":
        return False
    return won or old.status == "complete"
