"""Searching each method's own settings, at equal cost, on validation images: a number of trainings for each.

A cell is a method, dense included, with its arguments at one sparsity and length. Its first point is the recipe as it
is, the others are quasi-random and, in what is shared, the same for all methods. Where sparsity is an outcome, each
point is steered to it.
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
class Lane:
    """Points of one cell that are tried one after the other: one, or, where each is steered, all.

    ``points`` are what is changed in the cell's recipe, by paths.
    """

    cell: Recipe
    points: tuple[Mapping[str, Value], ...]
    search: Search

    def recipes(self) -> list[Recipe]:
        """The points' recipes, before any is steered."""
        return [changed(self.cell, values) for values in self.points]

    def name(self) -> str:
        """A name for its file: that of its first run."""
        return changed(self.cell, self.points[0]).name()


def cells(recipe: Recipe, search: Search) -> list[Recipe]:
    """A run's recipe for each method, its arguments, sparsity and length, with the search's own seed."""
    found = [run.model_copy(update={"seed": (search.seed,)}) for run in recipe.runs()]
    return list({cell.name(): cell for cell in found}.values())


def lanes(recipe: Recipe, search: Search) -> list[Lane]:
    """All that is to be tried."""
    found = []
    for cell in cells(recipe, search):
        tried = cell_points(cell, search)
        steered = search.knob(single(cell).method) is not None
        found += [Lane(cell, tuple(tried), search)] if steered else [Lane(cell, (one,), search) for one in tried]
    return found


def cell_points(cell: Recipe, search: Search) -> list[dict[str, Value]]:
    """The points of one cell: the recipe as it is, then as many different ones as its trainings allow.

    What several methods share is the same in all of them, and the sequence fills the whole space evenly, with what is
    a method's own: one sequence for all of it, of which each method takes its columns.
    """
    own = {**search.shared(), **search.own(single(cell).method)}
    drawn = points(dict(sorted(search.dimensions().items())), search.trainings - 1, search.seed)
    found: list[dict[str, Value]] = [{}]
    for values in drawn:
        mine = {path: values[path] for path in own}
        found += [mine] if mine not in found else []
    return found


def try_(lane: Lane, folder: Path, train: Train) -> float | None:
    """Train a lane's points, write what came of them into ``folder``, and return the best validation accuracy.

    None where every training diverged. Steered points take several trainings each, until those of the search are spent;
    each begins where the one before found its sparsity.
    """
    knob = lane.search.knob(single(lane.cell).method)
    records: list[dict[str, Any]] = []
    first = None if knob is None else single(lane.cell).arguments.get(knob[0].rpartition(".")[2])
    left = lane.search.trainings
    for values in lane.points:
        if left == 0:
            break
        tried = list(_trials(lane, values, first, left, train))
        left -= len(tried)
        hits = [one for one in tried if knob is None or miss(one, lane) <= lane.search.tolerance]
        records.append((hits[-1] if hits else min(tried, key=lambda one: miss(one, lane))) | {"hit": bool(hits)})
        records[-1]["trainings"] = len(tried)
        first = records[-1]["values"][knob[0]] if knob and hits else first
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{lane.name()}.json", json.dumps(records, indent=1))
    return max((one["validation_accuracy"] for one in records if one["validation_accuracy"] is not None), default=None)


def miss(tried: Mapping[str, Any], lane: Lane) -> float:
    """How far the realised sparsity lies from the requested one; infinite for a training that diverged."""
    realised = tried["realised_sparsity"]
    return math.inf if realised is None else abs(realised - single(lane.cell).sparsity)


def choose(planned: Sequence[Lane], folder: Path) -> list[dict[str, Any]]:
    """For each cell the point with the highest validation accuracy among those whose sparsity is right.

    Where none is right the nearest is taken. Reads what `try_` wrote.
    """
    by_cell: dict[str, list[Lane]] = {}
    for lane in planned:
        by_cell.setdefault(lane.cell.name(), []).append(lane)
    return [_choice(cell, own, folder) for cell, own in by_cell.items()]


