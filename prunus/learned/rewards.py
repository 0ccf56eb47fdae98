"""Rewards: what a decision was worth. Test data never enters."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Held-out accuracy after a decision's steps and before them; active weights and operations, as shares of all."""

    accuracy: float
    before: float
    density: float
    operations: float


Reward = Callable[[Outcome], float]


def accuracy(outcome: Outcome) -> float:
    """The accuracy itself, after every decision (Tessera et al. 2022)."""
    return outcome.accuracy


def delta(outcome: Outcome) -> float:
    """Ten times what accuracy gained: summed over an episode, the accuracy of the final network counts alone."""
    return 10 * (outcome.accuracy - outcome.before)


@dataclass(frozen=True)
class Budget:
    """`delta`, less ``excess`` times the density above ``target``, less ``operations`` times the operations kept.

    With ``operations`` above 0 sparsity itself is rewarded, which is not the paper's objective.
    """

    target: float
    excess: float = 1.0
    operations: float = 0.0

    def __call__(self, outcome: Outcome) -> float:
        over = max(0.0, outcome.density - self.target)
        return delta(outcome) - self.excess * over - self.operations * outcome.operations


REWARDS: dict[str, Callable[..., Reward]] = {
    "acc": lambda: accuracy,
    "delta": lambda: delta,
    "budget": Budget,
}
