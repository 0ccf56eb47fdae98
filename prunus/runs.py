"""Runs: one recipe trained in its own directory, named by the hash of the recipe; a finished run is not run again."""

import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from prunus import __version__
from prunus.allocation import CollapseWarning
from prunus.evaluation import LayerCost, dense_bytes, layer_costs, packed_bytes, theoretical_speedup
from prunus.masks import prunable
from prunus.prepare import Prepared, prepare
from prunus.recipes import Recipe, single


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
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(home / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # the result names collapsed layers
        prepared = prepare(recipe)
        with (home / "metrics.jsonl").open("w") as metrics:
            seconds = _loop(recipe, prepared, metrics.write, tell)
    outcome = _result(recipe, prepared, seconds)
    write_atomically(result, json.dumps(outcome, indent=1))
    return outcome


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader, or a crash, sees all of it or nothing."""
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial_path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(path)


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


def _result(recipe: Recipe, prepared: Prepared, seconds: float) -> dict[str, Any]:
    run, model = single(recipe), prepared.model
    weights = prunable(model, recipe.include, recipe.exclude)
    dtype = next(model.parameters()).dtype
    example = torch.zeros(1, *prepared.data.input_shape, device=prepared.device, dtype=dtype)
    costs = layer_costs(model, weights, example)
    every_layer = layer_costs(model, prunable(model), example)
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    dropped = sum(cost.weights - cost.kept for cost in costs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    speedup = theoretical_speedup(every_layer)
    return {
        "format": "prunus-result/1",
        "method": run.method,
        "arguments": run.arguments,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "data": prepared.data.name,
        "model": recipe.model if isinstance(recipe.model, str) else next(iter(recipe.model)),
        "steps": prepared.training.steps,
        "epochs": prepared.training.steps / prepared.epoch_steps,
        "batch_size": recipe.batch_size,
        "test": asdict(prepared.quality(prepared.test)),
        "validation": asdict(prepared.quality(prepared.validation)),
        "realised_sparsity": dropped / sum(cost.weights for cost in costs),
        "layers": [_layer(cost) for cost in costs],
        "collapsed": [cost.name for cost in costs if cost.kept <= 1 < cost.weights],
        "parameters": parameters,
        "parameters_kept": parameters - dropped,
        "macs": sum(cost.macs for cost in every_layer),
        "macs_kept": sum(cost.macs_kept for cost in every_layer),
        "theoretical_speedup": speedup if speedup < float("inf") else None,
        "bytes_dense": dense_bytes(state),
        "bytes_packed": packed_bytes(state, weights) if run.sparsity else dense_bytes(state),
        "train_seconds": seconds,
        "extra_forward_backward": prepared.evidence.passes,
        "versions": {"prunus": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(prepared.device),
        "precision": recipe.precision,
    }


def _layer(cost: LayerCost) -> dict[str, Any]:
    return asdict(cost) | {"sparsity": cost.sparsity, "macs_kept": cost.macs_kept}
