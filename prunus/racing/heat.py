"""Trials that go on in step until the first has met the goal."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunus import checkpoints
from prunus.loop import Progress, Tell
from prunus.racing.entrant import Entrant, going
from prunus.racing.examination import Examination


class Field(Protocol):
    """The entrants of a heat, and how they are trained: apart, or in a stack."""

    entrants: list[Entrant]
    examination: Examination

    def advance_(self, step: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass
class Heat:
    """A ``field`` of entrants that is trained up to each step of a ``grid`` and evaluated there.

    It ends where the goal is met for the first time: all that meet it at that step are complete, the others are not.
    ``folder`` has its checkpoints, one every ``checkpoint_every`` seconds.
    """

    field: Field
    grid: Iterable[int]
    folder: Path
    tell: Tell
    checkpoint_every: float
    seconds: float = 0.0
    reached: int = 0

    def run_(self) -> None:
        """From the last checkpoint, or from the beginning, to the end."""
        self._resume_()
        began = due = time.monotonic()
        before, steps = self.seconds, list(self.grid)
        for step in steps:
            if step <= self.reached or self._over():
                continue
            self.field.advance_(step)
            self.reached, self.seconds = step, before + time.monotonic() - began
            self.tell(Progress(step, steps[-1], self._best()))
            if time.monotonic() - due >= self.checkpoint_every and not self._over():
                self._checkpoint()
                due = time.monotonic()

    def _over(self) -> bool:
        entrants = self.field.entrants
        return not going(entrants) or any(entrant.status == "complete" for entrant in entrants)

    def _best(self) -> float:
        """The best accuracy that was measured last; NaN before the first."""
        lowest = min((entrant.curve[-1][1] for entrant in self.field.entrants if entrant.curve), default=None)
        return float("nan") if lowest is None else 1.0 - lowest / len(self.field.examination.images)

    def _checkpoint(self) -> None:
        state: dict[str, Any] = {"format": checkpoints.FORMAT, "reached": self.reached, "seconds": self.seconds}
        state |= {"seen": self.field.examination.seen, "field": self.field.state_dict()}
        checkpoints.save(
            self.folder, self.reached, state | {"trials": [one.state_dict() for one in self.field.entrants]}
        )

    def _resume_(self) -> None:
        state = checkpoints.load(self.folder, lambda note: self.tell(Progress(0, 1, float("nan"), note)))
        if state is None:
            return
        self.reached, self.seconds = state["reached"], state["seconds"]
        self.field.examination.seen = state["seen"]
        for entrant, own in zip(self.field.entrants, state["trials"], strict=True):
            entrant.load_state_dict(own)
        self.field.load_state_dict(state["field"])
        self.tell(Progress(self.reached, self.reached, self._best(), f"resumed after step {self.reached}"))
