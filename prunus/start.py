"""Beginning a run from the network that another one left."""

from pathlib import Path

import torch
from torch import nn

from prunus.masks import Masks, Weights, pack, prunable, sparsity_of, unpack
from prunus.packing import save_dense
from prunus.recipes import Recipe, Single, start_file
from prunus.state_file import read_state
from prunus.tables import RecipeError
from prunus.updates import START_TOLERANCE

WEIGHTS, MASKS = "model.safetensors", "masks.safetensors"  # of a run, in its directory


def begin_(model: nn.Module, recipe: Recipe, run: Single) -> Masks | None:
    """Load the recipe's start into ``model``; the masks of what it has left, None where it is dense."""
    path = start_file(recipe.start or "")
    state, _ = read_state(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RecipeError(f"start {path} must hold the weights of model {recipe.model!r}: {error}") from None
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


def save_masks(home: Path, masks: Masks) -> None:
    """Write the masks of a run beside its weights, at one bit a weight."""
    save_dense(home / MASKS, {name: pack(mask) for name, mask in masks.items()})


def _masks_at(path: Path, weights: Weights) -> Masks:
    """The masks beside a run's weights; where there are none, zeros count as dropped."""
    masks = {name: weight != 0 for name, weight in weights.items()}
    if path.name == WEIGHTS and (beside := path.with_name(MASKS)).is_file():
        saved, _ = read_state(beside)
        kept = {name: unpack(saved[name], mask.shape).to(mask.device) for name, mask in masks.items() if name in saved}
        masks |= {name: torch.empty_like(masks[name]).copy_(mask) for name, mask in kept.items()}
    return masks
