"""Beginning a run from the network that another one left."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.masks import Masks, Weights, pack, prunable, sparsity_of, unpack
from prunus.packing import save_dense
from prunus.recipes import Recipe, Single, parse
from prunus.state_file import read_state
from prunus.tables import RecipeError
from prunus.updates import START_TOLERANCE
from prunus.yaml_text import parsed

Moments = Mapping[str, Mapping[str, Any]]  # what an optimizer keeps of each parameter, by the parameter's name


@dataclass(frozen=True)
class Left:
    """What a training leaves to the next of the same network: weights and buffers, masks, the optimizer's moments.

    ``masks`` is None for a dense network; ``moments`` is empty for an optimizer that begins anew.
    """

    weights: Mapping[str, Tensor]
    masks: Masks | None
    moments: Moments

    @classmethod
    def of(cls, model: nn.Module, masks: Masks | None, optimizer: Optimizer | None) -> "Left":
        """What ``model`` holds now, copied, and what ``optimizer`` keeps of its parameters, unless it is None."""
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        held = None if masks is None else {name: mask.clone() for name, mask in masks.items()}
        return cls(weights, held, {} if optimizer is None else _moments(model, optimizer))

    def restore_(self, model: nn.Module, optimizer: Optimizer) -> Masks | None:
        """Put it back into a network and an optimizer of its parameters; the masks."""
        model.load_state_dict(self.weights)
        for name, parameter in model.named_parameters():
            if name in self.moments:
                kept = self.moments[name]
                optimizer.state[parameter] = {key: _beside(value, parameter) for key, value in kept.items()}
        return None if self.masks is None else {name: mask.clone() for name, mask in self.masks.items()}


def _beside(value: Any, parameter: Tensor) -> Any:
    """A copy of what an optimizer keeps, on the device of its parameter where it is one value a weight."""
    if not isinstance(value, Tensor):
        return value
    return value.to(parameter.device, copy=True) if value.shape == parameter.shape else value.clone()


def _moments(model: nn.Module, optimizer: Optimizer) -> Moments:
    state = optimizer.state
    return {
        name: {key: value.clone() if isinstance(value, Tensor) else value for key, value in state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in state
    }


WEIGHTS, MASKS = "model.safetensors", "masks.safetensors"  # of a run, in its directory


def begin_(model: nn.Module, recipe: Recipe, run: Single, path: Path) -> Masks | None:
    """Load the weights at ``path`` into ``model``; the masks of what it has left, None where it is dense.

    Raises RecipeError for weights of another model, that are not finite, or sparser than the run is to end.
    """
    state, _ = read_state(path)
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise RecipeError(f"start {path} must hold finite weights, {name} has NaN or infinity; take an earlier one")
    if differing := _differing(model.state_dict(), state):
        raise RecipeError(
            f"start {path} must hold the weights of model {recipe.model!r}, {len(differing)} of {len(state)} tensors "
            f"differ, first {differing[0]}; give the recipe the model that they were trained in"
        )
    model.load_state_dict(state)
    masks = _masks_at(path, prunable(model, recipe.include, recipe.exclude))
    sparsity = sparsity_of(masks.values())
    if sparsity < START_TOLERANCE:
        return None
    if run.method != "dense" and run.sparsity < sparsity - START_TOLERANCE:
        raise RecipeError(
            f"start {path} has sparsity {sparsity:.4g} and a run from it cannot end at {run.sparsity}: what was "
            f"dropped is gone; ask for at least {sparsity:.4g}, or start from dense weights"
        )
    return masks


def trained_by(path: Path) -> tuple[Recipe | None, float]:
    """The recipe and the epochs of the run that wrote the weights at ``path``; None where no finished run did."""
    recipe, result = path.with_name("recipe.yaml"), path.with_name("result.json")
    if path.name != WEIGHTS or not (recipe.is_file() and result.is_file()):
        return None, 0.0
    return parse(parsed(recipe.read_text(), str(recipe))), float(json.loads(result.read_text())["epochs"])


def save_masks(home: Path, masks: Masks) -> None:
    """Write the masks of a run beside its weights, at one bit a weight."""
    save_dense(home / MASKS, {name: pack(mask) for name, mask in masks.items()})


def _differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """What one state dict lacks, has too many or in another shape, in words."""
    missing = [f"{name} is missing" for name in ours if name not in theirs]
    unknown = [f"{name} is unknown" for name in theirs if name not in ours]
    both = [(name, tuple(ours[name].shape), tuple(theirs[name].shape)) for name in ours if name in theirs]
    return [*(f"{name} is {found} for {asked}" for name, asked, found in both if asked != found), *missing, *unknown]


def _masks_at(path: Path, weights: Weights) -> Masks:
    """The masks beside a run's weights; where there are none, zeros count as dropped."""
    masks = {name: weight != 0 for name, weight in weights.items()}
    if path.name == WEIGHTS and (beside := path.with_name(MASKS)).is_file():
        saved, _ = read_state(beside)
        kept = {name: unpack(saved[name], mask.shape).to(mask.device) for name, mask in masks.items() if name in saved}
        masks |= {name: torch.empty_like(masks[name]).copy_(mask) for name, mask in kept.items()}
    return masks
