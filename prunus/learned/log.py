"""What happened in an episode, and the schedule that can be taken from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunus.learned.network import Values


@dataclass
class Log:
    """An episode: the seed of its network, the densities of each of its updates, and what each action came to.

    ``steps`` are the infos of the environment, ``seconds`` the time it took, resumed parts counted as often as they
    were run. ``clipped`` counts numbers in actions that were outside [-1, 1].
    """

    seed: int
    layers: tuple[str, ...]
    densities: list[list[float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    clipped: int = 0
    seconds: float = 0.0
    diverged: bool = False

    def table(self) -> Values:
        """The densities, (updates, layers). Raises ValueError for an episode that diverged."""
        if self.diverged:
            raise ValueError(f"the episode of seed {self.seed} diverged and is no schedule; take another")
        return np.array(self.densities)

    def record(self) -> dict[str, Any]:
        """The episode in one line of JSON."""
        last = self.steps[-1]
        return {
            "seed": self.seed,
            "return": sum(self.rewards),
            "accuracy": last["accuracy"],
            "loss": last["loss"],
            "layers": list(self.layers),
            "densities": [list(row) for row in self.densities],
            "updates": len(self.densities),
            "active": last["n_active"],
            "train_steps": last["train_steps"],
            "dense_flops": last["dense_flops"],
            "sparse_flops": last["sparse_flops"],
            "clipped": self.clipped,
            "diverged": self.diverged,
            "seconds": self.seconds,
        }


def exported(logs: Sequence[Log]) -> Values:
    """The mean of the densities of several episodes, (updates, layers): one schedule."""
    if not logs:
        raise ValueError("a schedule is taken from at least one episode, got none; three or more are usual")
    return np.asarray(np.stack([log.table() for log in logs]).mean(0))