def _choice(cell: str, own: Sequence[Lane], folder: Path) -> dict[str, Any]:
    tried = [one for lane in own for one in json.loads((folder / f"{lane.name()}.json").read_text())]
    right = [one for one in tried if one["hit"] and one["validation_accuracy"] is not None]
    best = max(right, key=lambda one: float(one["validation_accuracy"]), default=None)
    best = best or min(tried, key=lambda one: miss(one, own[0]))
    run, epochs = single(own[0].cell), own[0].cell.epochs
    return {
        "cell": cell,
        "method": run.method,
        "arguments": dict(run.arguments),
        "sparsity": run.sparsity,
        "epochs": epochs[0] if epochs else None,
        "trainings": sum(one["trainings"] for one in tried),
        "chosen": best["values"],
        "validation_accuracy": best["validation_accuracy"],
        "realised_sparsity": best["realised_sparsity"],
        "points": tried,
    }


def settled(recipe: Recipe, search: Search, chosen: Sequence[Mapping[str, Any]]) -> list[Recipe]:
    """The runs of the study, each with what its cell's search chose."""
    values = {one["cell"]: one["chosen"] for one in chosen}
    runs = [(run, run.model_copy(update={"seed": (search.seed,)}).name()) for run in recipe.runs()]
    return [changed(run, values.get(cell, {})) for run, cell in runs]


def _trials(
    lane: Lane, values: Mapping[str, Value], first: float | None, left: int, train: Train
) -> Iterator[dict[str, Any]]:
    run = single(lane.cell)
    knob = lane.search.knob(run.method)
    if knob is None:
        yield _trial(lane, values, train)
        return
    path, bounds = knob
    steering = Steering(bounds, run.sparsity, first)
    for _ in range(min(left, lane.search.steering)):
        value = steering.next()
        trial = _trial(lane, {**values, path: value}, train)
        yield trial
        if trial["realised_sparsity"] is None or miss(trial, lane) <= lane.search.tolerance:
            return
        steering.tell(value, trial["realised_sparsity"])


def _trial(lane: Lane, values: Mapping[str, Value], train: Train) -> dict[str, Any]:
    try:
        result = train(changed(lane.cell, values))
    except DIVERGED:
        return {"values": dict(values), "validation_accuracy": None, "realised_sparsity": None}
    accuracy = result["validation"]["accuracy"]
    return {"values": dict(values), "validation_accuracy": accuracy, "realised_sparsity": result["realised_sparsity"]}


class Steering:
    """Finds the value of a knob that brings a sparsity about, inside a bracket that every try narrows.

    Sparsity must rise with the knob. The next value is where the line through the last two tries meets the target: a
    line in the logarithm of the odds of a dropped weight, over the knob or, where its range is logarithmic, over its
    logarithm. The first is ``first``, where it lies in the range; the middle of the bracket takes the place of a guess
    that there are no two tries for, and every other time of one that did not halve the bracket.
    """

    def __init__(self, bounds: Range, sparsity: float, first: float | None = None) -> None:
        self.log, self.target, self.first = bounds.log, _logit(sparsity), first
        self.low, self.high = self._place(bounds.low), self._place(bounds.high)
        self.tries: list[tuple[float, float]] = []
        self.halved = True

    def next(self) -> float:
        """The value to try."""
        if not self.tries and self.first is not None and self.low < self._place(self.first) < self.high:
            return self.first
        place = self._crossing() if self.halved and len(self.tries) > 1 else (self.low + self.high) / 2
        return math.exp(place) if self.log else place

    def tell(self, value: float, sparsity: float) -> None:
        """What the knob at ``value`` brought about."""
        place, reached = self._place(value), _logit(sparsity)
        width = self.high - self.low
        if reached < self.target:
            self.low = place
        else:
            self.high = place
        self.halved = not self.halved or self.high - self.low <= width / 2
        self.tries.append((place, reached))

    def _crossing(self) -> float:
        (one, under), (other, over) = self.tries[-2:]
        margin = 0.02 * (self.high - self.low)
        slope = (over - under) / (other - one)
        place = other + (self.target - over) / slope if slope > 0 else (self.low + self.high) / 2
        return min(max(place, self.low + margin), self.high - margin)

    def _place(self, value: float) -> float:
        return math.log(value) if self.log else value


def _logit(sparsity: float) -> float:
    bounded = min(max(sparsity, 1e-4), 1 - 1e-4)
    return math.log(bounded / (1 - bounded))
