"""What a person sees while a study runs: the runs in progress, their accuracy so far, and the time left."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from prunus.loop import Progress
from prunus.recipes import Recipe, single


class Display:
    """Live bars on a terminal: the whole study with its time left, and each run in progress; a line a finished run."""

    def __init__(self, console: Console, labels: Mapping[str, str]) -> None:
        self.console, self.runs, self.labels = console, len(labels), labels
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.whole = self.bars.add_task("all runs", total=self.runs, note="")
        self.active: dict[str, TaskID] = {}
        self.done = 0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def tell(self, name: str, progress: Progress) -> None:
        """News of a run in progress; a note becomes a line of its own."""
        if progress.note:
            self.console.print(f"{self.labels[name]}  {progress.note}", markup=False, soft_wrap=True)
        if name not in self.active:
            self.active[name] = self.bars.add_task(self.labels[name], total=progress.steps, note="")
        note = "" if math.isnan(progress.accuracy) else f"accuracy {100 * progress.accuracy:.2f} %"
        self.bars.update(self.active[name], completed=progress.step, note=note)

    def finished(self, name: str, result: dict[str, Any] | None, error: str) -> None:
        """A run has ended."""
        self.ended(name, _outcome(result, error))

    def searched(self, name: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Some points of a search have ended."""
        self.ended(name, "; ".join(_point(point) for point in points))

    def ended(self, name: str, outcome: str) -> None:
        """A unit of the study has ended, and how."""
        if name in self.active:
            self.bars.remove_task(self.active.pop(name))
        self.done += 1
        self.bars.update(self.whole, completed=self.done)
        self.console.print(
            f"[{self.done:>{len(str(self.runs))}}/{self.runs}] {self.labels[name]}  {outcome}", markup=False
        )


def label(recipe: Recipe) -> str:
    """A run in words."""
    run = single(recipe)
    arguments = ", ".join(f"{name}={_short(value)}" for name, value in run.arguments.items())
    method = f"{run.method}({arguments})" if arguments else run.method
    length = f"{recipe.epochs[0]:g} epochs" if recipe.epochs else f"{recipe.steps} steps"
    return f"{method:<10} sparsity {run.sparsity:<5g} seed {run.seed}, {length}"


def _short(value: object) -> object:
    return Path(value).stem if isinstance(value, str) and value.endswith((".json", ".csv")) else value


def _point(point: Mapping[str, Any]) -> str:
    short = {path: f"{value:.3g}" if isinstance(value, float) else value for path, value in point["values"].items()}
    values = ", ".join(f"{path}={value}" for path, value in short.items()) or "as the recipe says"
    accuracy = point["validation_accuracy"]
    return f"{values}: " + ("diverged" if accuracy is None else f"validation accuracy {100 * accuracy:.2f} %")


def _outcome(result: dict[str, Any] | None, error: str) -> str:
    if result is None or error:
        return f"FAILED: {error}"
    line = f"accuracy {100 * result['test']['accuracy']:6.2f} %"
    if result["collapsed"]:
        line += f"  COLLAPSED: {', '.join(result['collapsed'])}"
    return line
