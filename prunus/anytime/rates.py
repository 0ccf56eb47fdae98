"""The learning rates of a stage: how the recipe's schedule is laid over the megabatches."""

from functools import partial

from prunus.schedules import Constant, Schedule
from prunus.settings import Anytime
from prunus.tables import RecipeError


def rate_at(stream: Anytime, schedule: Schedule, number: int, planned: int) -> Schedule:
    """The schedule of megabatch ``number`` of ``planned``, over its own progress; ``schedule`` is the recipe's.

    ``cyclic``: the recipe's again for each. ``noncyclic``: the recipe's for the first, then its last rate. ``whole``:
    the recipe's once over all of them. The first two are those of Misra et al. 2022. Raises RecipeError where the rate
    that stays would be 0.
    """
    if stream.rates == "whole":
        return partial(_part, schedule, number, planned)
    if stream.rates == "cyclic" or planned == 1:
        return schedule
    last = schedule(1.0)
    if last <= 0.0:
        raise RecipeError(
            "anytime.rates=noncyclic keeps the learning rate that the first megabatch ends with, which is 0 here; take "
            "a schedule that ends above it, such as piecewise"
        )
    return schedule if number == 0 else Constant(last)


def _part(schedule: Schedule, number: int, planned: int, progress: float) -> float:
    return schedule(min(1.0, (number + progress) / planned))
