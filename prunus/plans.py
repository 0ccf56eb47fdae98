"""Plans: ``(shapes, progress) -> counts``; how many weights of each layer are active as training goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from prunus.budgets import Budget, Shapes
from prunus.masks import active_count
from prunus.schedules import Schedule

Plan = Callable[[Shapes, float], dict[str, int]]


@dataclass(frozen=True)
class Even:
    """One schedule of sparsities for the network, spread by ``budget``; without one, every layer has it."""

    sparsity: Schedule
    budget: Budget | None = None

    def __call__(self, shapes: Shapes, progress: float) -> dict[str, int]:
        sparsity = self.sparsity(progress)
        if self.budget is not None:
            return self.budget(shapes, sparsity)
        return {name: active_count(prod(shape), 1.0 - sparsity) for name, shape in shapes.items()}


@dataclass(frozen=True)
class ByLayer:
    """A schedule of sparsities for each layer, by globs over names; the first glob that matches counts.

    Raises ValueError for a layer that none matches, and for a glob that matches no layer.
    """

    schedules: Mapping[str, Schedule]

    def __call__(self, shapes: Shapes, progress: float) -> dict[str, int]:
        own = {name: self._schedule(name) for name in shapes}
        if idle := [glob for glob in self.schedules if not any(fnmatchcase(name, glob) for name in shapes)]:
            raise ValueError(f"every glob must match a layer, {idle[0]!r} matches none of {', '.join(shapes)}")
        return {name: active_count(prod(shape), 1.0 - own[name](progress)) for name, shape in shapes.items()}

    def _schedule(self, name: str) -> Schedule:
        matching = (schedule for glob, schedule in self.schedules.items() if fnmatchcase(name, glob))
        if (schedule := next(matching, None)) is None:
            raise ValueError(f"every layer needs a schedule, got none for {name!r}; add a last one for '*'")
        return schedule


@dataclass(frozen=True)
class Fixed:
    """The same density in [0, 1] of each layer throughout: one decision of a policy."""

    densities: Mapping[str, float]

    def __call__(self, shapes: Shapes, progress: float) -> dict[str, int]:
        return {name: active_count(prod(shape), self.densities[name]) for name, shape in shapes.items()}
