"""What the schedule of RP-RR and MP-RR may be, and the plan that it stands for."""

from collections.abc import Mapping

from prunus.learned_schedule import LearnedSchedule
from prunus.plans import ByLayer, Even, Plan
from prunus.schedules import Schedule, handmade

FILES = (".json", ".csv")
Planned = str | Schedule | Mapping[str, str | Schedule] | LearnedSchedule


def plan_of(schedule: Planned, sparsity: float) -> Plan:
    """The plan of counts by layer that ``schedule`` stands for.

    A schedule of sparsities serves every layer; a name is a `handmade` family towards ``sparsity``, or the file of a
    learned schedule; a mapping holds schedules or names by globs over layers.
    """
    if isinstance(schedule, LearnedSchedule):
        return schedule
    if isinstance(schedule, Mapping):
        return ByLayer({glob: _of_sparsities(one, sparsity) for glob, one in schedule.items()})
    if isinstance(schedule, str) and schedule.endswith(FILES):
        return LearnedSchedule.read(schedule)
    return Even(_of_sparsities(schedule, sparsity))


def _of_sparsities(schedule: str | Schedule, sparsity: float) -> Schedule:
    return handmade(schedule, sparsity) if isinstance(schedule, str) else schedule
