"""Runs: one recipe trained in its own directory, named by the hash of the recipe.

A finished run is not run again; one that was killed goes on from its last checkpoint, bit for bit. Of several ranks the
first alone reads and writes the directory, and the others train with it.
"""

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from prunus import checkpoints, ranks
from prunus.allocation import CollapseWarning
from prunus.anytime.course import STAGES, Course
from prunus.anytime.result import result_of
from prunus.data import Data
from prunus.loggers import Log, loggers
from prunus.loop import Loop, Progress, Tell
from prunus.masks import Masks
from prunus.outcome import forget_peak_, outcome
from prunus.packing import save_packed
from prunus.prepare import prepare
from prunus.provenance import provenance
from prunus.ranking import NotANumberError
from prunus.recipes import Recipe
from prunus.start import WEIGHTS, save_masks
from prunus.storage import alone, write_atomically
from prunus.training import NonFiniteLossError

DIVERGED = (NonFiniteLossError, NotANumberError)  # by the loss, or by a ranking that met its NaN first
CHECKPOINT_SECONDS = 60.0


def train(
    recipe: Recipe,
    directory: Path,
    tell: Tell,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a run's recipe in ``directory / recipe.name()`` and return its result, or the one that is there already.

    A run that was killed goes on from its last checkpoint; one is written every ``checkpoint_every`` seconds. ``log``
    names loggers that get the lines of metrics too. Raises InUseError where another live process trains the same run.
    """
    home = directory / recipe.name()
    home.mkdir(parents=True, exist_ok=True)
    with alone(home):
        if not (home / "result.json").is_file():
            _train(recipe, home, tell, checkpoint_every, log)
        checkpoints.remove(home / "checkpoints")
        checkpoints.remove(home / STAGES)
    result: dict[str, Any] = json.loads((home / "result.json").read_text())
    return result


@contextmanager
def _threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # a resumed run takes as many as it began with


def _train(recipe: Recipe, home: Path, tell: Tell, checkpoint_every: float, log: Sequence[str]) -> None:
    for left in home.rglob("*.partial"):  # by a process that was killed while it wrote
        left.unlink()
    write_atomically(home / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    before = _dense_start(recipe, home.parent, tell, checkpoint_every, log)
    start = home.parent / before["run"] / WEIGHTS if before else None
    run = partial(_run, recipe, home, start)
    trained = ranks.together(run, partial(run, tell, checkpoint_every, log))
    result = trained.result | {"pretraining": before}
    origin = provenance(recipe, trained.data, result["realised_sparsity"])
    weights = home / WEIGHTS
    save_packed(weights, trained.model.state_dict(), metadata=origin.metadata())
    result["bytes_packed"] = weights.stat().st_size
    if trained.masks is not None:
        save_masks(home, trained.masks)
    write_atomically(home / "result.json", json.dumps(result, indent=1))


class Trained(NamedTuple):
    """A trained network, plain, its masks where it has any, and what came of the training."""

    data: Data
    model: nn.Module
    masks: Masks | None
    result: dict[str, Any]


def _silent(progress: Progress) -> None:
    """Nobody listens to the other ranks."""


def _run(
    recipe: Recipe,
    home: Path,
    start: Path | None,
    tell: Tell = _silent,
    checkpoint_every: float = math.inf,
    log: Sequence[str] = (),
) -> Trained:
    """The training, or all those of a stream, and what came of it, on every rank."""
    unsaid = warnings.catch_warnings(action="ignore", category=CollapseWarning)  # the result names collapsed layers
    path = home / "metrics.jsonl" if ranks.leads() else Path(os.devnull)
    with unsaid, _threads_kept(), path.open("a") as metrics, Log(loggers(log, home, recipe.name())) as also:
        also.hyperparameters(recipe.resolved())
        if recipe.anytime is not None:
            return _over_stream(Course(recipe, home, metrics, also, tell, checkpoint_every))
        prepared = prepare(recipe, start=start, watched=True)
        forget_peak_(prepared.device)
        loop = Loop(recipe, prepared, home / "checkpoints", metrics, also, tell, checkpoint_every)
        loop.resume_()
        loop.run_()
        masks = prepared.sparsifier.masks if prepared.sparsifier else None
        result = outcome(recipe, prepared, loop.seconds, loop.recalibration)
        return Trained(prepared.data, prepared.model, masks, result)


def _over_stream(course: Course) -> Trained:
    """All stages of a stream and what came of them."""
    forget_peak_(course.around.device)
    course.run_()
    result = result_of(course, course.final())
    return Trained(course.data, course.learner(), course.state.lefts[-1].masks, result)


def _dense_start(
    recipe: Recipe, directory: Path, tell: Tell, checkpoint_every: float, log: Sequence[str]
) -> dict[str, Any] | None:
    """The dense run that ``recipe`` begins from, trained beside it unless it is there already; None for none."""
    before = recipe.before()
    if before is None:
        return None
    result = train(before, directory, tell, checkpoint_every=checkpoint_every, log=log)
    return {"run": before.name()} | {key: result[key] for key in ("epochs", "steps", "train_seconds")}
