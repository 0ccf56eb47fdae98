"""What came of a run: quality, sparsity, operations, bytes and time, as plain values for its result file."""

import platform
from dataclasses import asdict
from typing import Any

import torch

from prunus import __version__
from prunus.evaluation import LayerCost, dense_bytes, layer_costs, packed_bytes, theoretical_speedup
from prunus.masks import prunable
from prunus.prepare import Prepared
from prunus.recipes import Recipe, single


def outcome(recipe: Recipe, prepared: Prepared, seconds: float) -> dict[str, Any]:
    """The result of a finished run that trained for ``seconds``."""
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
