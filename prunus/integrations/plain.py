"""A model's state with the keys of the dense network, while parts stand before its weights."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from prunus.masks import Tensors, unwrap
from prunus.parametrizations import Part


def plain_(model: nn.Module) -> list[RemovableHandle]:
    """From now on ``state_dict`` gives the weights in use under their plain names, and loading takes those names."""
    inner = unwrap(model)
    saving = inner.register_state_dict_post_hook(_to_plain)  # type: ignore[no-untyped-call]
    loading = inner.register_load_state_dict_pre_hook(_from_plain)  # type: ignore[no-untyped-call]
    return [saving, loading]


def dense_state(model: nn.Module) -> Tensors:
    """What the plain state leaves out, by its own keys: the dense weights behind the parts, and the thresholds."""
    found: Tensors = {}
    for place, key, chain in _parametrized(unwrap(model)):
        found |= {f"{place}parametrizations.{key}.{name}": value for name, value in chain.state_dict().items()}
    return found


def _parametrized(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Layer (with its dot), parameter and parametrization of every weight behind a part of ours."""
    for layer, module in model.named_modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for key, chain in module.parametrizations.items():
                if any(isinstance(part, Part) for part in chain.children()):
                    yield f"{layer}." if layer else "", key, chain


def _to_plain(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for place, key, chain in _parametrized(module):
        for name in chain.state_dict():
            del state[f"{prefix}{place}parametrizations.{key}.{name}"]
        with torch.no_grad():
            state[f"{prefix}{place}{key}"] = chain()


def _from_plain(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: dict[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    for place, key, chain in _parametrized(module):
        if f"{prefix}{place}{key}" in state:
            start = f"{prefix}{place}parametrizations.{key}."
            state.update({start + name: value for name, value in chain.state_dict().items()})
            state[f"{start}original"] = state.pop(f"{prefix}{place}{key}")
