"""``prunus learn``: agents learn schedules of sparsity, which then run as ordinary methods beside handmade ones."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from prunus import ranks
from prunus.budgets import Shapes
from prunus.compare import compare
from prunus.display import Display, label
from prunus.lessons import METHODS, Lesson, Results, accuracy, lessons, search
from prunus.materials import load_data
from prunus.methods import METHODS as ALL_METHODS
from prunus.prepare import prepare
from prunus.proposals import Propose, by_optuna, evenly
from prunus.recipes import Recipe, single
from prunus.runs import CHECKPOINT_SECONDS
from prunus.settings import Learn
from prunus.storage import alone, write_atomically
from prunus.study import Study
from prunus.tables import RecipeError
from prunus.variants import variants

SEARCHES: dict[str, Propose] = {"random": evenly, "optuna": by_optuna}
UNTAUGHT = (
    "its trainings held fewer decisions than one update takes (docs/learned.md), so the policy is as it was at first; "
    "raise learn.trainings, or let it decide more often"
)
LEFT_OUT = 10  # images that validate where all are to train: a run needs some


def learn(
    recipe: Recipe,
    directory: Path,
    console: Console,
    workers: int = 1,
    *,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    log: Sequence[str] = (),
) -> tuple[Path | None, int]:
    """Let the recipe's agents learn, then compare their schedules with the recipe's own on its seeds, and report.

    Returns the report's path, None where every run failed, and the number of failed runs. What was learned before under
    ``directory`` is not learned again; what was interrupted goes on. Raises InUseError where another live process works
    there, and RecipeError where the recipe has nothing to learn.
    """
    if recipe.learn is None:
        raise RecipeError("learn needs the key learn in the recipe, such as learn.trainings=50")
    if ranks.world_size() > 1:
        raise RecipeError("learn trains each run in one process, not under torchrun; leave it out, and give --workers")
    study = Study(directory / "learning", workers, checkpoint_every, log, None)
    study.directory.mkdir(parents=True, exist_ok=True)
    if any(agent not in SEARCHES for agent in recipe.learn.agents):
        import prunus.pupils  # noqa: F401  # whose extra is to be missed now, not hours later
    if recipe.learn.leaky:
        console.print("LEAKY: policies see the test set on the recipe's seeds; their closed loops are no result.")
    with alone(study.directory):
        study.forget_tasks_()
        planned = list(lessons(recipe, recipe.learn, study.directory))
        records = [_learned(lesson, recipe.seed, study, console) for lesson in planned]
        whole = _whole(recipe, planned, study, console) if recipe.learn.whole else []
    write_atomically(directory / "learn.json", json.dumps({"lessons": records, "whole": whole}, indent=1))
    replays = with_schedules(recipe, planned)
    return compare(replays, directory, console, workers, checkpoint_every=checkpoint_every, log=log)


def with_schedules(recipe: Recipe, learned: Sequence[Lesson]) -> Recipe:
    """The study of the recipe's own schedules, constant where it names none, and the learned ones."""
    methods = dict(recipe.method)
    for name in methods.keys() & set(METHODS):
        by_sparsity = {}
        for sparsity in recipe.sparsity:
            own = [one.get("schedule", "constant") for one in variants(recipe.method[name], sparsity)]
            files = [str(one.schedule) for one in learned if (one.method, one.sparsity) == (name, sparsity)]
            by_sparsity[sparsity] = {"each": [*own, *files]}
        methods[name] = methods[name] | {"schedule": {"by_sparsity": by_sparsity}}
    return recipe.model_copy(update={"method": methods, "learn": None})


def _learned(lesson: Lesson, seeds: Sequence[int], study: Study, console: Console) -> dict[str, Any]:
    """The record of a lesson, learned now unless it was before."""
    known = lesson.known()
    if known is not None and (lesson.agent in SEARCHES or _evaluated(known, lesson.learn, seeds)):
        console.print(f"{lesson.name}: learned before, in {lesson.schedule}", markup=False, soft_wrap=True)
        return known
    shapes, update_every = frame(lesson)
    with LessonDisplay(console, lesson.learn) as display:
        console.print(f"{lesson.name}: {lesson.learn.trainings} trainings", markup=False)
        if lesson.agent in SEARCHES:
            return search(lesson, shapes, update_every, SEARCHES[lesson.agent], lambda runs: display.run(runs, study))
        from prunus.pupils import practise  # needs the extra rl

        record = practise(lesson, shapes, update_every, seeds, study.workers, display.practised)
        if not record["updates"]:
            console.print(f"{lesson.name}: {UNTAUGHT}", markup=False, soft_wrap=True)
        return record


