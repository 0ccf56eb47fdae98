"""Criteria: ``(weight, signal, generator) -> scores``; one score a weight, high is kept.

Any function of this form is a criterion; the signal is the update rule's evidence for this weight, or None.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, Tensor

Criterion = Callable[[Tensor, Tensor | None, Generator], Tensor]
Marked = TypeVar("Marked", bound=Criterion)


def elementwise(criterion: Marked) -> Marked:
    """Mark a criterion, as a decorator: each score follows from its own weight and signal alone, without a draw.

    A ranking then computes the scores block by block when it reads them, some more than once, and never holds them all.
    """
    criterion.elementwise = True  # type: ignore[attr-defined]
    return criterion


def is_elementwise(criterion: Criterion) -> bool:
    """Whether a criterion, or its class, was marked `elementwise`."""
    return getattr(criterion, "elementwise", False)


def random(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """A uniform draw for every weight."""
    draws = torch.rand(weight.shape, generator=generator, device=generator.device)
    return draws.to(weight.device)


@elementwise
def magnitude(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """The absolute weight."""
    return weight.abs()


@elementwise
def gradient(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """The absolute signal: RigL's growth score (Evci et al. 2020) when the signal is the loss gradient."""
    return evidence(signal).abs()


@elementwise
def saliency(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """|weight * signal|: SNIP for the loss gradient (Lee et al. 2019, Eq. 4), SynFlow for the synaptic flow."""
    return (weight * evidence(signal)).abs_()


@elementwise
def taylor(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """(weight * gradient)^2: the squared first-order loss change (Molchanov et al. 2019, Eq. 8).

    It ranks single weights as `saliency` does and differs where scores are added or compared by size (LAMP).
    """
    return (weight * evidence(signal)).square_()


@elementwise
def preservation(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """weight * signal, signed: GraSP for the Hessian-gradient product (Wang et al. 2020, Eq. 8).

    The first-order change of the squared gradient norm when the weight goes is ``-2 * weight * Hg``; kept are the
    weights whose removal would cost gradient flow.
    """
    return weight * evidence(signal)


def evidence(signal: Tensor | None) -> Tensor:
    """The signal, or a ValueError that says where to get one."""
    if signal is None:
        raise ValueError("this criterion reads a signal and got none; give the update one, such as signal=Gradient()")
    return signal


CRITERIA: dict[str, Criterion] = {
    "random": random,
    "magnitude": magnitude,
    "gradient": gradient,
    "saliency": saliency,
    "taylor": taylor,
    "preservation": preservation,
}
