"""Put parts between weights and layers, and take them away; the Parameter objects stay the same throughout."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from prunus.masks import Masks, Tensors, Weights, unwrap
from prunus.parametrizations import Part


def insert(model: nn.Module, weights: Weights, parts: Mapping[str, Part]) -> None:
    """Register each weight's part at every layer that uses the weight (tied layers share one part)."""
    owners = [(module, key, name) for name, weight in weights.items() for module, key in _owners(unwrap(model), weight)]
    for module, key, name in owners:
        parts[name].place = list(module._parameters).index(key)
    for module, key, name in owners:
        parametrize.register_parametrization(module, key, parts[name], unsafe=True)


def remove(model: nn.Module, names: Iterable[str], masks: Masks) -> None:
    """Write the weights in use, projected onto ``masks``, into the plain parameters and take the parts away.

    Works on any copy of the model: parts and layers are found in it by name.
    """
    inner = unwrap(model)
    used: Tensors = {}
    with torch.no_grad():
        for name in names:
            layer, key = _split(name)
            used[name] = getattr(inner.get_submodule(layer), key).detach() * masks[name]
        for module, places in _places(inner).items():
            _own_class_(module)
            for key in places:
                parametrize.remove_parametrizations(module, key, leave_parametrized=False)
            order = [key for key in module._parameters if key not in places]
            for key in sorted(places, key=lambda key: places[key]):
                order.insert(places[key], key)
            module._parameters = {key: module._parameters[key] for key in order}  # optimizers go by the order
        plain = dict(inner.named_parameters())
        for name, value in used.items():
            plain[name].copy_(value)


def refresh(model: nn.Module, parts: Mapping[str, Part]) -> None:
    """Give the parts in a copy of the model the plain tensors of the live ``parts``."""
    found = {(module, key): part for module, key, part in _parts(unwrap(model))}
    for name, part in parts.items():
        layer, key = _split(name)
        twin = found[unwrap(model).get_submodule(layer), key]
        for stale, live in zip(twin.plain_state(), part.plain_state(), strict=True):
            stale.copy_(live)


def _owners(model: nn.Module, weight: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is weight:
                yield module, key


def _places(model: nn.Module) -> dict[nn.Module, dict[str, int]]:
    """The parametrized names of each layer, with their places among its parameters."""
    found: dict[nn.Module, dict[str, int]] = {}
    for module, key, part in _parts(model):
        found.setdefault(module, {})[key] = part.place
    return found


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, str, Part]]:
    for module in model.modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for key, chain in module.parametrizations.items():
                assert isinstance(chain, nn.ModuleList)
                yield from ((module, key, part) for part in chain if isinstance(part, Part))


def _own_class_(module: nn.Module) -> None:
    # a deep copy shares the class that parametrize made, and removal deletes the weight's property from it
    shared = type(module)
    members = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def _split(name: str) -> tuple[str, str]:
    layer, _, key = name.rpartition(".")
    return layer, key
