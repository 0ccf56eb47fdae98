"""Trials that go on in step until the first has met the goal."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunus import checkpoints
from prunus.loop import Progress, Tell
from prunus.racing.entrant import Entrant
from prunus.racing.examination import Examination


@dataclass
class Heat:
    """``entrants`` that are trained up to each step of a ``grid`` and evaluated there.

    It ends where the goal is met for the first time: all that meet it at that step are complete, the others are not.
    ``folder`` has its checkpoints, one every ``checkpoint_every`` seconds.
    """

    entrants: Sequence[Entrant]
    examination: Examination
    grid: Iterable[int]
    folder: Path
    tell: Tell
    checkpoint_every: float
    seconds: float = field(default=0.0, init=False)
    reached: int = field(default=0, init=False)

    def run_(self) -> None:
        """From the last checkpoint, or from the beginning, to the end."""
        self._resume_()
        began = due = time.monotonic()
        before, steps = self.seconds, list(self.grid)
        for step in steps:
            if step <= self.reached or self._over():
                continue
            for entrant in self._going():
                entrant.advance_(step, self.examination)
            self.reached, self.seconds = step, before + time.monotonic() - began
            self.tell(Progress(step, steps[-1], self._best()))
            if time.monotonic() - due >= self.checkpoint_every and not self._over():
                self._checkpoint()
                due = time.monotonic()

    def _going(self) -> list[Entrant]:
        return [entrant for entrant in self.entrants if entrant.status is None]

    def _over(self) -> bool:
        return not self._going() or any(entrant.status == "complete" for entrant in self.entrants)

    def _best(self) -> float:
        """The best accuracy that was measured last; NaN before the first."""
        lowest = min((entrant.curve[-1][1] for entrant in self.entrants if entrant.curve), default=None)
        return float("nan") if lowest is None else 1.0 - lowest / len(self.examination.images)

    def _checkpoint(self) -> None:
        state: dict[str, Any] = {"format": checkpoints.FORMAT, "reached": self.reached, "seconds": self.seconds}
        state |= {"seen": self.examination.seen, "entrants": [entrant.state_dict() for entrant in self.entrants]}
        checkpoints.save(self.folder, self.reached, state)

    def _resume_(self) -> None:
        state = checkpoints.load(self.folder, lambda note: self.tell(Progress(0, 1, float("nan"), note)))
        if state is None:
            return
        self.reached, self.seconds, self.examination.seen = state["reached"], state["seconds"], state["seen"]
        for entrant, own in zip(self.entrants, state["entrants"], strict=True):
            entrant.load_state_dict(own)
        self.tell(Progress(self.reached, self.reached, self._best(), f"resumed after step {self.reached}"))
