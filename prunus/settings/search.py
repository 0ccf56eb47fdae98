"""What a search varies, as a recipe says it."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunus.points import Choices, Dimension, Range
from prunus.tables import RecipeError, canonical

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
