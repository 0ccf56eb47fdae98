"""The steps of a training between which it is evaluated, logged and checkpointed."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from prunus import checkpoints, ranks
from prunus.distributed import assert_ranks_agree
from prunus.loggers import Log
from prunus.prepare import Prepared
from prunus.recipes import Recipe
from prunus.training import Step

COUNTS = 200  # of operations in a run at most, but for those at its evaluations
CHECKPOINT_SHARE = 0.05  # of the time at most, however large the network


class Progress(NamedTuple):
    """How far a run is: steps taken, steps in all, last validation accuracy (NaN before the first), and a note."""

    step: int
    steps: int
    accuracy: float
    note: str = ""


Tell = Callable[[Progress], None]


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
    logged: int = 0  # the length of the metrics before the first step
    before: int = 0  # steps of earlier trainings, where loggers count on
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
            self._restore_(state)
            self._note(f"resumed after step {self.prepared.training.taken}")

    def _last(self) -> dict[str, Any] | None:
        state = checkpoints.load(self.folder, self._note)
        if state is not None and state["logged"] > os.fstat(self.metrics.fileno()).st_size:
            self._note("metrics.jsonl is shorter than the checkpoint says; beginning anew")
            state = None
        self.metrics.truncate(state["logged"] if state else self.logged)
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
                if self.ended(step.number):
                    break
            if due:
                self._checkpoint(step.number)
            began = time.perf_counter()

    def ended(self, number: int) -> bool:
        """Whether step ``number``, which was evaluated, was the last."""
        return number == self.prepared.training.steps

    def more(self) -> dict[str, Any]:
        """What else a line of the metrics holds."""
        return {}

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
        } | self.more()
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        self.log(line, self.before + step.number)
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
        state |= self._state()
        checkpoints.save(self.folder, number, state)
        now = time.monotonic()
        self._due = now + max(self.checkpoint_every, (now - began) / CHECKPOINT_SHARE if self.checkpoint_every else 0.0)

    def _state(self) -> dict[str, Any]:
        """What else a checkpoint holds."""
        return {}

    def _restore_(self, state: dict[str, Any]) -> None:
        """Take it back."""

    def _note(self, text: str) -> None:
        training = self.prepared.training
        self.tell(Progress(training.taken, training.steps, self.accuracy, text))
