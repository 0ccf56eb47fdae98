"""Numbered tasks, worked off by any number of processes on any number of machines, held in an Optuna study."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import optuna
from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from prunus.studies.journal import Journal

Label = str | int | float
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 4.0  # seconds between looks at what the others do


class Place(Protocol):
    """Where a study is kept, and how its workers see each other."""

    @property
    def storage(self) -> BaseStorage: ...
    def alone(self) -> AbstractContextManager[None]: ...
    def presence(self, trial_id: int) -> AbstractContextManager[None]: ...
    def fail_dead(self, study: optuna.Study) -> None: ...


@dataclass(frozen=True)
class Tasks:
    """The numbers from 0 to ``count`` - 1, each to be worked off once.

    A trial of the study is one attempt at a task, whose number is its parameter. Its state is COMPLETE with a value,
    PRUNED where the task failed for a reason of its own, and FAIL where the attempt does not count: its worker died,
    and the task has another trial.

    ```python
    tasks = Tasks.open("study.journal", "squares", 3)
    tasks.work(lambda number: number**2)
    assert tasks.values() == {0: 0.0, 1: 1.0, 2: 4.0}
    ```
    """

    study: optuna.Study
    count: int
    place: Place
    labels: Callable[[int], Mapping[str, Label]]

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str,
        count: int,
        *,
        labels: Callable[[int], Mapping[str, Label]] = lambda number: {},
        direction: Literal["maximize", "minimize"] = "maximize",
        heartbeat: int = 60,
    ) -> "Tasks":
        """The tasks of the study ``name``, created where it does not exist.

        ``storage`` is the path of a journal file, or the address of a PostgreSQL database, where a worker is taken for
        dead when it has not been heard for twice ``heartbeat`` seconds. ``labels`` of a number become user attributes
        of its trials; Optuna's best trial follows from ``direction``. Raises ValueError where the study has another
        count, and ConnectionError where the database does not answer.
        """
        place = _place(storage, heartbeat)
        with place.alone(), quiet():
            study = optuna.create_study(
                storage=place.storage, study_name=name, direction=direction, load_if_exists=True
            )
            known = study.user_attrs.get("tasks", count)
            if known != count:
                raise ValueError(
                    f"study {name!r} must have the {count} tasks asked for, and in {storage} it has {known}; give the "
                    "command it was begun with, another name, or another storage"
                )
            study.set_user_attr("tasks", count)
            tasks = cls(study, count, place, labels)
            tasks._mend()
        return tasks

    def work(self, do: Callable[[int], float | None]) -> None:
        """Claim one task at a time and tell the value of ``do(number)``, until all tasks are done.

        None and NaN say that the task failed for a reason of its own, such as divergence: it is not run again. An
        exception leaves the task to others, or to the next call, and is raised. Where nothing waits but others work,
        it waits for them, and takes over from those that die.
        """
        wait = SHORTEST_WAIT
        while self.left():
            with ExitStack() as presence:
                trial = self._claim(presence)
                if trial is not None:
                    self._run(trial, do)
                    wait = SHORTEST_WAIT
            if trial is None:
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    def values(self) -> dict[int, float | None]:
        """The value of each task that is done, by its number; None where it failed for a reason of its own."""
        return {_number(trial): trial.value for trial in self._trials(*DONE)}

    def left(self) -> int:
        """How many tasks are not done."""
        return self.count - len(self.values())

    def _claim(self, presence: ExitStack) -> FrozenTrial | None:
        with self.place.alone():
            self._mend()
            waiting = self._trials(TrialState.WAITING)
            if not waiting:
                return None
            trial_id = waiting[0]._trial_id
            # before the trial runs: what runs and shows no presence is dead
            presence.enter_context(self.place.presence(trial_id))
            self.place.storage.set_trial_user_attr(trial_id, "worker", f"{platform.node()}:{os.getpid()}")
            claimed = self.place.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            return waiting[0] if claimed else None

    def _mend(self) -> None:
        """Fail what the dead left running, and let each number wait that has no trial, whoever was killed when."""
        self.place.fail_dead(self.study)
        known = {_number(trial) for trial in self._trials(TrialState.WAITING, TrialState.RUNNING, *DONE)}
        for number in sorted(set(range(self.count)) - known):
            self.study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    params={"task": number},
                    distributions={"task": IntDistribution(0, self.count - 1)},
                    user_attrs=dict(self.labels(number)),
                )
            )

    def _run(self, trial: FrozenTrial, do: Callable[[int], float | None]) -> None:
        try:
            value = do(_number(trial))
        except BaseException:
            self._end(trial, TrialState.FAIL)
            raise
        if value is None or math.isnan(value):
            self._end(trial, TrialState.PRUNED)
        else:
            self._end(trial, TrialState.COMPLETE, float(value))

    def _end(self, trial: FrozenTrial, state: TrialState, *values: float) -> None:
        # unheard for too long, this worker may have been taken for dead: the value is then another's to tell
        with suppress(UpdateFinishedTrialError):
            self.place.storage.set_trial_state_values(trial._trial_id, state, values or None)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)


def _place(storage: str | Path, heartbeat: int) -> Place:
    url = str(storage)
    if "://" not in url:
        return Journal(Path(storage))
    from prunus.studies.postgresql import PostgreSQL  # which loads SQLAlchemy

    return PostgreSQL(url, heartbeat)


def _number(trial: FrozenTrial) -> int:
    return int(trial.params["task"])


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna prints a line for each study it opens."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
