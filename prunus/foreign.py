"""What other pruning tools leave behind: their state dicts become plain weights and masks."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.masks import Masks, Tensors

CONTAINERS = ("state_dict", "model_state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # of DDP and of torch.compile
_ORIGINAL = re.compile(r"((?:.+\.)?)parametrizations\.([^.]+)\.original")


def read_foreign(saved: Mapping[str, object]) -> tuple[Tensors, Masks]:
    """Plain weights with the zeros in place, and the masks that a tool kept, both by the model's own names.

    Reads ``torch.nn.utils.prune`` (``X_orig`` and ``X_mask``) and ``torch.ao.pruning`` (``parametrizations.X.original``
    and a mask for it, of each weight or of each row). The latter leaves its masks out of the model's state dict: give
    ``{"model": model.state_dict(), "sparsifier": sparsifier.state_dict()}``. Any other state dict passes unchanged,
    with no masks; `masks_from_zeros` makes some. A checkpoint that holds the state dict under ``state_dict``,
    ``model_state_dict`` or ``model`` is looked into, and a prefix of DDP or ``torch.compile`` on every name goes.
    Raises ValueError for values that are no tensors, and for an original whose masks are missing.

    >>> weights, masks = read_foreign(torch.load("pruned.pt", weights_only=True))
    >>> model.load_state_dict(weights)
    """
    state = _unwrapped(_tensors(_inside(saved)))
    for weight, mask in _unwrapped(_sparsifier_masks(saved)).items():
        module, dot, parameter = weight.rpartition(".")
        state[f"{module}{dot}parametrizations.{parameter}.0.mask"] = mask
    sources = {key: source for key in state if (source := _masked(key, state))}
    used = {key for _, mask_keys in sources.values() for key in mask_keys}
    weights: Tensors = {}
    masks: Masks = {}
    for key, tensor in state.items():
        if key in sources:
            name, mask_keys = sources[key]
            masks[name] = torch.stack([_widened(state[kept], tensor) for kept in mask_keys]).all(0)
            weights[name] = tensor.masked_fill(~masks[name], 0)
        elif key not in used:
            weights[key] = tensor
    return weights, masks


def masks_from_zeros(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that drop the zeros of every tensor with two or more dimensions that has some.

    A guess, so made only when asked for: a zero may be a weight that happens to be zero.
    """
    masks = {name: weight != 0 for name, weight in weights.items() if weight.is_floating_point() and weight.dim() > 1}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def _masked(key: str, state: Mapping[str, Tensor]) -> tuple[str, list[str]] | None:
    """The plain name of the weight whose original is at ``key``, and where its masks are; None for other tensors."""
    plain = key.removesuffix("_orig")
    if plain != key and f"{plain}_mask" in state:
        return plain, [f"{plain}_mask"]
    if not (match := _ORIGINAL.fullmatch(key)):
        return None
    beside = [other for other in state if other.startswith(key.removesuffix("original")) and other != key]
    masks = [other for other in beside if other.endswith(".mask")]
    if not beside:
        raise ValueError(
            f"{key} needs a mask and its state dict holds none; torch.ao.pruning keeps them in the sparsifier: call "
            "its squash_mask() before saving, or give read_foreign both state dicts, as 'model' and 'sparsifier'"
        )
    return (match[1] + match[2], masks) if masks == beside else None  # other parametrizations stay as they are


def _widened(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask of weights, or of rows, as bool in the shape of the weight."""
    return (mask != 0).reshape(*mask.shape, *[1] * (weight.dim() - mask.dim())).expand_as(weight)


def _inside(saved: Mapping[str, object]) -> Mapping[str, object]:
    inner = (saved.get(container) for container in CONTAINERS)
    return next((state for state in inner if isinstance(state, Mapping)), saved)


def _sparsifier_masks(saved: Mapping[str, object]) -> Tensors:
    """The masks by weight in a state dict of a sparsifier of torch.ao.pruning that lies beside the model's."""
    states = [part.get("state") for part in saved.values() if isinstance(part, Mapping)]
    kept = [(name, entry) for state in states if isinstance(state, Mapping) for name, entry in state.items()]
    masks = [(name, entry.get("mask")) for name, entry in kept if isinstance(entry, Mapping)]
    return {name: mask for name, mask in masks if isinstance(mask, Tensor)}


def _tensors(state: Mapping[str, object]) -> Tensors:
    found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in state.items():
        if name not in found:
            raise ValueError(
                f"a state dict must hold tensors by name, got {type(value).__name__} under {name!r}; save "
                "model.state_dict(), or a checkpoint that holds it under 'state_dict' or 'model'"
            )
    return found


def _unwrapped(state: Tensors) -> Tensors:
    """The tensors by the names of the wrapped model."""
    for prefix in WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state
