"""What a search varies, how schedules are learned and how data arrive, as a recipe says it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunus.points import Choices, Dimension, Range
from prunus.streams import replay
from prunus.tables import RecipeError, canonical

Agent = Literal["ppo", "ppo-paper", "ppo-shared", "random", "optuna"]
Reward = Literal["delta", "acc"]
SELECTION = 1000  # the first seed of the networks that a schedule is chosen by

Setting = Mapping[str, Any]  # {low: ..., high: ...}, spread evenly in the logarithm where low is above 0; {each: [...]}


class Search(BaseModel):
    """The key ``search`` of a recipe.

    Every method gets ``trainings`` trainings at each sparsity, with ``seed``, which is none of the recipe's. ``space``
    maps paths such as ``optimizer.sgd.weight_decay`` to ranges; a path that begins with ``method.NAME`` is of that
    method alone. ``steer`` names, for a method whose sparsity is an outcome, the argument that steers it and its range;
    each of its points takes up to ``steering`` of these trainings, until the realised sparsity is within ``tolerance``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainings: int = Field(ge=1)
    seed: int = Field(default=1000, ge=0)
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    steer: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    steering: int = Field(default=4, ge=2)
    tolerance: float = Field(default=0.005, gt=0)

    @field_validator("steer", mode="before")
    @classmethod
    def _by_method(cls, value: object) -> object:
        return {canonical(str(name)): knob for name, knob in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _affordable(self) -> "Search":
        if self.steer and self.steering > self.trainings:
            raise ValueError(f"steering takes up to {self.steering} trainings a point, and there are {self.trainings}")
        return self

    def methods(self) -> set[str]:
        """The methods that it names."""
        own = [path.split(".") for path in self.space if path.startswith("method.")]
        return {canonical(at[1]) for at in own if len(at) > 1} | set(self.steer)

    @field_validator("steer")
    @classmethod
    def _one_argument(cls, value: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
        for name, knob in value.items():
            if len(knob) != 1:
                raise ValueError(f"must name one argument of {name}, got {', '.join(knob) or 'none'}")
        return value

    def shared(self) -> dict[str, Dimension]:
        """What is varied for every method."""
        return {path: dimension(path, one) for path, one in self.space.items() if not path.startswith("method.")}

    def dimensions(self) -> dict[str, Dimension]:
        """All that is varied for any method."""
        return {path: dimension(path, one) for path, one in self.space.items()}

    def own(self, method: str) -> dict[str, Dimension]:
        """What is varied for one method alone."""
        paths = {path: path.split(".") for path in self.space if path.startswith("method.")}
        return {path: dimension(path, self.space[path]) for path, at in paths.items() if canonical(at[1]) == method}

    def knob(self, method: str) -> tuple[str, Range] | None:
        """The path of the argument that steers the sparsity of ``method``, and its range; None where none does."""
        if method not in self.steer:
            return None
        ((argument, bounds),) = self.steer[method].items()
        found = dimension(f"steer.{method}.{argument}", bounds)
        if not isinstance(found, Range):
            raise RecipeError(f"steer.{method}.{argument} must be a range such as {{low: 0.001, high: 0.1}}")
        return f"method.{method}.{argument}", found


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


class Anytime(BaseModel):
    """The key ``anytime`` of a recipe: the training images arrive in megabatches, and the network with them.

    Any of these keys may also be an argument of a method, for that method alone.

    *The stream*: ``megabatches`` of nearly equal size, or as many as there are of ``size`` images, in an ``order`` that
    the run's seed draws, or ``order_seed``; of ``per_class`` images of each class where it is given. Each gives a part
    to validate on. ``replay`` says what of earlier ones is trained on again. Training waits for every ``wait``-th.

    *The plan*: ``progressive`` prunes from the sparsity ``first`` to the recipe's, by the same share each time (APP);
    ``once`` is at the recipe's from the first megabatch on (OSP). Methods that look at data before training look at the
    share ``evidence`` of ``evidence_from``: what is trained on, a random part of it, or the head of it. ``masks`` and
    ``scores`` other than the first are the released code's (see `prunus.anytime.released`).

    *Training*: each megabatch is trained on for the recipe's length; ``patience`` ends it after so many epochs without
    a better validation accuracy. ``weights`` are those of the best or of the last evaluation. The next megabatch goes
    on from them, with the ``optimizer_state`` kept or reset, or, where ``warm`` is false, begins from fresh weights.
    ``rates`` are the recipe's for each megabatch (``cyclic``), for the first, of which the last stays (``noncyclic``),
    or for all of them together (``whole``).

    *The learner* is a ``single`` network, an ``ensemble`` of ``members`` trained side by side, or one that is
    ``growing`` by a network each megabatch. ``model`` is another one than the recipe's, for a method alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    megabatches: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=2)
    order: Literal["permuted", "given", "balanced", "by-class"] = "permuted"
    order_seed: int | None = Field(default=None, ge=0)
    per_class: int | None = Field(default=None, ge=1)
    replay: str | dict[str, int | float] = "full"
    wait: int = Field(default=1, ge=1)
    plan: Literal["progressive", "once"] = "progressive"
    first: float = Field(default=0.2, ge=0.0, lt=1.0)
    horizon: int | None = Field(default=None, ge=1)
    evidence: float = Field(default=0.2, gt=0.0, le=1.0)
    evidence_from: Literal["random", "head"] = "random"
    masks: Literal["nested", "intersect-fresh"] = "nested"
    scores: Literal["trained", "reinit"] = "trained"
    patience: float | None = Field(default=None, gt=0.0)
    weights: Literal["best", "last"] = "best"
    warm: bool = True
    optimizer_state: Literal["keep", "reset"] = "keep"
    rates: Literal["cyclic", "noncyclic", "whole"] = "cyclic"
    learner: Literal["single", "growing", "ensemble"] = "single"
    members: int = Field(default=3, ge=2)
    model: str | dict[str, dict[str, Any] | None] | None = None

    @field_validator("replay")
    @classmethod
    def _known(cls, value: str | dict[str, int | float]) -> str | dict[str, int | float]:
        replay(value)
        return value

    @model_validator(mode="after")
    def _one_length(self) -> "Anytime":
        if self.megabatches is not None and self.size is not None:
            raise ValueError(
                f"give the number of megabatches or their size, one of the two, got {self.megabatches} and {self.size}"
            )
        return self


def dimension(path: str, setting: Setting) -> Dimension:
    """The values that a setting stands for. Raises RecipeError, naming its path."""
    try:
        if set(setting) == {"each"}:
            return Choices(tuple(setting["each"]))
        if set(setting) == {"low", "high"}:
            low, high = float(setting["low"]), float(setting["high"])
            return Range(low, high, log=low > 0)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"search: {path}: {error}") from None
    raise RecipeError(f"search: {path} must be {{low: ..., high: ...}} or {{each: [...]}}, got {dict(setting)!r}")
