"""Working off the tasks of a study, in this process or in several, which take over from those of them that die."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from prunus.processes import cores, end_with_parent, portable
from prunus.studies import Tasks

Hear = Callable[[Any], None]
Lost = Callable[[str, float | None], bool]  # a unit's name and the value of its task -> whether what it left is gone


@dataclass(frozen=True)
class Job:
    """Tasks of one kind: the ``units`` to be done, by their names, and what doing one means.

    ``do`` gets a unit and a function that tells the study of its progress, and returns the task's value, None where it
    failed for a reason of its own. All of it travels to other processes. ``storage`` is that of `Tasks`, ``words`` say
    what each unit is.
    """

    name: str
    units: Sequence[tuple[str, Any]]
    do: Callable[[str, Any, Hear], float | None]
    storage: str | Path
    words: Mapping[str, str]

    def tasks(self) -> Tasks:
        """The tasks, which other processes may be at work on."""
        names = [name for name, _ in self.units]
        labels = [{"run": name, "what": self.words[name]} for name in names]
        return Tasks.open(self.storage, self.name, len(names), labels=lambda number: labels[number])

    def work(self, hear: Hear) -> None:
        """Do what is left, one unit after the other."""
        self.tasks().work(lambda number: self.do(*self.units[number], hear))


@dataclass(frozen=True)
class _Failure:
    """The error that ended a worker."""

    error: Exception


def work_off(job: Job, workers: int, hear: Hear, lost: Lost) -> None:
    """Do all units of ``job`` in ``workers`` processes, each with its share of the cores; ``hear`` gets their news.

    Units that were done before are done again where they are ``lost``, in a storage that remembers more than their
    directory. The unit of a worker that is killed is done by another. Raises the error of a worker that met one, and
    ChildProcessError where all were killed.
    """
    if not job.units:
        return
    tasks = job.tasks()  # made before the workers look for them
    tasks.redo(lambda number, value: lost(job.units[number][0], value))
    if workers == 1:
        job.work(hear)
        return
    with _processes(job, workers) as running:
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                _listen(connection, running, hear)
    if tasks.left():
        raise ChildProcessError(
            "a worker must live until its runs are done, and all were killed, perhaps for memory; give the same "
            "command again, with fewer --workers if memory was short: each run goes on from its last checkpoint"
        )


def _listen(connection: Connection, running: dict[Connection, BaseProcess], hear: Hear) -> None:
    try:
        news = connection.recv()
    except (EOFError, OSError):  # the worker has ended, or was killed
        running.pop(connection).join()
        return
    if isinstance(news, _Failure):
        raise news.error
    hear(news)


@contextmanager
def _processes(job: Job, workers: int) -> Iterator[dict[Connection, BaseProcess]]:
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, cores() // workers)
    running: dict[Connection, BaseProcess] = {}
    processes = []
    try:
        with _deaf_to_interrupts():  # which the workers inherit: the study hears them, and ends its workers
            for _ in range(workers):
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_work, args=(job, threads, theirs))
                process.start()
                theirs.close()
                running[ours] = process
                processes.append(process)
        yield running
    finally:
        for process in processes:
            process.terminate()  # runs in progress go on from their checkpoints when the study is resumed
            process.join()


def _work(job: Job, threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        job.work(connection.send)
    except Exception as error:
        connection.send(_Failure(portable(error)))
        sys.exit(1)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may say so, and alone is interrupted
        yield
        return
    hearing = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, hearing)
