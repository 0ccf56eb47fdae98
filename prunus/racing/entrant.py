"""One trial under way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prunus import checkpoints
from prunus.prepare import Prepared
from prunus.racing.examination import Examination
from prunus.ranking import NotANumberError
from prunus.scaling.trials import Status, Trial
from prunus.training import NonFiniteLossError, Step


@dataclass
class Entrant:
    """A trial of ``number``, with its network after ``at`` steps and at its last but one evaluation, ``before``.

    Its ``status`` is None while it goes on. ``infinite`` losses make it infeasible as NaN does, or are borne as in the
    published code.
    """

    number: int
    metaparameters: Mapping[str, float]
    prepared: Prepared
    infinite: bool = True
    at: int = 0
    before: int = 0
    curve: list[tuple[int, int]] = field(default_factory=list)
    status: Status | None = None
    _steps: Iterator[Step] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.prepared.training.check_every = self.prepared.training.steps + 1  # it looks at its loss itself

    def advance_(self, step: int, examination: Examination) -> None:
        """Train up to ``step`` and look whether the goal is met there."""
        self.before, self.at = self.at, step
        if not self._finite(step):
            self.status = "infeasible"
            return
        wrong = examination(self.prepared.training.model)
        if wrong is not None:
            self.curve.append((step, wrong))
            if wrong <= examination.goal:
                self.status = "complete"

    def trial(self) -> Trial:
        """The trial so far; one that goes on has not met the goal."""
        return Trial(
            self.number, dict(self.metaparameters), self.status or "incomplete", self.at, self.before, tuple(self.curve)
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the trial needs to go on."""
        told = {"at": self.at, "before": self.before, "status": self.status, "curve": self.curve}
        return told | {"network": None if self.status else checkpoints.snapshot(self.prepared)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.at, self.before, self.status = state["at"], state["before"], state["status"]
        self.curve = [(step, wrong) for step, wrong in state["curve"]]
        if state["network"] is not None:
            checkpoints.restore_(self.prepared, state["network"])

    def _finite(self, step: int) -> bool:
        """Whether the loss is a number after training up to ``step``."""
        self._steps = self._steps or iter(self.prepared.training)
        try:
            last = next(one for one in self._steps if one.number == step)
        except (NonFiniteLossError, NotANumberError):
            return False
        return bool(torch.isfinite(last.loss) if self.infinite else ~torch.isnan(last.loss))
