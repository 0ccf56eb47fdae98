"""Signals: one tensor of evidence per weight, named and shaped like the weights.

`Gradient` comes with training itself; the others are probes, ``(model, weights) -> tensors``, computed when a rule
asks. Any function of that form is a probe. Probes leave model, buffers, gradients and random state as they found them.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunus.masks import Tensors, Weights, unwrap

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Probe = Callable[[nn.Module, Weights], Tensors]


@dataclass(frozen=True)
class Gradient:
    """The loss gradient of the training batches, dense: the newest alone, or a decaying sum over the steps.

    ``memory=0`` is RigL's evidence, ``memory=0.9`` the momentum of SNFS (Dettmers & Zettlemoyer 2019), ``memory=1`` a
    sum since the start. In [0, 1].
    """

    memory: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.memory <= 1.0:
            raise ValueError(f"memory must be in [0, 1], got {self.memory}; 0 takes the newest gradient alone")


Signal = Gradient | Probe


@dataclass(frozen=True)
class LossGradient:
    """The gradient of the mean loss over ``batches``, summed with its sign; a shorter batch counts by its share.

    For equal batches the plain sum of their gradients. The absolute value belongs to the criterion, after the sum: that
    is the full-data saliency, independent of the batch size, and not the sum of absolute values.
    """

    batches: Batches
    loss: Loss

    def __call__(self, model: nn.Module, weights: Weights) -> Tensors:
        with _undisturbed(model):
            total = _zeros(weights)
            for share, loss in _losses(model, self.batches, self.loss, 1.0):
                _add_(total, torch.autograd.grad(loss, list(weights.values())), share)
        return _summed_over_ranks(total)


@dataclass(frozen=True)
class HessianGradient:
    """Hg, the Hessian of the loss times its gradient, both over the same ``batches`` (GraSP, Wang et al. 2020, Eq. 8).

    Two passes: one for g, one for the gradient of ``g . grad(loss)``. ``temperature`` divides the outputs; the released
    code uses 200, which makes g depend little on the untrained network's guesses.
    """

    batches: Batches
    loss: Loss
    temperature: float = 200.0

    def __call__(self, model: nn.Module, weights: Weights) -> Tensors:
        leaves = list(weights.values())
        with _undisturbed(model):
            first = _zeros(weights)
            for share, loss in _losses(model, self.batches, self.loss, self.temperature):
                _add_(first, torch.autograd.grad(loss, leaves), share)
            first = _summed_over_ranks(first)
            second = _zeros(weights)
            for share, loss in _losses(model, self.batches, self.loss, self.temperature):
                gradients = torch.autograd.grad(loss, leaves, create_graph=True)
                flow = sum((g * f).sum() for g, f in zip(gradients, first.values(), strict=True))
                _add_(second, torch.autograd.grad(flow, leaves), share)  # type: ignore[arg-type]
        return _summed_over_ranks(second)


@dataclass(frozen=True)
class SynapticFlow:
    """dR/d|w| of R = the sum of the outputs for an input of ones through absolute weights (Tanaka et al. 2020, Eq. 3).

    ``input_shape`` is that of one example. No data. In float64, because the flow of a deep net leaves float32's range,
    and with every normalisation layer replaced by the identity, because it would rescale the flow away.
    """

    input_shape: tuple[int, ...]

    def __call__(self, model: nn.Module, weights: Weights) -> Tensors:
        twin = copy.deepcopy(unwrap(model)).double().eval()
        _neutralise_(twin)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.abs_()
        leaves = dict(twin.named_parameters())
        chosen = [leaves[name] for name in weights]
        ones = torch.ones(1, *self.input_shape, dtype=torch.float64, device=chosen[0].device)
        with torch.enable_grad():
            flow = torch.autograd.grad(twin(ones).sum(), chosen)
        return dict(zip(weights, flow, strict=True))


_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


def _neutralise_(model: nn.Module) -> None:
    for name, child in model.named_children():
        if isinstance(child, _NORMS):
            setattr(model, name, nn.Identity())
        else:
            _neutralise_(child)


def _losses(model: nn.Module, batches: Batches, loss: Loss, temperature: float) -> Iterator[tuple[float, Tensor]]:
    first = None
    for inputs, targets in batches:
        first = first or len(targets)
        yield len(targets) / first, loss(model(inputs) / temperature, targets)
    if first is None:
        raise ValueError("batches gave nothing; a generator is exhausted after one pass, pass a list or a loader")


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.enable_grad():
        yield
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _zeros(weights: Weights) -> Tensors:
    return {name: torch.zeros_like(weight) for name, weight in weights.items()}


def _add_(total: Tensors, gradients: Iterable[Tensor], share: float) -> None:
    for kept, gradient in zip(total.values(), gradients, strict=True):
        kept.add_(gradient.detach(), alpha=share)


def _summed_over_ranks(tensors: Tensors) -> Tensors:
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors.values():
            dist.all_reduce(tensor)
    return tensors
