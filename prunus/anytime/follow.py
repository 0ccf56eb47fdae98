"""Following a folder: megabatches are trained on as they arrive, and the sparse network of the moment is published."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from rich.console import Console

from prunus import checkpoints
from prunus.anytime.arrivals import Megabatch
from prunus.anytime.course import STAGES, Course
from prunus.anytime.inbox import Inbox
from prunus.anytime.kept import Kept
from prunus.anytime.state import Record
from prunus.loggers import Log
from prunus.loop import Progress
from prunus.packing import save_packed
from prunus.ranking import NotANumberError
from prunus.recipes import Recipe, parse, single
from prunus.settings import Anytime
from prunus.storage import alone, write_atomically
from prunus.streams import hold_out
from prunus.tables import RecipeError
from prunus.training import NonFiniteLossError
from prunus.yaml_text import parsed

CURRENT = "current.safetensors"
RECORDS = "stream.json"
OF_A_DATA_SET = ("megabatches", "size", "order", "order_seed", "per_class")
NOTHING = Megabatch(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
POLL = 0.5  # seconds between two looks into the folder


@dataclass(frozen=True)
class Until:
    """When following ends: after so many ``megabatches`` in all, or so many seconds without one; None for never."""

    megabatches: int | None = None
    idle: float | None = None


@dataclass
class Following(Course):
    """A course over the megabatches that arrive in a folder; ``recipe`` says the rest, ``data`` the test images."""

    inbox_folder: Path = Path()
    until: Until = field(default_factory=Until)
    console: Console = field(default_factory=Console)

    def _expected(self) -> list[Megabatch]:
        if self.stream.horizon is None:
            raise RecipeError(
                "anytime.horizon must say over how many megabatches sparsity grows, since nobody knows how many will "
                "come; such as anytime.horizon=8, after which it stays"
            )
        if self.stream.rates == "whole":
            raise RecipeError("anytime.rates=whole needs the number of megabatches, which nobody knows; take cyclic")
        self.inbox = Inbox(self.inbox_folder, self.home, self.data, self.recipe.validation)
        self.images = self.kept = Kept(self.inbox)
        return [self._megabatch(number, size) for number, size in enumerate(self.state.sizes)]

    def arrive(self) -> bool:
        """Wait for the next megabatch; False where following is to end."""
        if self.until.megabatches is not None and self.state.number >= self.until.megabatches:
            return False
        began = time.monotonic()
        while len(self.inbox.ledger) <= self.state.number:
            for line in self.inbox.take():
                self.console.print(f"set aside: {line}", markup=False, soft_wrap=True)
            if len(self.inbox.ledger) > self.state.number:
                break
            idle = time.monotonic() - began
            if self.until.idle is not None and idle > self.until.idle and not self.inbox.arriving():
                return False
            time.sleep(POLL)
        number = self.state.number
        if number == len(self.megabatches):
            size = len(self.kept.megabatch(number))
            self.state.sizes.append(size)
            self.megabatches.append(self._megabatch(number, size))
        return True

    def _megabatch(self, number: int, size: int) -> Megabatch:
        before = self.kept.begins[-1]
        self.kept.add(size)
        ids = torch.arange(before, before + size)
        if number in self.state.left_out:
            return NOTHING
        train, validation = hold_out(ids, self.recipe.validation, seed=self.run.seed, number=number)
        return Megabatch(train, validation)

    def _train_(self, new: range, member: int, folder: Path) -> bool:
        """Whether it could be trained; megabatches on which training fails are left out, and the network stays."""
        try:
            return super()._train_(new, member, folder)
        except (NonFiniteLossError, NotANumberError, ValueError) as error:
            if isinstance(error, RecipeError):
                raise
            said = " ".join(str(error).split())
        names = ", ".join(self.inbox.ledger[number][0] for number in new)
        self.console.print(f"not trained on: {names}: {said}", markup=False, soft_wrap=True)
        checkpoints.remove(folder)
        self.metrics.truncate(self.state.logged)
        self.state.left_out += new
        for number in new:
            self.megabatches[number] = NOTHING
        return False

    def _last(self) -> bool:
        return False

    def _finish_(self, new: range) -> None:
        super()._finish_(new)
        self._publish(self.state.records[-1])

    def _save(self) -> None:
        super()._save()
        memories, waiting = self.state.memories, self.state.number - self.state.number % self.stream.wait
        needed = torch.cat([torch.zeros(0, dtype=torch.int64), *memories.train, *memories.validation])
        self.kept.forget_(needed, waiting)  # only now does no checkpoint need them any more

    def _publish(self, record: Record) -> None:
        """Put the network of the moment where others read it, whole, and say how good it is."""
        number, trained = self.state.number, record["trained"]
        if trained:
            told = {"megabatch": str(number), "validation_accuracy": str(trained[-1]["validation_accuracy"])}
            save_packed(self.home / CURRENT, self.learner().state_dict(), metadata=told)
        write_atomically(self.home / RECORDS, json.dumps(self.state.records, indent=1))
        name = self.inbox.ledger[number - 1][0]
        kept, total = map(sum, zip(*record["layers"].values(), strict=True)) if record["layers"] else (1, 1)
        accuracy = 1.0 - record["errors"] / record["tested"]
        self.console.print(
            f"megabatch {number}, {name}: {record['examples']} images, sparsity {1.0 - kept / total:.4f}, "
            f"test accuracy {100 * accuracy:.2f} %",
            markup=False,
            soft_wrap=True,
        )


def follow(recipe: Recipe, inbox: Path, home: Path, console: Console, *, until: Until, checkpoint_every: float) -> None:
    """Train on the megabatches that arrive in ``inbox``, one after the other, and publish `CURRENT` after each.

    Called again with the same recipe it goes on where it was killed. Raises RecipeError for a recipe of several runs or
    another than the one before, and InUseError where another live process follows into ``home``.
    """
    if recipe.anytime is None:
        raise RecipeError("following needs the key anytime in the recipe, such as anytime.horizon=8")
    if told := [key for key in OF_A_DATA_SET if getattr(recipe.anytime, key) != Anytime.model_fields[key].default]:
        raise RecipeError(
            f"{', '.join(f'anytime.{key}' for key in told)} cut a data set into megabatches, and a folder that is "
            "followed brings its own; leave that out"
        )
    single(recipe)
    (recipe,) = recipe.runs()
    if inbox.resolve() == home.resolve():
        raise RecipeError(f"the folder that is followed must not be the one that is written, {home}; choose --out")
    inbox.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    with alone(home), (home / "metrics.jsonl").open("a") as metrics:
        course = Following(
            recipe, home, metrics, Log([]), _silent, checkpoint_every, inbox_folder=inbox, until=until, console=console
        )
        _same_recipe(recipe, home)
        for left in _cut_off(course.inbox):
            left.unlink()
        console.print(_plan(course), markup=False, soft_wrap=True)
        course.run_()


def _cut_off(inbox: Inbox) -> Iterator[Path]:
    """What a process left that was killed while it wrote, where none but it writes."""
    for place in (inbox.home, inbox.arrived, inbox.taken, inbox.aside, inbox.home / STAGES):
        yield from place.glob("*.partial")
    yield from (inbox.home / "checkpoints").rglob("*.partial")


def _plan(course: Following) -> str:
    first, last, horizon = course.sparsity(0), course.run.sparsity, course.planned
    if course.run.method == "dense":
        return f"Following {course.inbox_folder}: a dense network"
    return (
        f"Following {course.inbox_folder}: sparsity {first:.4g} after the first megabatch, {last:.4g} after number "
        f"{horizon} (anytime.horizon), and then it stays"
    )


def _same_recipe(recipe: Recipe, home: Path) -> None:
    """Keep the recipe; raises RecipeError where another one began here."""
    path = home / "recipe.yaml"
    if path.is_file() and parse(parsed(path.read_text(), str(path))).name() != recipe.name():
        raise RecipeError(f"{home} follows a stream by another recipe, {path}; choose another directory with --out")
    write_atomically(path, yaml.safe_dump(recipe.resolved(), sort_keys=False))


def _silent(progress: Progress) -> None:
    """A line a megabatch is enough."""
