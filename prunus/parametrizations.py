"""Parts: what the forward sees in place of a weight, as parametrizations of torch.nn.utils.parametrize.

A part's own parameters are learned thresholds; its other state is plain tensors, because DDP would broadcast a buffer
before every forward, changed in place, because a new tensor would recompile the graph.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunus.masks import multiply_

FLAT = 0.4000000059604645  # DST's slope of 0.4 as float32 holds it, so that double precision computes with the same


class Part(nn.Module, ABC):
    """Makes a weight sparse: `forward` gives the weight in use, `mask` where it may be non-zero."""

    place = 0  # of the weight among its layer's parameters, to put it back there

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the network uses, shaped like ``weight``."""

    @abstractmethod
    def mask(self, weight: Tensor) -> Tensor:
        """Where the weight in use is kept: bool, shaped like ``weight``."""

    def penalty(self) -> Tensor | None:
        """A scalar to be added to the loss, or None."""
        return None

    def advance_(self, weight: Tensor, progress: float) -> None:
        """Move what depends on training's progress in [0, 1]."""

    def plain_state(self) -> list[Tensor]:
        """The tensors that are neither parameters nor buffers; a copy of the model has stale ones."""
        return []


class Behind(Part):
    """A dense weight behind a mask: ``weight * mask`` forward.

    ``straight_through`` hands the whole gradient to the dense weight (DPF, DNW); otherwise dropped weights get none.
    """

    def __init__(self, mask: Tensor, straight_through: bool) -> None:
        super().__init__()
        self.kept, self.straight_through = mask, straight_through

    def forward(self, weight: Tensor) -> Tensor:
        product: Tensor = _Product.apply(weight, self.kept, self.straight_through)  # type: ignore[no-untyped-call]
        return product

    def mask(self, weight: Tensor) -> Tensor:
        return self.kept

    def plain_state(self) -> list[Tensor]:
        return [self.kept]


class SoftThreshold(Part):
    """STR (Kusupati et al. 2020, Eq. 2): ``sign(w) * relu(|w| - sigmoid(t))`` with one learned ``t`` a layer."""

    def __init__(self, weight: Tensor, initial: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(weight.new_full((), initial))

    def forward(self, weight: Tensor) -> Tensor:
        used: Tensor = _SoftThreshold.apply(weight, self.threshold.sigmoid())  # type: ignore[no-untyped-call]
        return _in_layout_of(weight, used)

    def mask(self, weight: Tensor) -> Tensor:
        used: Tensor = self(weight)
        return used != 0


class NeuronThreshold(Part):
    """DST (Liu et al. 2020, Eqs. 3-6): ``w * step(|w| - t)`` with a learned ``t`` for every output neuron or filter.

    The step's derivative is the paper's long-tailed one. A layer that keeps at most 1 % has its thresholds reset to 0
    after the step (the paper does it in the next forward, evaluation included). ``penalty`` weighs sum(exp(-t)).
    """

    def __init__(self, weight: Tensor, penalty: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(weight.new_zeros(weight.shape[0]))
        self.weighs = penalty

    def forward(self, weight: Tensor) -> Tensor:
        used: Tensor = _LongTailedStep.apply(weight, self.threshold)  # type: ignore[no-untyped-call]
        return _in_layout_of(weight, used)

    def mask(self, weight: Tensor) -> Tensor:
        return _excess(weight, self.threshold) > 0

    def penalty(self) -> Tensor:
        return self.weighs * (-self.threshold).exp().sum()

    def advance_(self, weight: Tensor, progress: float) -> None:
        alive = _excess(weight, self.threshold).gt_(0).mean() > 0.01
        self.threshold.mul_(alive)  # a product, not a branch: no wait for the device


class SoftMask(Part):
    """CS (Savarese et al. 2020, Eq. 5): ``w * sigmoid(beta * m) / sigmoid(m_0)`` with a learned ``m`` for every weight.

    ``beta`` grows from 1 to ``final_beta`` by equal factors, so that the soft mask hardens into ``m > 0``. ``penalty``
    weighs sum(sigmoid(beta * m)).
    """

    def __init__(self, weight: Tensor, initial: float, final_beta: float, penalty: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full_like(weight, initial))
        self.beta, self.final_beta = weight.new_ones(()), final_beta
        self.scale, self.weighs = 1.0 + math.exp(-initial), penalty

    def forward(self, weight: Tensor) -> Tensor:
        return _in_layout_of(weight, weight * (self.beta * self.logits).sigmoid() * self.scale)

    def mask(self, weight: Tensor) -> Tensor:
        return self.logits > 0

    def penalty(self) -> Tensor:
        return self.weighs * (self.beta * self.logits).sigmoid().sum()

    def advance_(self, weight: Tensor, progress: float) -> None:
        self.beta.fill_(self.final_beta**progress)

    def plain_state(self) -> list[Tensor]:
        return [self.beta]


PartOf = Callable[[Tensor], Part]  # the part of one weight


def _in_layout_of(weight: Tensor, used: Tensor) -> Tensor:
    """``used`` in the strides of ``weight``, by which a convolution chooses channels-last kernels.

    Elementwise operations keep the strides but for dimensions of size 1, as the input of a first convolution has them.
    """
    return used if used.stride() == weight.stride() else torch.empty_like(weight).copy_(used)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, straight_through: bool) -> Tensor:
        ctx.straight_through = straight_through
        ctx.save_for_backward(mask)
        return _product(weight, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0] if ctx.straight_through else _product(gradients[0], mask), None, None


def _product(tensor: Tensor, mask: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return tensor * mask
    result = tensor.clone()
    multiply_(result, mask)
    return result


# In the two below numbers stand for bools, and tensors are reused: a CPU compares in place several times as fast.


class _SoftThreshold(torch.autograd.Function):
    """sign(w) * relu(|w| - t), which is w less what of it lies in [-t, t]; both derivatives read the result alone."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        used = weight - weight.clamp(-threshold, threshold)
        ctx.save_for_backward(used)
        return used

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        sign = ctx.saved_tensors[0].sign()
        signed = gradients[0] * sign
        return signed * sign, -signed.sum()


class _LongTailedStep(torch.autograd.Function):
    """w * step(x), x = |w| - t; the step's derivative is 2 - 4|x| up to 0.4, then 0.4 up to 1, then 0 (Eq. 6).

    It has no second derivative: a loss with gradients in it is refused by autograd.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(weight, threshold)
        return _excess(weight, threshold).gt_(0).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weight, threshold = ctx.saved_tensors
        excess = _excess(weight, threshold)
        size = excess.abs()
        slope = torch.where(size <= 0.4, 2 - 4 * size, FLAT).mul_(size.le_(1))
        pulled = (gradients[0] * weight).mul_(slope)
        straight = excess.gt_(0).mul_(gradients[0])
        by_threshold = pulled.sum_to_size(_rows(threshold, weight).shape).view(-1).neg()
        return straight.addcmul_(pulled, weight.sign()), by_threshold


def _excess(weight: Tensor, threshold: Tensor) -> Tensor:
    return weight.abs().sub_(_rows(threshold, weight))


def _rows(threshold: Tensor, weight: Tensor) -> Tensor:
    return threshold.view(-1, *[1] * (weight.dim() - 1))
