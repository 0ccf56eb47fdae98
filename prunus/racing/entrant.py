"""One trial under way, trained by itself."""

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
    """A trial of ``number``, after ``at`` steps and, at its last but one evaluation, after ``before``.

    Its ``status`` is None while it goes on, ``error`` the share that it last got wrong, of all images or of a sample.
    ``infinite`` losses make it infeasible as NaN does, or are borne as in the published code.
    """

    number: int
    metaparameters: Mapping[str, float]
    prepared: Prepared
    infinite: bool = True
    at: int = 0
    before: int = 0
    curve: list[tuple[int, int]] = field(default_factory=list)
    error: float = 1.0
    status: Status | None = None
    _steps: Iterator[Step] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.prepared.training.check_every = self.prepared.training.steps + 1  # it looks at its loss itself

    def told_(self, step: int, goal: int, *, finite: bool, wrong: int | None) -> None:
        """What was found after ``step``: whether the loss is a number; how many images are wrong, if all were seen."""
        self.before, self.at = self.at, step
        if not finite:
            self.status = "infeasible"
        elif wrong is not None:
            self.curve.append((step, wrong))
            self.status = "complete" if wrong <= goal else None

    def trial(self) -> Trial:
        """The trial so far; one that goes on has not met the goal."""
        return Trial(
            self.number, dict(self.metaparameters), self.status or "incomplete", self.at, self.before, tuple(self.curve)
        )

    def state_dict(self) -> dict[str, Any]:
        """How far the trial is."""
        told = {"at": self.at, "before": self.before, "status": self.status, "curve": self.curve}
        return told | {"error": self.error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.at, self.before, self.status = state["at"], state["before"], state["status"]
        self.error = state["error"]
        self.curve = [(step, wrong) for step, wrong in state["curve"]]

    def finite_after_(self, step: int) -> bool:
        """Train up to ``step``; whether the loss is a number there."""
        self._steps = self._steps or iter(self.prepared.training)
        try:
            last = next(one for one in self._steps if one.number == step)
        except (NonFiniteLossError, NotANumberError):
            return False
        return bool(torch.isfinite(last.loss) if self.infinite else ~torch.isnan(last.loss))


@dataclass
class Apart:
    """Entrants that are trained one after the other."""

    entrants: list[Entrant]
    examination: Examination

    def advance_(self, step: int) -> None:
        """Train those that go on up to ``step``, and look whether they have met the goal."""
        for entrant in going(self.entrants):
            finite = entrant.finite_after_(step)
            wrong = self.examination(entrant.prepared.training.model) if finite else None
            entrant.error = self.examination.errors[0] if finite else 1.0
            entrant.told_(step, self.examination.goal, finite=finite, wrong=wrong)

    def state_dict(self) -> dict[str, Any]:
        """The networks of those that go on."""
        return {"networks": [checkpoints.snapshot(entrant.prepared) for entrant in going(self.entrants)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, once the entrants know which of them go on."""
        for entrant, network in zip(going(self.entrants), state["networks"], strict=True):
            checkpoints.restore_(entrant.prepared, network)


def going(entrants: list[Entrant]) -> list[Entrant]:
    """Those that go on."""
    return [entrant for entrant in entrants if entrant.status is None]
