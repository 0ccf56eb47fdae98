"""The choice between two ways of sending gradients, by the time that steps take with each."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

ROUNDS = 5  # steps timed each way


@dataclass(frozen=True)
class Trial:
    """What was found after ``step`` steps, with a share ``kept`` of the weights: the seconds of a step each way."""

    step: int
    kept: float
    seconds_dense: float
    seconds_packed: float

    @property
    def packed(self) -> bool:
        """Whether packing took less time."""
        return self.seconds_packed < self.seconds_dense


@dataclass
class Choice:
    """Dense until half of the weights are dropped; then whichever is faster, timed in turns.

    Timed anew whenever the share of kept weights has halved or doubled since.
    """

    kept: float = 1.0  # when it was decided last
    trials: list[Trial] = field(default_factory=list)
    trying: bool = False
    dense: list[float] = field(default_factory=list)
    packed: list[float] = field(default_factory=list)

    def packs(self, kept: float) -> bool:
        """Whether the next step sends packed gradients, a share ``kept`` of the weights being left."""
        if not self.trying and not self.kept / 2 < kept < self.kept * 2:
            self.trying, self.kept = True, kept
        if self.trying:
            return len(self.packed) <= len(self.dense)
        return bool(self.trials) and self.trials[-1].packed

    def add_(self, packed: bool, seconds: float) -> None:
        """Take down what a step of the trial took."""
        (self.packed if packed else self.dense).append(seconds)

    def medians(self) -> tuple[float, float] | None:
        """The seconds of a dense and of a packed step, once enough of both were timed."""
        if min(len(self.dense), len(self.packed)) < ROUNDS:
            return None
        return median(self.dense), median(self.packed)

    def decide_(self, step: int, dense: float, packed: float) -> None:
        """End the trial with these seconds, which must be the same on all ranks."""
        self.trials.append(Trial(step, self.kept, dense, packed))
        self.trying = False
        self.dense.clear()
        self.packed.clear()

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back, so that a resumed training sends as the one before it did."""
        vars(self).update(state | {"trials": [Trial(**trial) for trial in state["trials"]]})
