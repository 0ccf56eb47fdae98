"""A cell of a study: the search for the fewest steps at one batch size and sparsity, and its repeats."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

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
from prunus.scaling.metaparameters import Space, at_edges, setting
from prunus.scaling.trials import Cell, Trial, goal_count, of_plain, steps_to_result
from prunus.settings import Scaling
from prunus.settings.scaling import REPEATS
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

    def search(self, space: Space, number: int) -> Cell:
        """All trials in ``space``, which is the one widened ``number`` times."""
        settings = self.settings
        points = {one: setting(space, one, settings.points) for one in range(settings.trials)}
        heats = [points] if settings.race else [{one: point} for one, point in points.items()]
        trials = [trial for heat in heats for trial in self._heat(heat, f"search-{number}-{min(heat)}", self.run.seed)]
        return self._cell(trials, self.run.seed)

    def repeat(self, finalists: Points, number: int) -> Cell:
        """The ``finalists`` again, from other weights and with another order of the data."""
        seed = self.run.seed + REPEATS * number
        return self._cell(self._heat(finalists, f"repeat-{number}", seed), seed)

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

    def _heat(self, points: Points, name: str, seed: int) -> tuple[Trial, ...]:
        path = self.home / "heats" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self._run_heat(points, name, seed)))
            checkpoints.remove(self.home / "checkpoints" / name)
        return of_plain(json.loads(path.read_text())["cell"]).trials

    def _run_heat(self, points: Points, name: str, seed: int) -> dict[str, Any]:
        data, _, validation = self.images
        settings = self.settings
        entrants = [self._entrant(number, point, seed) for number, point in points.items()]
        examination = Examination(validation.to(entrants[0].prepared.device), data, self._goal, settings.screen)
        steps = grid(self._budget, every=settings.every, ratio=settings.ratio)
        folder = self.home / "checkpoints" / name
        stacked = settings.every is None and worthwhile(entrants, self.recipe.batch_size)
        field = (Stacked if stacked else Apart)(entrants, examination)
        heat = Heat(field, steps, folder, self.tell, self.checkpoint_every)
        heat.run_()
        cell = self._cell([entrant.trial() for entrant in entrants], seed)
        trained = sum(entrant.at for entrant in entrants) * self.recipe.batch_size
        return {"cell": cell.to_plain(), "trained": trained, "evaluated": examination.seen, "seconds": heat.seconds}

    def _entrant(self, number: int, point: Mapping[str, float], seed: int) -> Entrant:
        data, train, validation = self.images
        drawn = seed * DRAWS + number if self.settings.draw == "trial" else seed
        recipe = trial_recipe(self.recipe, point, drawn % 2**32)
        adapt = partial(remembering, path=self.signals / f"{signal_name(self.recipe, drawn % 2**32)}.safetensors")
        prepared = prepare(recipe, stage=Stage(data, train, validation, train), adapt=adapt)
        _in_order_(prepared, train, recipe.batch_size, seed)
        return Entrant(number, point, prepared, infinite=self.settings.every is None)


def measure(race: Race) -> dict[str, Any]:
    """The record of a cell: its last search, where it was widened, and its repeats; those of `trials` as plain values.

    Where the best setting lies at the edge of its space and meets the goal no sooner in a wider one, the first counts.
    """
    space, widened = race.tuned.metaparameters(), list[dict[str, Any]]()
    found = race.search(space, 0)
    for number in range(1, race.settings.widen + 1):
        best = steps_to_result(found)
        margin = max(MARGIN, 1.5 / race.settings.trials)  # beyond which few trials have no point
        edges = at_edges(space, best.metaparameters, margin=margin) if best else ()
        if best is None or not edges:
            break
        space = {**space, **{edge.name: edge.widened for edge in edges}}
        again = race.search(space, number)
        widened += [{"name": edge.name, "side": edge.side, "value": edge.value} for edge in edges]
        winner = steps_to_result(again)
        if winner is None or winner.steps >= best.steps:
            break
        found = again
    numbers = range(1, race.settings.repeats + 1) if steps_to_result(found) else ()
    repeats = [race.repeat(_finalists(found, race.settings), number) for number in numbers]
    return {
        "format": "prunus-cell/1",
        "cell": found.to_plain(),
        "widened": widened,
        "repeats": [one.to_plain() for one in repeats],
        **race.cost(),
    }


def _finalists(cell: Cell, settings: Scaling) -> Points:
    """The best settings: those that met the goal first, then those that came nearest to it."""

    def nearness(trial: Trial) -> tuple[bool, int, int]:
        wrong = min((wrong for _, wrong in trial.curve), default=10**12)
        return trial.status != "complete", trial.steps if trial.status == "complete" else wrong, trial.number

    best = sorted((trial for trial in cell.trials if trial.status != "infeasible"), key=nearness)
    return {trial.number: trial.metaparameters for trial in best[: settings.finalists]}


def _in_order_(prepared: Prepared, train: Labelled, batch_size: int, seed: int) -> None:
    """Let the trial see the data in the order of ``seed``, which all trials of a heat share."""
    prepared.stream = training_stream(train.to(prepared.device), batch_size, data=prepared.data, seed=seed)
    prepared.training.batches = prepared.stream
