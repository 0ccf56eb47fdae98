"""Runs: one recipe trained in its own directory, named by the hash of the recipe.

A finished run is not run again; one that was killed goes on from its last checkpoint, bit for bit. Of several ranks the
first alone reads and writes the directory, and the others train with it.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
import yaml

from prunus import checkpoints, ranks
from prunus.allocation import CollapseWarning
from prunus.distributed import assert_ranks_agree
from prunus.loggers import Log, loggers
from prunus.outcome import forget_peak_, outcome
from prunus.packing import save_packed
from prunus.prepare import Prepared, prepare
from prunus.provenance import provenance
from prunus.ranking import NotANumberError
from prunus.recipes import Recipe
from prunus.start import WEIGHTS, save_masks
from prunus.storage import alone, write_atomically
from prunus.training import NonFiniteLossError, Step

DIVERGED = (NonFiniteLossError, NotANumberError)  # by the loss, or by a ranking that met its NaN first
CHECKPOINT_SECONDS = 60.0
COUNTS = 200  # of operations in a run at most, but for those at its evaluations
CHECKPOINT_SHARE = 0.05  # of the time at most, however large the network


class Progress(NamedTuple):
    """How far a run is: steps taken, steps in all, last validation accuracy (NaN before the first), and a note."""

    step: int
    steps: int
    accuracy: float
    note: str = ""


Tell = Callable[[Progress], None]


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
    prepared, result = ranks.together(run, partial(run, tell, checkpoint_every, log))
    result |= {"pretraining": before}
    origin = provenance(recipe, prepared.data, result["realised_sparsity"])
    weights = home / WEIGHTS
    save_packed(weights, prepared.model.state_dict(), metadata=origin.metadata())
    result["bytes_packed"] = weights.stat().st_size
    if prepared.sparsifier is not None:
        save_masks(home, prepared.sparsifier.masks)
    write_atomically(home / "result.json", json.dumps(result, indent=1))


def _silent(progress: Progress) -> None:
    """Nobody listens to the other ranks."""


def _run(
    recipe: Recipe,
    home: Path,
    start: Path | None,
    tell: Tell = _silent,
    checkpoint_every: float = math.inf,
    log: Sequence[str] = (),
) -> tuple[Prepared, dict[str, Any]]:
    """The training and what came of it, on every rank."""
    unsaid = warnings.catch_warnings(action="ignore", category=CollapseWarning)  # the result names collapsed layers
    path = home / "metrics.jsonl" if ranks.leads() else Path(os.devnull)
    with unsaid, _threads_kept():
        prepared = prepare(recipe, start=start, watched=True)
        forget_peak_(prepared.device)
        with path.open("a") as metrics, Log(loggers(log, home, recipe.name())) as also:
            also.hyperparameters(recipe.resolved())
            loop = Loop(recipe, prepared, home / "checkpoints", metrics, also, tell, checkpoint_every)
            loop.resume_()
            loop.run_()
        return prepared, outcome(recipe, prepared, loop.seconds, loop.recalibration)


def _dense_start(
    recipe: Recipe, directory: Path, tell: Tell, checkpoint_every: float, log: Sequence[str]
) -> dict[str, Any] | None:
    """The dense run that ``recipe`` begins from, trained beside it unless it is there already; None for none."""
    before = recipe.before()
    if before is None:
        return None
    result = train(before, directory, tell, checkpoint_every=checkpoint_every, log=log)
    return {"run": before.name()} | {key: result[key] for key in ("epochs", "steps", "train_seconds")}


@dataclass
class Loop:
    """The steps of a run between which it is evaluated, logged and checkpointed."""

    recipe: Recipe
    prepared: Prepared
    folder: Path
    metrics: TextIO
    log: Log
    tell: Tell
    checkpoint_every: float
    seconds: float = 0.0  # of training alone
    accuracy: float = float("nan")
    recalibration: dict[str, float] | None = None
    counted: int = 0  # changes of the masks that the operations know of
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self.checkpoint_every

    def resume_(self) -> None:
        """Go on from the last checkpoint, if there is one; lines logged after it are logged again."""
        state = ranks.broadcast(self._last() if ranks.leads() else None)
        if state is not None:
            checkpoints.restore_(self.prepared, state)
            self.seconds, self.accuracy = state["seconds"], state["accuracy"]
            self.prepared.operations = replace(self.prepared.operations, **state["operations"])
            self.counted = self._changes() - state["uncounted"]
            self._note(f"resumed after step {self.prepared.training.taken}")

    def _last(self) -> dict[str, Any] | None:
        state = checkpoints.load(self.folder, self._note)
        if state is not None and state["logged"] > os.fstat(self.metrics.fileno()).st_size:
            self._note("metrics.jsonl is shorter than the checkpoint says; beginning anew")
            state = None
        self.metrics.truncate(state["logged"] if state else 0)
        return state

    def run_(self) -> None:
        """All steps that are left."""
        training = self.prepared.training
        interval = max(1, training.steps // self.recipe.evaluations)
        if training.taken == 0:
            self._count(0)
        began = time.perf_counter()
        for step in training:
            self._follow(step.number)
            evaluated = step.number % interval == 0 or step.number == training.steps
            due = time.monotonic() >= self._due and step.number < training.steps
            if not evaluated and not due:
                continue
            loss = ranks.mean(step.loss) if evaluated else step.loss  # the other ranks know of no checkpoint
            loss_value = loss.item()  # waits for the device, so that the clock stops after the work
            self.seconds += time.perf_counter() - began
            if evaluated:
                self._evaluate(step, loss_value)
            if due:
                self._checkpoint(step.number)
            began = time.perf_counter()

    def _evaluate(self, step: Step, loss: float) -> None:
        sparsifier = self.prepared.sparsifier
        self._count(step.number)
        if step.number == self.prepared.training.steps:
            if sparsifier is not None:
                sparsifier.finalize()
            self._recalibrate()
        if sparsifier is not None and ranks.world_size() > 1:
            assert_ranks_agree(sparsifier.masks)
        quality = self.prepared.quality(self.prepared.validation)
        self.accuracy = quality.accuracy
        line = {
            "step": step.number,
            "epoch": step.number / self.prepared.epoch_steps,
            "loss": loss,
            "learning_rate": step.learning_rate,
            "sparsity": sparsifier.sparsity() if sparsifier else 0.0,
            "accuracy": self.accuracy,
            "nll": quality.nll,
        }
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        self.log(line, step.number)
        self._note("")

    def _follow(self, number: int) -> None:
        """Count operations where masks have changed, now and then where they change all the time."""
        stride = self.prepared.training.steps // COUNTS
        if self._changes() > self.counted and number - self.prepared.operations.steps >= stride:
            self._count(number)

    def _count(self, number: int) -> None:
        sparsifier, changes = self.prepared.sparsifier, self._changes()
        masks = sparsifier.masks if sparsifier else {}
        self.prepared.operations.count_(masks, number, jumped=changes == self.counted + 1)
        self.counted = changes

    def _changes(self) -> int:
        return self.prepared.sparsifier.changes if self.prepared.sparsifier else 0

    def _recalibrate(self) -> None:
        watch = self.prepared.watch
        if watch.recalibrate:
            self.recalibration = {"batches": watch.recalibrate} | watch.measured("before")
            watch.recalibrate_()
            self.recalibration |= watch.measured("after")

    def _checkpoint(self, number: int) -> None:
        began = time.monotonic()
        os.fsync(self.metrics.fileno())  # what the checkpoint says was logged must be there
        state = checkpoints.snapshot(self.prepared)
        state |= {"logged": os.fstat(self.metrics.fileno()).st_size, "seconds": self.seconds, "accuracy": self.accuracy}
        state["operations"] = self.prepared.operations.state_dict()
        state["uncounted"] = self._changes() - self.counted
        checkpoints.save(self.folder, number, state)
        now = time.monotonic()
        self._due = now + max(self.checkpoint_every, (now - began) / CHECKPOINT_SHARE if self.checkpoint_every else 0.0)

    def _note(self, text: str) -> None:
        training = self.prepared.training
        self.tell(Progress(training.taken, training.steps, self.accuracy, text))
