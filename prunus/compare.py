"""The main job: every method at every sparsity with every seed, at the same budget, and the report of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import yaml
from rich.console import Console

from prunus import ranks
from prunus.display import Display, label
from prunus.prepare import on_cpu
from prunus.recipes import Recipe
from prunus.report import print_table, write_report
from prunus.runs import CHECKPOINT_SECONDS, DIVERGED, Progress, Tell, train
from prunus.search import Lane, cells, choose, lanes, settled, try_
from prunus.storage import InUseError, alone, write_atomically
from prunus.tables import RecipeError
from prunus.timing import time_runs
from prunus.training import NonFiniteLossError
from prunus.workers import Hear, Job, work_off


class News(NamedTuple):
    """Of a unit in progress: how far it is, or, once it is done, what went wrong, empty for nothing."""

    name: str
    progress: Progress | None
    error: str = ""


@dataclass(frozen=True)
class Study:
    """Where a study's runs go and how they are trained; travels to its workers."""

    directory: Path
    workers: int
    checkpoint_every: float
    log: Sequence[str]
    storage: str | None

    def train(self, recipe: Recipe, folder: str, tell: Tell) -> dict[str, Any]:
        """The result of a run, trained now or before, here or, with a storage, by whoever holds it."""
        home = self.directory / folder
        while True:
            try:
                return train(recipe, home, tell, checkpoint_every=self.checkpoint_every, log=self.log)
            except InUseError:
                if self.storage is None:
                    raise

    def identity(self) -> str:
        """A name of the directory, by which a storage tells its studies apart."""
        path = self.directory / ".identity"
        own = path.with_name(f".identity-{token_hex(8)}")
        own.write_text(own.name)
        with suppress(FileExistsError):  # the first to come names it
            os.link(own, path)
        own.unlink()
        return path.read_text()


def compare(
    recipe: Recipe,
    directory: Path,
    console: Console,
    workers: int = 1,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    log: Sequence[str] = (),
    storage: str | None = None,
) -> tuple[Path | None, int]:
    """Train all runs of ``recipe`` under ``directory``, time them against dense, and report.

    Returns the report's path, None where every run failed, and the number of failed runs.

    Finished runs are taken as they are, others go on from their last checkpoint. ``workers`` processes train at once,
    each with its share of the cores. A run whose loss diverges is named and the others go on. With a ``storage`` that
    other machines reach, the same command on each of them works on the same study. Without one, InUseError is raised
    where another live process works in ``directory``.
    """
    if workers > 1 and ranks.world_size() > 1:
        raise RecipeError(f"--workers must be 1 under torchrun, whose ranks train each run together, got {workers}")
    directory.mkdir(parents=True, exist_ok=True)
    study = Study(directory, workers, checkpoint_every, log, storage)
    with alone(directory) if storage is None else nullcontext():
        if storage is None:
            _forget_tasks(directory)
        return _compare(recipe, study, console)


def default_workers(recipe: Recipe) -> int:
    """One process a core on a CPU, at most 8, because small networks gain nothing from threads; one on a GPU.

    One under torchrun too, whose ranks train each run together.
    """
    return min(8, os.cpu_count() or 1) if on_cpu(recipe) and ranks.world_size() == 1 else 1


