"""A study: where its runs go, and how all of them are trained, by processes that take over from those that die."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from prunus.display import Display
from prunus.loop import Progress, Tell
from prunus.recipes import Recipe
from prunus.runs import DIVERGED, train
from prunus.search import Lane
from prunus.storage import InUseError
from prunus.tables import RecipeError
from prunus.workers import Hear, Job, work_off


class News(NamedTuple):
    """Of a unit in progress: how far it is, or, once it is done, what went wrong, empty for nothing."""

    name: str
    progress: Progress | None
    error: str = ""


@dataclass(frozen=True)
class Study:
    """Where a study's runs go and how they are trained; travels to its workers."""

    directory: Path
    workers: int
    checkpoint_every: float
    log: Sequence[str]
    storage: str | None

    def train(self, recipe: Recipe, folder: str, tell: Tell) -> dict[str, Any]:
        """The result of a run, trained now or before, here or, with a storage, by whoever holds it."""
        home = self.directory / folder
        while True:
            try:
                return train(recipe, home, tell, checkpoint_every=self.checkpoint_every, log=self.log)
            except InUseError:
                if self.storage is None:
                    raise

    def identity(self) -> str:
        """A name of the directory, by which a storage tells its studies apart."""
        path = self.directory / ".identity"
        own = path.with_name(f".identity-{token_hex(8)}")
        own.write_text(own.name)
        with suppress(FileExistsError):  # the first to come names it
            os.link(own, path)
        own.unlink()
        return path.read_text()

    def train_all(self, runs: Sequence[Recipe], folder: str, display: Display) -> set[str]:
        """Train all runs below ``folder``; the names of those that failed."""
        units = [(run.name(), run) for run in runs]
        failed: dict[str, str] = {}

        def hear(news: News) -> None:
            if news.progress is not None:
                display.tell(news.name, news.progress)
                return
            failed.update({news.name: news.error} if news.error else {})
            display.finished(news.name, self.result(folder, news.name), news.error)

        do = partial(_train_one, study=self, folder=folder)
        job = self.job(folder, units, do, display.labels)
        # a run that diverged has no value, and would again
        work_off(job, self.workers, hear, lambda name, value: value is not None and self.result(folder, name) is None)
        missing = {name for name, _ in units if self.result(folder, name) is None}
        for name in sorted(missing - set(failed)):
            display.finished(name, None, "it diverged before or on another machine, or its result was just deleted")
        return missing

    def job(
        self,
        name: str,
        units: Sequence[tuple[str, Any]],
        do: Callable[[str, Any, Hear], float | None],
        words: Mapping[str, str],
    ) -> Job:
        """The tasks of doing all ``units``, by their names; ``words`` say what each is."""
        named = dict(units)  # what two settings come to is done once
        digest = hashlib.sha256(json.dumps([self.identity(), *named]).encode()).hexdigest()[:8]
        storage = self.storage or self.directory / "tasks.journal"
        return Job(f"{name} {digest}", list(named.items()), do, storage, words)

    def result(self, folder: str, name: str) -> dict[str, Any] | None:
        """What came of a run; None where it has not finished."""
        path = self.directory / folder / name / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def forget_tasks_(self) -> None:
        """Forget who did what: done is what has a result, and the journal only keeps live workers apart."""
        (self.directory / "tasks.journal").unlink(missing_ok=True)
        shutil.rmtree(self.directory / "tasks.journal.locks", ignore_errors=True)


def refuse_change(unit: Recipe | Lane, name: str) -> None:
    """Raises RecipeError where a file that the recipe names is no longer what its name was made of."""
    if unit.name() != name:
        raise RecipeError(
            "a file that the recipe names (a plug-in, data, a start) must stay as it is while the study runs, and one "
            "has changed; give the same command again, which trains with the file as it is now"
        )


def _train_one(name: str, run: Recipe, hear: Hear, study: Study, folder: str) -> float | None:
    refuse_change(run, name)
    try:
        result = study.train(run, folder, lambda progress: hear(News(name, progress)))
    except DIVERGED as error:
        hear(News(name, None, str(error)))
        return None
    hear(News(name, None))
    accuracy: float = result["validation"]["accuracy"]
    return accuracy
