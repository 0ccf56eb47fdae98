"""A study of steps to a result: every method, sparsity and optimizer at every batch size, cell by cell."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from prunus import ranks
from prunus.display import Display
from prunus.loop import Tell
from prunus.materials import load_data, split_of
from prunus.racing.cell import Race, measure
from prunus.racing.cells import cells_of, label
from prunus.recipes import Recipe
from prunus.runs import CHECKPOINT_SECONDS
from prunus.scaling.records import CELLS, RECORD, SIGNALS, STUDY
from prunus.scaling.trials import of_plain, steps_to_result
from prunus.storage import InUseError, alone, write_atomically
from prunus.study import News, Study, refuse_change
from prunus.tables import RecipeError
from prunus.workers import Hear, work_off


def run_study(
    recipe: Recipe,
    directory: Path,
    console: Console,
    workers: int = 1,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    storage: str | None = None,
) -> list[dict[str, Any]]:
    """Measure all cells of ``recipe`` under ``directory``; their records, in the order of the recipe.

    Cells that are done are taken as they are, others go on from their last checkpoint. ``workers`` processes measure at
    once; with a ``storage`` that other machines reach, the same command on each of them works on the same study.
    """
    if ranks.world_size() > 1:
        raise RecipeError("scaling trains each trial in one process, not under torchrun; leave it out, give --workers")
    cells = cells_of(recipe)
    _check_sizes(recipe)
    directory.mkdir(parents=True, exist_ok=True)
    study = Study(directory, workers, checkpoint_every, (), storage)
    with alone(directory) if storage is None else nullcontext():
        if storage is None:
            study.forget_tasks_()
        write_atomically(directory / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
        labels = {cell.name(): label(cell) for cell in cells}
        write_atomically(directory / STUDY, json.dumps({"cells": list(labels)}))
        console.print(f"{len(cells)} cells on {recipe.data}, in {directory}", soft_wrap=True)
        with Display(console, labels) as display:
            job = study.job(
                "cells", [(cell.name(), cell) for cell in cells], partial(_measure_one, study=study), labels
            )
            work_off(job, workers, partial(_show, study=study, display=display), partial(_is_lost, study))
        return [json.loads(_record(study, cell.name()).read_text()) for cell in cells]


def as_published(recipe: Recipe) -> Recipe:
    """The study by the protocol of Lee et al. 2021."""
    if recipe.scaling is None:
        return recipe
    return recipe.model_copy(update={"scaling": recipe.scaling.as_published()})


def _check_sizes(recipe: Recipe) -> None:
    """Raises RecipeError for a batch of more images than there are."""
    assert recipe.scaling is not None
    train, _ = split_of(recipe, load_data(recipe))
    if (largest := max(recipe.scaling.batch_sizes)) > len(train):
        raise RecipeError(f"scaling: a batch must not be larger than the {len(train)} training images, got {largest}")


def _record(study: Study, name: str) -> Path:
    return study.directory / CELLS / name / RECORD


def _measure_one(name: str, cell: Recipe, hear: Hear, study: Study) -> float | None:
    refuse_change(cell, name)
    while not _record(study, name).is_file():
        try:
            _measure(name, cell, hear, study)
        except InUseError:  # in a directory that machines share, whoever holds it measures it
            if study.storage is None:
                raise
    hear(News(name, None))
    winner = steps_to_result(of_plain(json.loads(_record(study, name).read_text())["cell"]))
    return None if winner is None else float(winner.steps)


def _measure(name: str, cell: Recipe, hear: Hear, study: Study) -> None:
    home = study.directory / CELLS / name
    home.mkdir(parents=True, exist_ok=True)
    tell: Tell = lambda progress: hear(News(name, progress))  # noqa: E731
    with alone(home):
        if not _record(study, name).is_file():
            race = Race(cell, home, study.directory / SIGNALS, tell, study.checkpoint_every)
            write_atomically(_record(study, name), json.dumps(measure(race)))


def _is_lost(study: Study, name: str, value: float | None) -> bool:
    return not _record(study, name).is_file()


def _show(news: News, study: Study, display: Display) -> None:
    if news.progress is not None:
        display.tell(news.name, news.progress)
        return
    record = json.loads(_record(study, news.name).read_text())
    found = [steps_to_result(of_plain(one)) for one in (record["cell"], *record["repeats"])]
    if found[0] is None:
        display.ended(news.name, "goal not met")
        return
    best = ", ".join(f"{name} {value:.4g}" for name, value in found[0].metaparameters.items())
    again = [str(one.steps) if one else "not met" for one in found[1:]]
    display.ended(news.name, f"{found[0].steps} steps ({best})" + f"; again {', '.join(again)}" * bool(again))
