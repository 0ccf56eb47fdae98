"""Searching each method's own settings, at equal cost, on validation images: a number of trainings for each.

A cell is a method with its arguments at one sparsity and length. Its first point is the recipe as it is, the others are
quasi-random and the same for all methods. Where sparsity is an outcome, each point is steered to it.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.points import Range, Value, points
from prunus.recipes import Recipe, changed, single
from prunus.runs import DIVERGED
from prunus.settings import Search
from prunus.storage import write_atomically

Train = Callable[[Recipe], Mapping[str, Any]]  # a run's recipe -> its result


@dataclass(frozen=True)
class Point:
    """One setting of one cell: the cell's recipe, and what is changed in it."""

    cell: Recipe
    values: Mapping[str, Value]
    search: Search

    @property
    def knob(self) -> tuple[str, Range] | None:
        """The path and the range of what steers the sparsity."""
        return self.search.knob(single(self.cell).method)

    def name(self) -> str:
        """A name for its file: that of its run, as the recipe has its knob."""
        return changed(self.cell, self.values).name()


def cells(recipe: Recipe, search: Search) -> list[Recipe]:
    """A run's recipe for each method, its arguments, sparsity and length, with the search's own seed."""
    found = {one.name(): one for run in recipe.runs() if (one := run.model_copy(update={"seed": (search.seed,)}))}
    return [cell for cell in found.values() if single(cell).method != "dense"]


def plan(recipe: Recipe, search: Search) -> list[Point]:
    """The points of all cells."""
    return [point for cell in cells(recipe, search) for point in cell_points(cell, search)]


def cell_points(cell: Recipe, search: Search) -> list[Point]:
    """The points of one cell: as many as its trainings allow."""
    method = single(cell).method
    count = search.trainings if search.knob(method) is None else max(1, search.trainings // search.steering)
    shared = points(search.shared(), count - 1, search.seed)
    own = points(search.own(method), count - 1, search.seed + 1)
    return [Point(cell, {}, search)] + [Point(cell, one | two, search) for one, two in zip(shared, own, strict=True)]


def try_(point: Point, folder: Path, train: Train) -> float | None:
    """Train a point, write what came of it into ``folder``, and return its validation accuracy; None if it diverged."""
    tried = list(_trials(point, train))
    hits = [one for one in tried if point.knob is None or miss(one, point) <= point.search.tolerance]
    best = hits[-1] if hits else min(tried, key=lambda one: miss(one, point))
    record = best | {"hit": bool(hits), "trainings": len(tried)}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{point.name()}.json", json.dumps(record, indent=1))
    accuracy: float | None = record["validation_accuracy"]
    return accuracy


def miss(tried: Mapping[str, Any], point: Point) -> float:
    """How far the realised sparsity lies from the requested one; infinite for a training that diverged."""
    realised = tried["realised_sparsity"]
    return math.inf if realised is None else abs(realised - single(point.cell).sparsity)


def choose(planned: Sequence[Point], folder: Path) -> list[dict[str, Any]]:
    """For each cell the point with the highest validation accuracy among those whose sparsity is right.

    Where none is right the nearest is taken. Reads what `try_` wrote.
    """
    chosen = []
    for cell in {point.cell.name(): point.cell for point in planned}.values():
        own = [point for point in planned if point.cell.name() == cell.name()]
        tried = [json.loads((folder / f"{point.name()}.json").read_text()) for point in own]
        right = [one for one in tried if one["hit"] and one["validation_accuracy"] is not None]
        best = max(right, key=lambda one: one["validation_accuracy"], default=None)
        best = best or min(tried, key=lambda one: miss(one, own[0]))
        run = single(cell)
        chosen.append(
            {
                "cell": cell.name(),
                "method": run.method,
                "arguments": dict(run.arguments),
                "sparsity": run.sparsity,
                "epochs": cell.epochs[0] if cell.epochs else None,
                "trainings": sum(one["trainings"] for one in tried),
                "chosen": best["values"],
                "validation_accuracy": best["validation_accuracy"],
                "realised_sparsity": best["realised_sparsity"],
                "points": tried,
            }
        )
    return chosen


def settled(recipe: Recipe, search: Search, chosen: Sequence[Mapping[str, Any]]) -> list[Recipe]:
    """The runs of the study, each with what its cell's search chose."""
    values = {one["cell"]: one["chosen"] for one in chosen}
    runs = [(run, run.model_copy(update={"seed": (search.seed,)}).name()) for run in recipe.runs()]
    return [changed(run, values.get(cell, {})) for run, cell in runs]


def _trials(point: Point, train: Train) -> Iterator[dict[str, Any]]:
    if point.knob is None:
        yield _trial(point, {}, train)
        return
    path, bounds = point.knob
    run = single(point.cell)
    steering = Steering(bounds, run.sparsity, run.arguments.get(path.rpartition(".")[2]))
    for _ in range(point.search.steering):
        value = steering.next()
        trial = _trial(point, {path: value}, train)
        yield trial
        if trial["realised_sparsity"] is None or miss(trial, point) <= point.search.tolerance:
            return
        steering.tell(value, trial["realised_sparsity"])


def _trial(point: Point, knob: Mapping[str, Value], train: Train) -> dict[str, Any]:
    values = {**point.values, **knob}
    try:
        result = train(changed(point.cell, values))
    except DIVERGED:
        return {"values": values, "validation_accuracy": None, "realised_sparsity": None}
    accuracy = result["validation"]["accuracy"]
    return {"values": values, "validation_accuracy": accuracy, "realised_sparsity": result["realised_sparsity"]}


class Steering:
    """Finds the value of a knob that brings a sparsity about: a bracket, narrowed by where a line through it crosses.

    Sparsity must rise with the knob. The line is one in the logarithm of the odds of a kept weight, over the knob or,
    where its range is logarithmic, the knob's logarithm; a guess that would hardly narrow the bracket gives way to its
    middle. ``first`` is tried first, where it lies in the range.
    """

    def __init__(self, bounds: Range, sparsity: float, first: float | None = None) -> None:
        self.log, self.target, self.first = bounds.log, _logit(sparsity), first
        self.low: tuple[float, float | None] = (self._place(bounds.low), None)
        self.high: tuple[float, float | None] = (self._place(bounds.high), None)

    def next(self) -> float:
        """The value to try."""
        (low, under), (high, over) = self.low, self.high
        if under is over is None and self.first is not None and low < self._place(self.first) < high:
            return self.first
        part = 0.5
        if under is not None and over is not None and over > under:
            part = min(max((self.target - under) / (over - under), 0.1), 0.9)
        place = low + part * (high - low)
        return math.exp(place) if self.log else place

    def tell(self, value: float, sparsity: float) -> None:
        """What the knob at ``value`` brought about."""
        reached = (self._place(value), _logit(sparsity))
        if reached[1] < self.target:
            self.low = reached
        else:
            self.high = reached

    def _place(self, value: float) -> float:
        return math.log(value) if self.log else value


def _logit(sparsity: float) -> float:
    bounded = min(max(sparsity, 1e-4), 1 - 1e-4)
    return math.log(bounded / (1 - bounded))
