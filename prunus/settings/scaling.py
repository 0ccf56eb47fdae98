"""How steps to a result are measured over batch sizes and sparsities, as a recipe says it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunus.scaling.metaparameters import LINEAR_DECAY, Logarithmic, Metaparameter, Space
from prunus.scaling.records import KINDS
from prunus.scaling.sobol import Variant
from prunus.tables import RecipeError, unknown

REPEATS = 1000  # the seeds of repeats: the study's own, and so much more for each


class Tuned(BaseModel):
    """An optimizer of a study and what is tuned of it: a ``space`` of ranges by name, null for those of the paper.

    ``learning_rate`` and ``momentum`` are known, and ``decay_steps`` with ``end_factor``, a line down to that share of
    the first rate. Other names are paths in a recipe, such as ``optimizer.adamw.weight_decay``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: str | dict[str, dict[str, Any] | None] = "sgd"
    space: dict[str, dict[str, float] | None] = Field(min_length=1)

    @model_validator(mode="after")
    def _ranges(self) -> "Tuned":
        self.metaparameters()
        if len({"decay_steps", "end_factor"} & self.space.keys()) == 1 or (
            "end_factor" in self.space and "learning_rate" not in self.space
        ):
            raise ValueError("a linear decay needs learning_rate, decay_steps and end_factor; name all three")
        return self

    def metaparameters(self) -> Space:
        """The ranges, in the order of their names. Raises RecipeError for one that is none."""
        return {name: _range(name, bounds) for name, bounds in self.space.items()}


def _range(name: str, bounds: Mapping[str, float] | None) -> Metaparameter:
    if bounds is None:
        if name not in LINEAR_DECAY:
            raise RecipeError(f"scaling: {unknown('metaparameter', name, LINEAR_DECAY)}, or give it a range")
        return LINEAR_DECAY[name]
    if set(bounds) != {"low", "high"}:
        raise RecipeError(f"scaling: {name} must be {{low: ..., high: ...}}, got {dict(bounds)!r}")
    try:
        kind: Any = KINDS.get(name, Logarithmic)
        made: Metaparameter = kind(**bounds)
    except ValueError as error:
        raise RecipeError(f"scaling: {name}: {error}") from None
    return made


RATE: dict[str, dict[str, float] | None] = {"learning_rate": None}
WITH_MOMENTUM: dict[str, dict[str, float] | None] = {**RATE, "momentum": None}
PUBLISHED = {  # of Lee et al. 2021
    "sgd": Tuned(optimizer="sgd", space=RATE),
    "momentum": Tuned(optimizer={"sgd": {"momentum": 0.9}}, space=WITH_MOMENTUM),
    "nesterov": Tuned(optimizer={"sgd": {"momentum": 0.9, "nesterov": True}}, space=WITH_MOMENTUM),
    "nesterov-linear": Tuned(
        optimizer={"sgd": {"momentum": 0.9, "nesterov": True}},
        space={**WITH_MOMENTUM, "decay_steps": None, "end_factor": None},
    ),
}


class Scaling(BaseModel):
    """The key ``scaling`` of a recipe: steps to a validation error of ``goal``, for each of ``batch_sizes``.

    A cell is a method at a sparsity with one of the ``optimizers`` at one batch size: the fewest steps of ``trials``
    settings, quasi-random ones of its space, and the same in every cell. The recipe's ``steps`` are the budget of each.

    Trials ``race``: all go on in step, and a cell ends where the first arrives, which loses nothing, since the fewest
    steps are what is asked for. They are evaluated at steps that grow by ``ratio``, or ``every`` so many. ``screen``
    validation images are looked at first, and all of them only where the goal is near; 0 for always all.
    ``points`` are those of the old Sobol sequence that was published, or of the newer one. ``draw`` says whether all
    trials of a ``study`` begin from the same weights and mask, or each ``trial`` from its own.

    Where the best setting lies at the edge of the space, the cell is searched again in a wider one, ``widen`` times at
    most. Then the best ``finalists`` race ``repeats`` times more, from other weights and with other orders of the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    goal: float = Field(gt=0.0, lt=1.0)
    batch_sizes: tuple[int, ...] = Field(min_length=1)
    optimizers: dict[str, Tuned] = Field(min_length=1)
    trials: int = Field(default=16, ge=1)
    race: bool = True
    ratio: float = Field(default=1.06, gt=1.0)
    every: int | None = Field(default=None, ge=1)
    screen: int = Field(default=1000, ge=0)
    points: Variant = "bratley-fox"
    draw: Literal["study", "trial"] = "study"
    widen: int = Field(default=1, ge=0)
    finalists: int = Field(default=3, ge=1)
    repeats: int = Field(default=3, ge=0, lt=REPEATS)

    @field_validator("optimizers", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        for name in names:
            if name not in PUBLISHED:
                raise RecipeError(f"scaling: {unknown('optimizer', str(name), PUBLISHED)}, or a mapping of your own")
        return {name: PUBLISHED[name] for name in names}

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("batch_sizes")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1 or len(set(value)) < len(value):
            raise ValueError(f"must be different numbers of examples, each at least 1, got {list(value)}")
        return tuple(sorted(value))

    def as_published(self) -> "Scaling":
        """The same study by the protocol of Lee et al. 2021: 100 trials, none raced, evaluated every 100 steps."""
        published = {"trials": 100, "race": False, "every": 100, "screen": 0, "draw": "trial"}
        return self.model_copy(update=published | {"points": "bratley-fox", "widen": 0, "repeats": 0})
