"""Lessons: an agent learns a schedule for one method at one sparsity, and leaves it as a file."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from prunus.budgets import Shapes
from prunus.learned_schedule import LearnedSchedule
from prunus.points import Range
from prunus.proposals import Point, Propose
from prunus.recipes import Recipe, single
from prunus.settings import SELECTION, Learn
from prunus.storage import write_atomically
from prunus.tables import RecipeError

METHODS = ("rp-rr", "mp-rr")  # those that follow a schedule up and down
OF_A_LESSON = {"trainings", "finalists", "sparsest", "decision_every", "smooth", "reward"}
AT_ONCE = 4  # points that a search proposes without knowing of each other, however many processes try them

Results = Sequence[dict[str, Any] | None]  # None for a training that diverged
TrainAll = Callable[[Sequence[Recipe]], Results]


@dataclass(frozen=True)
class Lesson:
    """What one agent is to learn: ``cell`` is the run of one method at one sparsity, without a schedule.

    ``folder`` holds what is left of it: the schedule, its table, the record, and the schedules of candidates.
    """

    cell: Recipe
    agent: str
    learn: Learn
    folder: Path

    @property
    def name(self) -> str:
        """In words: 'mp-rr at 0.9, ppo'."""
        return f"{self.method} at {self.sparsity:g}, {self.agent}"

    @property
    def method(self) -> str:
        """rp-rr or mp-rr."""
        return single(self.cell).method

    @property
    def sparsity(self) -> float:
        """What the network is to have at least."""
        return single(self.cell).sparsity

    @property
    def densities(self) -> tuple[float, float]:
        """The lowest and the highest density of a layer."""
        return round(1.0 - self.learn.sparsest, 9), round(1.0 - self.sparsity, 9)

    @property
    def schedule(self) -> Path:
        """The file of what was learned."""
        return self.folder / f"{self.agent}.json"

    @property
    def work(self) -> Path:
        """What a policy leaves while it learns."""
        return self.folder / f"{self.agent}-{self.key()}"

    def key(self) -> str:
        """The hash of all that the lesson follows from."""
        named = [self.cell.name(), self.agent, self.learn.model_dump(mode="json", include=OF_A_LESSON)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]

    def known(self) -> dict[str, Any] | None:
        """The record of a lesson that was learned before; None where it was not, or of another recipe."""
        path = self.schedule.with_suffix(".record")
        record: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return record if record is not None and record["key"] == self.key() else None

    def provenance(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Where the schedule comes from and what it cost, for its file."""
        recipe = self.cell.resolved()
        costs = ("training_macs", "training_macs_dense")  # no seconds: runs are named by what is in the file
        return {
            "agent": self.agent,
            "search_cost": self.learn.trainings,
            **{key: record[key] for key in ("reward", "chosen", *costs)},
            "learn": self.learn.model_dump(mode="json", include=OF_A_LESSON),
            "recipe": {key: value for key, value in recipe.items() if key not in ("seed", "learn", "search")},
        }

    def leave(self, schedule: LearnedSchedule, record: dict[str, Any]) -> dict[str, Any]:
        """Write what was learned, the record last, and return the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        drawn = single(self.cell).arguments.get("mask_init") or schedule.mask_init
        schedule = replace(schedule, mask_init=drawn, provenance=self.provenance(record))
        schedule.write(self.schedule)
        schedule.write(self.schedule.with_suffix(".csv"))
        record |= {
            "key": self.key(),
            "method": self.method,
            "sparsity": self.sparsity,
            "agent": self.agent,
            "schedule": str(self.schedule),
            "trainings": self.learn.trainings,
            "finalists": self.learn.finalists,
            "leaky": self.learn.leaky and bool(record["closed_loop"]),
            "layers": list(schedule.density),
            "update_every": schedule.delta_t,
            "densities": [list(row) for row in zip(*schedule.density.values(), strict=True)],
        }
        write_atomically(self.schedule.with_suffix(".record"), json.dumps(record, indent=1))
        return record

    def run(self, schedule: Path, seed: int) -> Recipe:
        """The run of the cell with a schedule, on the network of a seed."""
        arguments = {**single(self.cell).arguments, "schedule": str(schedule)}
        return self.cell.model_copy(update={"method": {self.method: arguments}, "seed": (seed,)})


def lessons(recipe: Recipe, learn: Learn, folder: Path) -> Iterator[Lesson]:
    """One for each of the recipe's methods, sparsities and agents. Raises RecipeError where no method can learn."""
    if recipe.recalibrate:
        raise RecipeError(f"learn needs recalibrate=0, for decisions are made without it, got {recipe.recalibrate}")
    for cell in _cells(recipe):
        chosen = single(cell)
        if chosen.arguments.get("turnover") and any(agent.startswith("ppo") for agent in learn.agents):
            raise RecipeError(f"a policy decides sizes alone: {chosen.method} needs turnover=0, or other learn.agents")
        if chosen.sparsity >= learn.sparsest:
            raise RecipeError(
                f"learn.sparsest must be above the recipe's sparsity {chosen.sparsity}, or there is nothing to choose, "
                f"got {learn.sparsest}"
            )
        for agent in learn.agents:
            yield Lesson(cell, agent, learn, folder / chosen.method / f"{chosen.sparsity:g}")


