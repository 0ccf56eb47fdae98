"""A study in a PostgreSQL database. Who is alive shows by a heartbeat, for another machine's locks cannot be seen."""

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

LOCK = int.from_bytes(b"prunus")  # of all studies in a database, because the first creates the tables


class PostgreSQL:
    """A database named by a URL; a worker is taken for dead after two heartbeats, in seconds, that did not come."""

    def __init__(self, url: str, heartbeat: int) -> None:
        self.url = url
        self.heartbeat = heartbeat
        self._engine = _engine(url)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other processes from claiming, adding and failing trials."""
        try:
            connection = self._engine.connect()
        except OperationalError as error:
            raise ConnectionError(
                f"--storage must be a PostgreSQL server that answers, and {self._engine.url} does not: "
                f"{str(error.orig).splitlines()[0]}; start it, create the database, or mend the address"
            ) from None
        with connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            yield

    @cached_property
    def storage(self) -> RDBStorage:
        """Where the trials are; to be made inside `alone`, for two that create the tables at once would fail."""
        # one connection is kept, and tried before use: workers are many, train for hours, and the idle get cut off
        kept = {"pool_size": 1, "pool_pre_ping": True}
        with _experiments():
            storage = RDBStorage(self.url, engine_kwargs=kept, heartbeat_interval=self.heartbeat)
        weakref.finalize(self, storage.engine.dispose)
        return storage

    @contextmanager
    def presence(self, trial_id: int) -> Iterator[None]:
        """Show to other processes that the worker of a trial is alive."""
        self.storage.record_heartbeat(trial_id)
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(trial_id, over), daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()

    def _beat(self, trial_id: int, over: threading.Event) -> None:
        while not over.wait(self.heartbeat):
            with suppress(StorageInternalError):  # a server that restarts must not end the beating
                self.storage.record_heartbeat(trial_id)

    def fail_dead(self, study: Study) -> None:
        """Fail the running trials of ``study`` whose worker has died; to be called inside `alone`."""
        with _experiments():
            fail_stale_trials(study)


@contextmanager
def _experiments() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's name for its heartbeat since 2020
        yield


def _engine(url: str) -> Engine:
    if not url.startswith("postgresql"):
        raise ValueError(
            f"--storage must be the path of a journal file or a postgresql+psycopg:// address, got {url}; "
            "one file serves all processes of a machine"
        )
    try:
        return create_engine(url, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{url} needs {error.name}; pip install 'prunus[postgres]'") from None
