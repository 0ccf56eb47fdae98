"""A cell of a study: the search for the fewest steps at one batch size and sparsity, and its repeats."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from prunus import checkpoints
from prunus.data import Data, Labelled, training_stream
from prunus.loop import Tell
from prunus.materials import load_data, split_of
from prunus.prepare import Prepared, Stage, prepare
from prunus.racing.cells import signal_name
from prunus.racing.entrant import Apart, Entrant
from prunus.racing.examination import Examination
from prunus.racing.grid import grid
from prunus.racing.heat import Heat
from prunus.racing.remembered import remembering
from prunus.racing.stacked import Stacked, worthwhile
from prunus.racing.trial_recipe import trial_recipe
from prunus.recipes import Recipe, single
from prunus.scaling.metaparameters import AtEdge, Space, at_edges, setting
from prunus.scaling.records import FORMAT
from prunus.scaling.trials import REPEATS, Cell, Trial, goal_count, of_plain, steps_to_result
from prunus.settings import Scaling
from prunus.storage import write_atomically

MARGIN = 0.1  # of a range, that counts as its edge
DRAWS = 1_000_000  # the seeds of trials that draw their own weights: the study's times this, and the trial's number
Points = Mapping[int, Mapping[str, float]]  # the metaparameters of trials, by number


@dataclass
class Race:
    """A cell's recipe and the directory of what comes of it; ``signals`` is where probes are remembered.

    Every heat leaves a file when it is over and is not run again.
    """

    recipe: Recipe
    home: Path
    signals: Path
    tell: Tell
    checkpoint_every: float

    def __post_init__(self) -> None:
        self.run = single(self.recipe)
        assert self.recipe.scaling is not None
        self.settings: Scaling = self.recipe.scaling
        ((self.optimizer, self.tuned),) = self.settings.optimizers.items()

    @cached_property
    def images(self) -> tuple[Data, Labelled, Labelled]:
        """The data, its training images and those that validate, once for all trials."""
        data = load_data(self.recipe)
        return data, *split_of(self.recipe, data)

    def search(self, space: Space, number: int, until: int | None = None) -> "Searched":
        """All trials in ``space``, which is the one widened ``number`` times; given up ``until`` so many steps."""
        settings = self.settings
        points = {one: setting(space, one, settings.points) for one in range(settings.trials)}
        heats = [points] if settings.race else [{one: point} for one, point in points.items()]
        told = [self._heat(heat, f"search-{number}-{min(heat)}", self.run.seed, until) for heat in heats]
        trials = [trial for cell, _ in told for trial in cell.trials]
        return Searched(self._cell(trials, self.run.seed), [error for _, errors in told for error in errors])

    def repeat(self, finalists: Points, number: int) -> Cell:
        """The ``finalists`` again, from other weights and with another order of the data."""
        seed = self.run.seed + REPEATS * number
        return self._heat(finalists, f"repeat-{number}", seed).cell

    def searched(self) -> int:
        """How many trials there were, repeats left out."""
        told = [json.loads(path.read_text()) for path in self.home.glob("heats/search-*.json")]
        return sum(len(one["errors"]) for one in told)

    def cost(self) -> dict[str, Any]:
        """What all heats together took: examples trained on and evaluated, seconds."""
        told = [json.loads(path.read_text()) for path in sorted(self.home.glob("heats/*.json"))]
        return {name: sum(one[name] for one in told) for name in ("trained", "evaluated", "seconds")}

    def _cell(self, trials: Sequence[Trial], seed: int) -> Cell:
        size, run = self.recipe.batch_size, self.run
        return Cell(self.optimizer, run.sparsity, size, seed, self._goal, tuple(trials), self.settings.race)

    @property
    def _goal(self) -> int:
        _, _, validation = self.images
        return goal_count(self.settings.goal, len(validation))

    @property
    def _budget(self) -> int:
        """The most steps of a trial."""
        steps, examples = self.recipe.steps, self.settings.examples
        assert steps is not None
        return steps if examples is None else min(steps, max(1, examples // self.recipe.batch_size))

    def _heat(self, points: Points, name: str, seed: int, until: int | None = None) -> "Searched":
        path = self.home / "heats" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self._run_heat(points, name, seed, until or self._budget)))
            checkpoints.remove(self.home / "checkpoints" / name)
        told = json.loads(path.read_text())
        return Searched(of_plain(told["cell"]), told["errors"])

    def _run_heat(self, points: Points, name: str, seed: int, budget: int) -> dict[str, Any]:
        data, _, validation = self.images
        settings = self.settings
        entrants = [self.entrant(number, point, seed) for number, point in points.items()]
        examination = Examination(validation.to(entrants[0].prepared.device), data, self._goal, settings.screen)
        steps = grid(budget, every=settings.every, ratio=settings.ratio)
        folder = self.home / "checkpoints" / name
        stacked = settings.every is None and worthwhile(entrants, self.recipe.batch_size)
        field = (Stacked if stacked else Apart)(entrants, examination)
        heat = Heat(field, steps, folder, self.tell, self.checkpoint_every)
        heat.run_()
        cell = self._cell([entrant.trial() for entrant in entrants], seed)
        trained = sum(entrant.at for entrant in entrants) * self.recipe.batch_size
        cost = {"trained": trained, "evaluated": examination.seen, "seconds": heat.seconds}
        return {"cell": cell.to_plain(), "errors": [entrant.error for entrant in entrants], **cost}

    def entrant(self, number: int, point: Mapping[str, float], seed: int) -> Entrant:
        """The trial of one setting before its first step; ``seed`` is that of its heat."""
        data, train, validation = self.images
        drawn = seed * DRAWS + number if self.settings.draw == "trial" else seed
        recipe = trial_recipe(self.recipe, point, drawn % 2**32)
        adapt = partial(remembering, path=self.signals / f"{signal_name(self.recipe, drawn % 2**32)}.safetensors")
        prepared = prepare(recipe, stage=Stage(data, train, validation, train), adapt=adapt)
        _in_order_(prepared, train, recipe.batch_size, seed)
        return Entrant(number, point, prepared, infinite=self.settings.every is None)


class Searched(NamedTuple):
    """A cell and, of each of its trials, the share that it last got wrong, of all images or of a sample."""

    cell: Cell
    errors: Sequence[float]


def measure(race: Race) -> dict[str, Any]:
    """The record of a cell: the search that found the fewest steps, and its repeats; those of `trials` as plain values.

    Where the best setting lies at the edge of its space a wider one is searched too, as long as it may win. ``widened``
    says which ranges, ``wider`` whether the trials are those of the wider space, ``searched`` how many there were.
    """
    found, widened, wider = race.search(race.tuned.metaparameters(), 0), list[dict[str, Any]](), False
    space = race.tuned.metaparameters()
    for number in range(1, race.settings.widen + 1):
        best = steps_to_result(found.cell)
        edges = _edges(space, best, race.settings.trials)
        if best is None or not edges or not best.before:
            break
        space = {**space, **{edge.name: edge.widened for edge in edges}}
        widened += [{"name": edge.name, "side": edge.side, "value": edge.value} for edge in edges]
        again = race.search(space, number, until=best.before)
        if steps_to_result(again.cell) is None:
            break
        found, wider = again, True
    numbers = range(1, race.settings.repeats + 1) if steps_to_result(found.cell) else ()
    finalists = _finalists(found, race.settings.finalists)
    return {
        "format": FORMAT,
        "cell": found.cell.to_plain(),
        "widened": widened,
        "wider": wider,
        "searched": race.searched(),
        "repeats": [race.repeat(finalists, number).to_plain() for number in numbers],
        **race.cost(),
    }


def _edges(space: Space, best: Trial | None, trials: int) -> tuple[AtEdge, ...]:
    """Where the best of so many trials lies at an edge: few trials have no point near it."""
    return at_edges(space, best.metaparameters, margin=min(0.4, max(MARGIN, 1.5 / trials))) if best else ()


def _finalists(found: Searched, count: int) -> Points:
    """The best settings: those that met the goal first, then those that came nearest to it."""

    def nearness(told: tuple[Trial, float]) -> tuple[bool, float, int]:
        trial, error = told
        complete = trial.status == "complete"
        return not complete, trial.steps if complete else error, trial.number

    feasible = [told for told in zip(found.cell.trials, found.errors, strict=True) if told[0].status != "infeasible"]
    return {trial.number: trial.metaparameters for trial, _ in sorted(feasible, key=nearness)[:count]}


def _in_order_(prepared: Prepared, train: Labelled, batch_size: int, seed: int) -> None:
    """Let the trial see the data in the order of ``seed``, which all trials of a heat share."""
    prepared.stream = training_stream(train.to(prepared.device), batch_size, data=prepared.data, seed=seed)
    prepared.training.batches = prepared.stream
