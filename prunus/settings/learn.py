"""How schedules are learned, as a recipe says it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Agent = Literal["ppo", "ppo-paper", "ppo-shared", "random", "optuna"]
Reward = Literal["delta", "acc"]
SELECTION = 1000  # the first seed of the networks that a schedule is chosen by


class Learn(BaseModel):
    """The key ``learn`` of a recipe: agents that learn a schedule for rp-rr and mp-rr (Tessera et al. 2022).

    Each of ``agents`` gets ``trainings`` trainings for each method at each sparsity, the last ``finalists`` of them to
    choose its schedule by. A layer's sparsity lies between the recipe's and ``sparsest``. Networks have the seeds 0, 1,
    2 … while an agent learns and 1000, 1001 … while its schedule is chosen, none of which may be the recipe's: that
    one's runs are for the report. ``decision_every`` updates of the masks share a decision, ``smooth`` is the share of
    the decision before in each, ``reward`` is that of `prunus.learned`. ``whole`` replays the schedules on all training
    images too. ``leaky`` shows the policy the test set while it is evaluated, as the paper did; it is for reproduction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: tuple[Agent, ...] = Field(default=("ppo", "random", "optuna"), min_length=1)
    trainings: int = Field(default=50, ge=2)
    finalists: int = Field(default=3, ge=1)
    sparsest: float = Field(default=0.99, ge=0.0, lt=1.0)
    decision_every: int = Field(default=1, ge=1)
    smooth: float = Field(default=0.0, ge=0.0, lt=1.0)
    reward: Reward = "delta"
    whole: bool = False
    leaky: bool = False

    @model_validator(mode="after")
    def _affordable(self) -> "Learn":
        if 2 * self.finalists > self.trainings:
            raise ValueError(
                f"finalists take {self.finalists} trainings of {self.trainings}, and as many at least must be left to "
                "learn from; raise trainings, or lower finalists"
            )
        if self.trainings > SELECTION:
            raise ValueError(f"trainings must be at most {SELECTION}, got {self.trainings}")
        return self

    def seeds(self) -> set[int]:
        """The seeds of the networks that agents see before the report."""
        return {*range(self.trainings), *range(SELECTION, SELECTION + self.finalists)}
