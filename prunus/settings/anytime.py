"""How data arrive, as a recipe says it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunus.streams import replay


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