def _evaluated(record: Mapping[str, Any], learn: Learn, seeds: Sequence[int]) -> bool:
    """Whether the closed loops of a record are those that are asked for."""
    return record["leaky"] == learn.leaky and [one["seed"] for one in record["closed_loop"]] == [*seeds]


def frame(lesson: Lesson) -> tuple[Shapes, int]:
    """The shapes of the layers that the lesson is about, and the steps between two updates of their masks."""
    prepared = prepare(lesson.cell)
    assert prepared.sparsifier is not None
    every = inspect.signature(ALL_METHODS[lesson.method]).parameters["update_every"].default
    update_every = int(single(lesson.cell).arguments.get("update_every", every))
    if update_every > prepared.training.steps:
        raise RecipeError(
            f"method.{lesson.method}.update_every must be at most the {prepared.training.steps} steps of a training, "
            f"or there is nothing to decide, got {update_every}"
        )
    return {name: tuple(weight.shape) for name, weight in prepared.sparsifier.site.weights.items()}, update_every


class LessonDisplay(Display):
    """What a person sees while an agent learns: its trainings, their accuracy, the best so far and the time left."""

    def __init__(self, console: Console, learn: Learn) -> None:
        super().__init__(console, {})
        self.runs, self.best = learn.trainings, 0.0
        self.bars.update(self.whole, total=learn.trainings)

    def run(self, runs: Sequence[Recipe], study: Study) -> Results:
        """Train the runs of a search; what came of them, in order."""
        self.labels = {
            run.name(): f"training {self.done + at + 1}, seed {single(run).seed}" for at, run in enumerate(runs)
        }
        study.train_all(runs, "runs", self)
        return [study.result("runs", run.name()) for run in runs]

    def finished(self, name: str, result: dict[str, Any] | None, error: str) -> None:
        """A training of a search has ended."""
        self._told(name, accuracy(result), error)

    def practised(self, number: int, reached: float | None) -> None:
        """An episode of a policy has ended, at this accuracy or, where it is None, because its loss was not finite."""
        self.done = number  # those before may have ended before this process began
        name = f"episode {number + 1}"
        self.labels = {name: name}
        self._told(name, reached, "the loss was no longer finite")

    def _told(self, name: str, reached: float | None, error: str) -> None:
        self.best = max(self.best, reached or 0.0)
        outcome = f"FAILED: {error}" if reached is None else f"validation accuracy {100 * reached:.2f} %"
        self.ended(name, f"{outcome}, best so far {100 * self.best:.2f} %")


def _whole(recipe: Recipe, learned: Sequence[Lesson], study: Study, console: Console) -> list[dict[str, Any]]:
    """The test accuracy of each schedule, and of none, on the recipe's seeds when nearly all training images train."""
    share = LEFT_OUT / len(load_data(recipe).train)
    constant = {(one.method, one.sparsity): one.cell for one in learned}.values()
    planned = [
        (seed, "constant", cell.model_copy(update={"seed": (seed,)})) for cell in constant for seed in recipe.seed
    ]
    planned += [(seed, one.agent, one.run(one.schedule, seed)) for one in learned for seed in recipe.seed]
    runs = [run.model_copy(update={"validation": share}) for _, _, run in planned]
    console.print(f"{len(runs)} runs on all training images but {LEFT_OUT}")
    with Display(console, {run.name(): label(run) for run in runs}) as display:
        study.train_all(runs, "whole", display)
    results = [study.result("whole", run.name()) for run in runs]
    return [
        {
            "method": single(run).method,
            "sparsity": single(run).sparsity,
            "schedule": schedule,
            "seed": seed,
            "test": result["test"]["accuracy"],
        }
        for (seed, schedule, run), result in zip(planned, results, strict=True)
        if result is not None
    ]
