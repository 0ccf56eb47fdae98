"""The main job: every method at every sparsity with every seed, at the same budget, and the report of it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from prunus import ranks
from prunus.display import Display, label
from prunus.materials import on_cpu
from prunus.processes import cores
from prunus.recipes import Recipe
from prunus.report import print_table, write_report
from prunus.runs import CHECKPOINT_SECONDS
from prunus.search import Lane, cells, choose, lanes, settled, try_
from prunus.storage import InUseError, alone, write_atomically
from prunus.study import News, Study, refuse_change
from prunus.tables import RecipeError
from prunus.timing import time_runs
from prunus.training import NonFiniteLossError
from prunus.workers import Hear, work_off


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
    if recipe.learn is not None:
        raise RecipeError("a recipe with the key learn is for prunus learn, which compares in the end; or learn=null")
    if recipe.scaling is not None:
        raise RecipeError("a recipe with the key scaling is for prunus scaling run; or scaling=null")
    if workers > 1 and ranks.world_size() > 1:
        raise RecipeError(f"--workers must be 1 under torchrun, whose ranks train each run together, got {workers}")
    if storage is not None and ranks.world_size() > 1:
        raise RecipeError("--storage is for machines that train runs of their own; under torchrun leave it out")
    directory.mkdir(parents=True, exist_ok=True)
    study = Study(directory, workers, checkpoint_every, log, storage)
    with alone(directory) if storage is None else nullcontext():
        if storage is None:
            study.forget_tasks_()
        return _compare(recipe, study, console)


def default_workers(recipe: Recipe) -> int:
    """One process a core on a CPU, at most 8, because small networks gain nothing from threads; one on a GPU.

    One under torchrun too, whose ranks train each run together.
    """
    return min(8, cores()) if on_cpu(recipe) and ranks.world_size() == 1 else 1


def _compare(recipe: Recipe, study: Study, console: Console) -> tuple[Path | None, int]:
    runs = _settled(recipe, study, console)
    starts = _starts(runs)
    directory = study.directory
    write_atomically(directory / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    write_atomically(directory / "study.json", json.dumps({"runs": [run.name() for run in (*starts, *runs)]}))
    console.print(f"{len(starts) + len(runs)} runs on {recipe.data}, in {directory}")
    with Display(console, {run.name(): label(run) for run in (*starts, *runs)}) as display:
        failed = study.train_all(starts, "runs", display)
        lost = [run for run in runs if (before := run.before()) and before.name() in failed]
        for run in lost:
            display.finished(run.name(), None, "the dense run that it begins from has failed")
        failed |= study.train_all([run for run in runs if run not in lost], "runs", display)
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
        (study.directory / "search.json").unlink(missing_ok=True)  # of a recipe before, whose choices are not these
        return list(recipe.runs())
    folder = study.directory / "search"
    planned = lanes(recipe, recipe.search)
    starts = _starts([run for lane in planned for run in lane.recipes()])
    count = len(cells(recipe, recipe.search))
    console.print(f"Search: {recipe.search.trainings} trainings for each of {count} methods at a sparsity")
    names = {lane.name(): f"search: {label(lane.recipes()[0])}" for lane in planned}
    with Display(console, names | {run.name(): label(run) for run in starts}) as display:
        lost = study.train_all(starts, "search/runs", display)
        units = [(lane.name(), lane) for lane in planned]
        job = study.job("search", units, partial(_search_one, study=study, lost=lost), names)
        show = partial(_show_lane, folder=folder, display=display)
        work_off(job, study.workers, show, lambda name, value: not (folder / "points" / f"{name}.json").is_file())
    chosen = choose(planned, folder / "points")
    write_atomically(study.directory / "search.json", json.dumps(chosen, indent=1))
    return settled(recipe, recipe.search, chosen)


def _starts(runs: Sequence[Recipe]) -> list[Recipe]:
    """The dense runs that others begin from, each once."""
    return list({before.name(): before for run in runs if (before := run.before())}.values())


def _search_one(name: str, lane: Lane, hear: Hear, study: Study, lost: set[str]) -> float | None:
    refuse_change(lane, name)

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