def _compare(recipe: Recipe, study: Study, console: Console) -> tuple[Path | None, int]:
    runs = _settled(recipe, study, console)
    starts = _starts(runs)
    directory = study.directory
    write_atomically(directory / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    write_atomically(directory / "study.json", json.dumps({"runs": [run.name() for run in (*starts, *runs)]}))
    console.print(f"{len(starts) + len(runs)} runs on {recipe.data}, in {directory}")
    with Display(console, {run.name(): label(run) for run in (*starts, *runs)}) as display:
        failed = _all(starts, "runs", study, display)
        lost = [run for run in runs if (before := run.before()) and before.name() in failed]
        for run in lost:
            display.finished(run.name(), None, "the dense run that it begins from has failed")
        failed |= _all([run for run in runs if run not in lost], "runs", study, display)
    failed |= {run.name() for run in lost}
    finished = [run for run in runs if run.name() not in failed]
    if not finished:
        return None, len(failed)
    try:
        with alone(directory) if study.storage else nullcontext():
            with console.status("Timing") as status:
                time_runs(finished, directory / "timing.json", status.update)
            report = write_report(directory)
    except InUseError:
        console.print("Another process writes the report.")
        report = directory / "report.html"
    print_table(directory, console)
    return report, len(failed)


def _settled(recipe: Recipe, study: Study, console: Console) -> list[Recipe]:
    """The runs, with the settings that a search has chosen where the recipe asks for one."""
    if recipe.search is None:
        return list(recipe.runs())
    folder = study.directory / "search"
    planned = lanes(recipe, recipe.search)
    starts = _starts([run for lane in planned for run in lane.recipes()])
    count = len(cells(recipe, recipe.search))
    console.print(f"Search: {recipe.search.trainings} trainings for each of {count} methods at a sparsity")
    names = {lane.name(): f"search: {label(lane.recipes()[0])}" for lane in planned}
    with Display(console, names | {run.name(): label(run) for run in starts}) as display:
        lost = _all(starts, "search/runs", study, display)
        units = [(lane.name(), lane) for lane in planned]
        job = _job("search", units, partial(_search_one, study=study, lost=lost), study, names)
        work_off(job, study.workers, lambda news: _show_lane(news, folder, display))
    chosen = choose(planned, folder / "points")
    write_atomically(study.directory / "search.json", json.dumps(chosen, indent=1))
    return settled(recipe, recipe.search, chosen)


def _starts(runs: Sequence[Recipe]) -> list[Recipe]:
    """The dense runs that others begin from, each once."""
    return list({before.name(): before for run in runs if (before := run.before())}.values())


def _all(runs: Sequence[Recipe], folder: str, study: Study, display: Display) -> set[str]:
    """Train all runs; the names of those that failed."""
    units = [(run.name(), run) for run in runs]
    failed: dict[str, str] = {}

    def hear(news: News) -> None:
        if news.progress is not None:
            display.tell(news.name, news.progress)
            return
        failed.update({news.name: news.error} if news.error else {})
        display.finished(news.name, _result(study.directory / folder, news.name), news.error)

    job = _job(folder, units, partial(_train_one, study=study, folder=folder), study, display.labels)
    work_off(job, study.workers, hear)
    # those that another machine had
    missing = {name for name, _ in units if _result(study.directory / folder, name) is None}
    for name in sorted(missing - set(failed)):
        display.finished(name, None, "another machine has done it, and its result is not here; or it diverged there")
    return missing


def _job(
    name: str,
    units: Sequence[tuple[str, Any]],
    do: Callable[[str, Any, Hear], float | None],
    study: Study,
    words: Mapping[str, str],
) -> Job:
    named = dict(units)  # what two settings come to is done once
    digest = hashlib.sha256(json.dumps([study.identity(), *named]).encode()).hexdigest()[:8]
    storage = study.storage or study.directory / "tasks.journal"
    return Job(f"{name} {digest}", list(named.items()), do, storage, words)


def _forget_tasks(directory: Path) -> None:
    # alone here: what is done shows by the runs themselves, and the journal only keeps live workers apart
    (directory / "tasks.journal").unlink(missing_ok=True)
    shutil.rmtree(directory / "tasks.journal.locks", ignore_errors=True)


def _train_one(name: str, run: Recipe, hear: Hear, study: Study, folder: str) -> float | None:
    _refuse_change(run, name)
    try:
        result = study.train(run, folder, lambda progress: hear(News(name, progress)))
    except DIVERGED as error:
        hear(News(name, None, str(error)))
        return None
    hear(News(name, None))
    accuracy: float = result["validation"]["accuracy"]
    return accuracy


def _search_one(name: str, lane: Lane, hear: Hear, study: Study, lost: set[str]) -> float | None:
    _refuse_change(lane, name)

    def train_point(recipe: Recipe) -> Mapping[str, Any]:
        if (before := recipe.before()) and before.name() in lost:
            raise NonFiniteLossError("the dense run that it begins from has failed")
        return study.train(recipe, "search/runs", lambda progress: hear(News(name, progress)))

    accuracy = try_(lane, study.directory / "search" / "points", train_point)
    hear(News(name, None))
    return accuracy


def _show_lane(news: News, folder: Path, display: Display) -> None:
    if news.progress is not None:
        display.tell(news.name, news.progress)
    else:
        display.searched(news.name, json.loads((folder / "points" / f"{news.name}.json").read_text()))


def _result(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / name / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _refuse_change(run: Recipe | Lane, name: str) -> None:
    if run.name() != name:
        raise RecipeError(
            "a file that the recipe names (a plug-in, data, a start) must stay as it is while the study runs, and one "
            "has changed; give the same command again, which trains with the file as it is now"
        )
