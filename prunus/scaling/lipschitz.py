"""How fast the gradient changes along the steps of a training: the local Lipschitz constant of Lee et al. 2021."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunus.masks import Masks, Tensors, unwrap
from prunus.signals import Batches, Loss

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Lipschitz:
    """|grad f(x + gamma d) - grad f(x)| / |gamma d| by gamma."""

    by_fraction: Mapping[float, float]

    @property
    def value(self) -> float:
        """The largest, which is the estimate of the local Lipschitz constant."""
        return max(self.by_fraction.values())


def local_lipschitz(
    gradient: Callable[[Tensors], Tensors], start: Tensors, end: Tensors, fractions: Iterable[float] = FRACTIONS
) -> Lipschitz:
    """The change of ``gradient`` from ``start`` over the way to ``end``, per distance, at fractions of the way.

    All tensors are taken as one vector. Raises ValueError where start and end are the same.

    >>> one, two = ({"x": torch.tensor([value])} for value in (1.0, 2.0))
    >>> local_lipschitz(lambda at: {"x": 3 * at["x"]}, one, two, [0.5]).value
    3.0
    """
    direction = {name: end[name] - start[name] for name in start}
    length = _norm(direction)
    if length == 0.0:
        raise ValueError("start and end must differ, got the same weights; measure between two consecutive steps")
    first = gradient(start)
    found = {}
    for fraction in fractions:
        there = gradient({name: start[name] + fraction * direction[name] for name in start})
        found[fraction] = _norm({name: there[name] - first[name] for name in there}) / (fraction * length)
    return Lipschitz(found)


@dataclass(frozen=True)
class FullGradient:
    """The gradient of the mean loss over all of ``batches``, each counted by its size, at weights other than its own.

    ``model`` stays as it is, its buffers and the random state too; entries that the masks drop are zero.
    """

    model: nn.Module
    batches: Batches
    loss: Loss
    masks: Masks

    def __call__(self, weights: Tensors) -> Tensors:
        """The gradient for each of ``weights``, by their names; batches are (inputs, targets)."""
        model = unwrap(self.model)
        leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        examples = 0
        devices = {leaf.device for leaf in leaves.values() if leaf.device.type == "cuda"}
        with torch.random.fork_rng(devices), torch.enable_grad():
            for inputs, targets in self.batches:
                value = self.loss(functional_call(model, {**leaves, **buffers}, (inputs,)), targets)
                parts = torch.autograd.grad(value, list(leaves.values()))
                for summed, part in zip(total.values(), parts, strict=True):
                    summed.add_(part, alpha=len(targets))
                examples += len(targets)
        if not examples:
            raise ValueError("batches gave nothing; a generator is exhausted after one pass, pass a list or a loader")
        return {name: _kept(summed / examples, self.masks.get(name)) for name, summed in total.items()}


def all_parameters(model: nn.Module) -> Tensors:
    """Copies of all parameters by name: the weights of one step, to measure from after the next."""
    return {name: parameter.detach().clone() for name, parameter in unwrap(model).named_parameters()}


def _kept(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor * mask


def _norm(tensors: Tensors) -> float:
    # of differences between close gradients, summed in double
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())