def _cells(recipe: Recipe) -> list[Recipe]:
    """The run of each method that can learn at each sparsity, without a schedule."""
    found: dict[tuple[str, float], Recipe] = {}
    for run in recipe.model_copy(update={"seed": (0,)}).runs():
        chosen = single(run)
        if chosen.method not in METHODS:
            continue
        plain = {name: value for name, value in chosen.arguments.items() if name != "schedule"}
        cell = run.model_copy(update={"method": {chosen.method: plain}})
        if found.setdefault((chosen.method, chosen.sparsity), cell) != cell:
            raise RecipeError(
                f"learn needs one length and one value of each argument of {chosen.method} but schedule; choose, such "
                "as epochs=10"
            )
    if not found:
        raise RecipeError(f"learn needs a method that follows schedules, rp-rr or mp-rr, got {[*recipe.method]}")
    return list(found.values())


def search(lesson: Lesson, shapes: Shapes, update_every: int, propose: Propose, train_all: TrainAll) -> dict[str, Any]:
    """Learn by trying constant vectors of densities, one a layer; what is left and its record.

    All but the last ``finalists`` trainings try a vector each; those then train the best vectors once more, and the
    highest mean of both wins.
    """
    low, high = lesson.densities
    space = {name.removesuffix(".weight"): Range(low, high) for name in shapes}
    tries = lesson.learn.trainings - lesson.learn.finalists
    told: list[tuple[Point, float | None]] = []
    results: list[dict[str, Any] | None] = []
    while len(told) < tries:
        proposed = propose(space, told, min(AT_ONCE, tries - len(told)), 0)
        files = [_candidate(lesson, shapes, update_every, len(told) + at, point) for at, point in enumerate(proposed)]
        came = train_all([lesson.run(file, len(told) + at) for at, file in enumerate(files)])
        told += [(point, accuracy(one)) for point, one in zip(proposed, came, strict=True)]
        results += came
    ranked = sorted(range(tries), key=lambda at: -(told[at][1] or 0.0))[: lesson.learn.finalists]
    files = [_candidate(lesson, shapes, update_every, at, told[at][0]) for at in ranked]
    finals = train_all([lesson.run(file, SELECTION) for file in files])
    if all(one is None for one in finals):
        raise diverged(lesson)
    merits = [fmean([told[at][1] or 0.0, accuracy(one) or 0.0]) for at, one in zip(ranked, finals, strict=True)]
    best = merits.index(max(merits))
    record = {
        "reward": "acc",
        "episodes": [episode(at, one) for at, one in enumerate(results)],
        "chosen": [{"seed": SELECTION, "accuracy": accuracy(finals[best])}],
        "closed_loop": [],
        **cost([*results, *finals]),
    }
    return lesson.leave(LearnedSchedule.read(files[best]), record)


def diverged(lesson: Lesson) -> RecipeError:
    """The error of a lesson that nothing came of."""
    return RecipeError(
        f"{lesson.name}: the loss of every final training was no longer finite, so that there is no schedule; lower "
        "the learning rate"
    )


def accuracy(result: Mapping[str, Any] | None) -> float | None:
    """The validation accuracy of a run."""
    return None if result is None else float(result["validation"]["accuracy"])


def episode(seed: int, result: Mapping[str, Any] | None) -> dict[str, Any]:
    """A training of a lesson, for its record."""
    return {
        "seed": seed,
        "accuracy": accuracy(result),
        "sparsity": None if result is None else result["realised_sparsity"],
    }


def cost(results: Results) -> dict[str, float]:
    """What trainings took: multiply-accumulates, those of one dense training each, and seconds."""
    ended = [one for one in results if one is not None]
    return {key: sum(one[key] for one in ended) for key in ("training_macs", "training_macs_dense")} | {
        "seconds": sum(one["train_seconds"] for one in ended)
    }


def _candidate(lesson: Lesson, shapes: Shapes, update_every: int, number: int, point: Point) -> Path:
    """The file of a constant schedule, written once, by which its run is named."""
    row = [point[name.removesuffix(".weight")] for name in shapes]
    path = lesson.folder / f"{lesson.agent}-candidates" / f"{number:03}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    schedule = LearnedSchedule.of(
        [row],
        shapes,
        bounds=dict.fromkeys(shapes, lesson.densities),
        method=lesson.method,
        delta_t=update_every,
        provenance={"agent": lesson.agent, "candidate": number},
    )
    schedule.write(path)
    return path
