"""Runs: one recipe trained in its own directory, named by the hash of the recipe; a finished run is not run again."""

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunus.allocation import CollapseWarning
from prunus.outcome import forget_peak_, outcome
from prunus.prepare import Prepared, prepare
from prunus.recipes import Recipe
from prunus.storage import write_atomically


class Progress(NamedTuple):
    """How far a run is: steps taken, steps in all, last validation accuracy (NaN before the first)."""

    step: int
    steps: int
    accuracy: float


def train(recipe: Recipe, directory: Path, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """Train a run's recipe in ``directory / recipe.name()`` and return its result, or the one that is there already."""
    home = directory / recipe.name()
    result = home / "result.json"
    if result.is_file():
        there: dict[str, Any] = json.loads(result.read_text())
        return there
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(home / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the result names collapsed layers
        prepared = prepare(recipe)
        forget_peak_(prepared.device)
        with (home / "metrics.jsonl").open("w") as metrics:
            seconds = _loop(recipe, prepared, metrics.write, tell)
    found = outcome(recipe, prepared, seconds)
    write_atomically(result, json.dumps(found, indent=1))
    return found


def _loop(recipe: Recipe, prepared: Prepared, write: Callable[[str], Any], tell: Callable[[Progress], None]) -> float:
    training, steps = prepared.training, prepared.training.steps
    interval = max(1, steps // recipe.evaluations)
    seconds, began = 0.0, time.perf_counter()
    accuracy = float("nan")
    for step in training:
        if step.number % interval and step.number != steps:
            continue
        loss = step.loss.item()  # waits for the device, so that the clock stops after the work
        seconds += time.perf_counter() - began
        if step.number == steps and prepared.sparsifier is not None:
            prepared.sparsifier.finalize()
        quality = prepared.quality(prepared.validation)
        accuracy = quality.accuracy
        line = {
            "step": step.number,
            "epoch": step.number / prepared.epoch_steps,
            "loss": loss,
            "learning_rate": step.learning_rate,
            "sparsity": prepared.sparsifier.sparsity() if prepared.sparsifier else 0.0,
            "accuracy": accuracy,
            "nll": quality.nll,
        }
        write(json.dumps(line) + "\n")
        tell(Progress(step.number, steps, accuracy))
        began = time.perf_counter()
    return seconds
