"""The main job: every method at every sparsity with every seed, at the same budget, and the report of it."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import yaml
from rich.console import Console

from prunus.display import Display
from prunus.prepare import on_cpu
from prunus.recipes import Recipe, parse
from prunus.report import print_table, write_report
from prunus.runs import CHECKPOINT_SECONDS, DIVERGED, Progress, train
from prunus.storage import alone, write_atomically
from prunus.tables import RecipeError
from prunus.timing import time_runs

Tell = Callable[[str, Progress], None]
_news: "Queue[tuple[str, Progress]]"  # a worker's: the pool can hand a queue over at its start alone


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its result, or what went wrong."""

    recipe: Recipe
    result: dict[str, Any] | None
    error: str = ""


One = Callable[[Recipe, Callable[[Progress], None]], Outcome]  # trains a run, telling of its progress


def compare(
    recipe: Recipe,
    directory: Path,
    console: Console,
    workers: int = 1,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    log: Sequence[str] = (),
) -> tuple[Path | None, int]:
    """Train all runs of ``recipe`` under ``directory``, time them against dense, and report.

    Returns the report's path, None where every run failed, and the number of failed runs.

    Finished runs are taken as they are, others go on from their last checkpoint. ``workers`` processes train at once,
    each with its share of the cores; the arguments after it are those of `runs.train`. A run whose loss diverges is
    named and the others go on. Raises InUseError where another live process works in ``directory``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    one = partial(_one, directory=directory / "runs", checkpoint_every=checkpoint_every, log=log)
    with alone(directory):
        return _compare(recipe, directory, console, workers, one)


def _compare(recipe: Recipe, directory: Path, console: Console, workers: int, one: One) -> tuple[Path | None, int]:
    runs = list(recipe.runs())
    starts = list({before.name(): before for run in runs if (before := run.before())}.values())
    write_atomically(directory / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    write_atomically(directory / "study.json", json.dumps({"runs": [run.name() for run in (*starts, *runs)]}))
    console.print(f"{len(starts) + len(runs)} runs on {recipe.data}, in {directory}")
    failed: set[str] = set()
    with Display(console, [*starts, *runs]) as display:
        for stage in (starts, runs):  # those that others begin from come first
            for outcome in _all(_possible(stage, failed, display), workers, display.tell, one):
                display.finished(outcome.recipe, outcome.result, outcome.error)
                failed |= set() if outcome.result else {outcome.recipe.name()}
    if failed.issuperset(run.name() for run in runs):
        return None, len(failed)
    with console.status("Timing") as status:
        time_runs([run for run in runs if run.name() not in failed], directory / "timing.json", status.update)
    report = write_report(directory)
    print_table(directory, console)
    return report, len(failed)


def _possible(runs: list[Recipe], failed: set[str], display: Display) -> list[Recipe]:
    """The runs whose dense start has not failed; the others are said to fail with it."""
    lost = [run for run in runs if (before := run.before()) and before.name() in failed]
    for run in lost:
        failed.add(run.name())
        display.finished(run, None, "the dense run that it begins from has failed")
    return [run for run in runs if run.name() not in failed]


def default_workers(recipe: Recipe) -> int:
    """One process a core on a CPU, at most 8, because small networks gain nothing from threads; one on a GPU."""
    return min(8, os.cpu_count() or 1) if on_cpu(recipe) else 1


def _all(runs: list[Recipe], workers: int, tell: Tell, one: One) -> Iterator[Outcome]:
    if workers == 1:
        for run, name in [(run, run.name()) for run in runs]:
            _refuse_change(run, name)
            yield one(run, partial(tell, name))
        return
    if not runs:
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    news: Queue[tuple[str, Progress]] = spawn.Queue()
    with _pool(workers, spawn, news) as pool, _survivors():
        with _deaf_to_interrupts():  # which the workers inherit: the study hears them, and ends its workers
            waiting = {pool.submit(_remote, run.model_dump(mode="json"), run.name(), one) for run in runs}
        while waiting:
            done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            _pass_on(news, tell)
            yield from (future.result() for future in done)


@contextmanager
def _pool(workers: int, spawn: Any, news: "Queue[tuple[str, Progress]]") -> Iterator[ProcessPoolExecutor]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin_worker, initargs=(threads, news))
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # runs in progress go on from their checkpoints when the study is resumed
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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


@contextmanager
def _survivors() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker must live until its runs are done, and one was killed, perhaps for memory; give the same command "
            "again, with fewer --workers if memory was short: each run goes on from its last checkpoint"
        ) from None


def _begin_worker(threads: int, news: "Queue[tuple[str, Progress]]") -> None:
    global _news
    _news = news
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_study, daemon=True).start()


def _end_with_study() -> None:
    # a worker must not go on writing beside the study that follows a killed one
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()
    os._exit(1)


def _remote(values: dict[str, Any], name: str, one: One) -> Outcome:
    run = parse(values)
    _refuse_change(run, name)
    return one(run, lambda progress: _news.put((name, progress)))


def _refuse_change(run: Recipe, name: str) -> None:
    if run.name() != name:
        raise RecipeError(
            "a file that the recipe names (a plug-in, data, a start) must stay as it is while the study runs, and one "
            "has changed; give the same command again, which trains with the file as it is now"
        )


def _one(
    run: Recipe, tell: Callable[[Progress], None], directory: Path, checkpoint_every: float, log: Sequence[str]
) -> Outcome:
    try:
        return Outcome(run, train(run, directory, tell, checkpoint_every=checkpoint_every, log=log))
    except DIVERGED as error:
        return Outcome(run, None, str(error))


def _pass_on(news: "Queue[tuple[str, Progress]]", tell: Tell) -> None:
    while True:
        try:
            tell(*news.get_nowait())
        except Empty:
            return
