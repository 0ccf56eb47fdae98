"""What came of a run: quality, sparsity, operations, bytes and time, as plain values for its result file."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus import __version__
from prunus.carriers import Retrained
from prunus.evaluation import LayerCost, dense_bytes, layer_costs, theoretical_speedup
from prunus.masks import prunable
from prunus.prepare import Prepared
from prunus.ranks import world_size
from prunus.recipes import Recipe, single
from prunus.sparsifier import Sparsifier

POINTS = 200  # of the curve of learning rates


def outcome(
    recipe: Recipe, prepared: Prepared, seconds: float, recalibration: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The result of a finished run that trained for ``seconds``; the size of its file is known once that is written.

    ``recalibration`` holds the accuracies before and after BatchNorm was recalibrated at the end.
    """
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
    steps, examples = prepared.training.steps, recipe.batch_size * recipe.accumulate
    dense_gradients = dense_steps(prepared.sparsifier, steps)
    validation = prepared.quality(prepared.validation)
    return {
        "format": "prunus-result/3",
        "method": run.method,
        "arguments": run.arguments,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "data": prepared.data.name,
        "model": recipe.model if isinstance(recipe.model, str) else next(iter(recipe.model)),
        "steps": steps,
        "epochs": steps / prepared.epoch_steps,
        "batch_size": recipe.batch_size,
        "test": asdict(prepared.quality(prepared.test)),
        "validation": asdict(validation),
        "realised_sparsity": dropped / sum(cost.weights for cost in costs),
        "layers": [_layer(cost) for cost in costs],
        "collapsed": [cost.name for cost in costs if cost.kept <= 1 < cost.weights],
        "parameters": parameters,
        "parameters_kept": parameters - dropped,
        "macs": sum(cost.macs for cost in every_layer),
        "macs_kept": sum(cost.macs_kept for cost in every_layer),
        "theoretical_speedup": speedup if speedup < float("inf") else None,
        "bytes_dense": dense_bytes(state),
        "train_seconds": seconds,
        "training_bytes": training_bytes(model, prepared.training.optimizer, prepared.sparsifier),
        "peak_bytes": peak_bytes(prepared.device),
        "extra_forward_backward": prepared.evidence.passes,
        "training_macs": prepared.operations.training(
            examples, dense_gradients, prepared.evidence.passes * recipe.batch_size
        ),
        "training_macs_dense": prepared.operations.dense(examples),
        "cycles": _cycles(prepared.sparsifier, (recalibration or {}).get("before", validation.accuracy)),
        "recalibration": None if recalibration is None else dict(recalibration),
        "learning_rates": learning_rates(prepared, POINTS),
        "versions": {"prunus": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "world_size": world_size(),
        "gradients": gradients_sent(prepared),
        "threads": torch.get_num_threads(),
        "device": str(prepared.device),
        "precision": recipe.precision,
    }


def learning_rates(prepared: Prepared, points: int) -> list[tuple[int, float]]:
    """(step, rate) of at most ``points`` steps of the run, two or more: the first and the last are among them."""
    training, sparsifier = prepared.training, prepared.sparsifier
    chosen = sorted({round(point * (training.steps - 1) / (points - 1)) for point in range(points)})
    if sparsifier is not None and isinstance(sparsifier.method, Retrained):  # which sets the rates itself
        return [(step, sparsifier.method.rate(step)) for step in chosen]
    assert training.learning_rate is not None
    return [(step, training.learning_rate(step / training.steps)) for step in chosen]


def _cycles(sparsifier: Sparsifier | None, accuracy: float) -> list[dict[str, Any]]:
    """The cycles of a run that had any; the last ended with ``accuracy``, each other where the next was measured."""
    if sparsifier is None or not isinstance(sparsifier.method, Retrained):
        return []
    cycles = sparsifier.method.record
    ends = [*(cycle.measured["trained"] for cycle in cycles[1:]), accuracy]
    return [
        asdict(cycle) | {"measured": cycle.measured | {"retrained": end}}
        for cycle, end in zip(cycles, ends, strict=True)
    ]


def dense_steps(sparsifier: Sparsifier | None, steps: int) -> int:
    """In how many of ``steps`` steps the gradients of all weights were needed."""
    return steps if sparsifier is None else sum(sparsifier.method.reads_dropped(clock) for clock in range(steps))


def gradients_sent(prepared: Prepared) -> dict[str, Any] | None:
    """The bytes of gradients that a rank sent in a step, of those without packing; None for one process.

    ``trials`` are the measurements by which packing was used or not; empty where nothing had to be chosen.
    """
    training, packing = prepared.training, prepared.packing
    if world_size() == 1:
        return None
    if packing is None:
        dense = _bytes(one for one in prepared.model.parameters() if one.requires_grad) * training.accumulate
        return {"bytes_dense": dense, "bytes_sent": dense, "trials": []}
    trials = packing.choice.trials if packing.choice else []
    return {
        "bytes_dense": packing.dense / training.steps,
        "bytes_sent": packing.sent / training.steps,
        "trials": [asdict(trial) | {"packed": trial.packed} for trial in trials],
    }


def training_bytes(model: nn.Module, optimizer: Optimizer, sparsifier: Sparsifier | None) -> dict[str, int]:
    """The bytes that training held between two steps, counted: activations and passing tensors are not in it.

    ``parameters`` are the model's and those that a method gave the optimizer, ``gradients`` one for each that trains,
    ``optimizer`` its state, ``method`` masks and remembered gradients.
    """
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = {id(parameter): parameter for parameter in (*model.parameters(), *grouped)}.values()
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return {
        "parameters": _bytes(held),
        "gradients": _bytes(parameter for parameter in held if parameter.requires_grad),
        "optimizer": _bytes(state),
        "method": 0 if sparsifier is None else _method_bytes(sparsifier),
    }


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes allocated on an accelerator since `forget_peak_`, data and evaluation included; None on a CPU.

    Processes share a CPU's allocator and several runs a process, so that its high-water mark belongs to no run.
    """
    return None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)


def forget_peak_(device: torch.device) -> None:
    """Start `peak_bytes` anew from what is allocated now."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _method_bytes(sparsifier: Sparsifier) -> int:
    state = dict(sparsifier.method.state_dict())
    # packed in the state, one byte a weight in memory; a method without them there computes its masks
    masks = sparsifier.masks if state.pop("masks", None) else {}
    return _bytes(masks.values()) + sum(_bytes(tensors.values()) for tensors in state.values())


def _layer(cost: LayerCost) -> dict[str, Any]:
    return asdict(cost) | {"sparsity": cost.sparsity, "macs_kept": cost.macs_kept}
