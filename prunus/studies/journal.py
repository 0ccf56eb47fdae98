"""A study in one file. Who is alive shows by locks, which the system frees when their process dies."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import Study
from optuna.trial import TrialState


class Journal:
    """A journal file, and beside it a directory of locks: on a local disk, or on a network's with locks that work."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.locks = path.resolve().with_name(f"{path.name}.locks")
        self.locks.mkdir(parents=True, exist_ok=True)
        self._claims = FileLock(self.locks / "claims.lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other processes from claiming, adding and failing trials."""
        with self._claims:
            yield

    @cached_property
    def storage(self) -> JournalStorage:
        """Where the trials are; to be made inside `alone`."""
        lock = AppendLock(self.path, self.locks / "append.lock")
        return JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))

    @contextmanager
    def presence(self, trial_id: int) -> Iterator[None]:
        """Show to other processes that the worker of a trial is alive."""
        path = self._lock_of(trial_id)
        try:
            with FileLock(path, blocking=False):
                yield
        finally:
            path.unlink(missing_ok=True)

    def fail_dead(self, study: Study) -> None:
        """Fail the running trials of ``study`` whose worker has died; to be called inside `alone`."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            path = self._lock_of(trial._trial_id)
            # a worker that ends its trial right now lets go of its lock as well
            with suppress(Timeout, UpdateFinishedTrialError), FileLock(path, blocking=False):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                path.unlink(missing_ok=True)

    def _lock_of(self, trial_id: int) -> Path:
        return self.locks / f"trial-{trial_id}.lock"


class AppendLock(JournalFileOpenLock):
    """Held to append to a journal. Optuna's own outlives a killed holder by 30 s, and keeps lines that were cut off."""

    def __init__(self, journal: Path, lock: Path) -> None:
        self._journal = journal
        self._lock = FileLock(lock)

    def acquire(self) -> bool:
        self._lock.acquire()
        self._drop_partial_line()
        return True

    def release(self) -> None:
        self._lock.release()

    def _drop_partial_line(self) -> None:
        # of a full disk or a power cut: the next line would be glued to it, and no process could read on
        with self._journal.open("rb+") as file:
            end = file.seek(0, 2)
            if not end:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
