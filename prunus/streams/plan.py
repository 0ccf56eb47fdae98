"""The plan of a stream: how sparse the network is after each megabatch, numbered from 0 on."""

import math
from typing import Literal

import numpy as np

from prunus.schedules import Geometric

BASE = 0.8
"""The density of one step of pruning in APP, which measures sparsity by how often it is taken."""

Kind = Literal["progressive", "once"]


def of_exponent(tau: float) -> float:
    """The sparsity ``1 - 0.8 ** tau``: the paper's "0.8^tau" is what is kept.

    >>> round(of_exponent(4.5), 4)
    0.6336
    """
    return 1.0 - math.pow(BASE, tau)


def exponent(sparsity: float) -> float:
    """The tau of a sparsity, the inverse of `of_exponent`."""
    _check_sparsity(sparsity)
    return math.log(1.0 - sparsity) / math.log(BASE)


def exponents(tau: float, megabatches: int, *, released: bool = False) -> tuple[float, ...]:
    """APP's delta: equally spaced from 1 to ``tau``, and ``tau`` for a single megabatch.

    The ``released`` code ignores ``tau`` for a single one, which it prunes by an exponent of 1.

    >>> exponents(4.5, 3)
    (1.0, 2.75, 4.5)
    """
    _check_length(megabatches)
    first = 1.0 if megabatches > 1 or released else tau
    return tuple(np.linspace(first, tau, megabatches).tolist())


def sparsity_at(number: int, sparsity: float, *, horizon: int, first: float = 0.2, kind: Kind = "progressive") -> float:
    """The sparsity after megabatch ``number`` of a stream without end: from the last of ``horizon`` on it stays.

    ``progressive``: what is kept shrinks by equal factors from ``1 - first`` to ``1 - sparsity``, which is APP for
    ``first=0.2``. ``once``: the final sparsity from the first megabatch on, Anytime OSP.
    """
    _check_sparsity(sparsity)
    _check_length(horizon)
    if kind == "once" or number >= horizon - 1:
        return sparsity
    if kind != "progressive":
        raise ValueError(f"the plan must be progressive or once, got {kind!r}")
    # 0.8 kept once is 1 - 0.8 = 0.19999999999999996
    if not 0.0 <= first <= sparsity + 1e-12:
        raise ValueError(f"first must be in [0, {sparsity}], the final sparsity, got {first}; begin with a smaller one")
    return Geometric(sparsity, initial=first)(number / (horizon - 1))


def sparsities(
    sparsity: float, megabatches: int, *, first: float = 0.2, kind: Kind = "progressive"
) -> tuple[float, ...]:
    """The sparsity after each of ``megabatches``; the last is exactly ``sparsity``.

    >>> [round(value, 3) for value in sparsities(0.9, 4)]
    [0.2, 0.6, 0.8, 0.9]
    """
    _check_length(megabatches)
    return tuple(sparsity_at(n, sparsity, horizon=megabatches, first=first, kind=kind) for n in range(megabatches))


def _check_sparsity(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}; for a tenth of the weights pass 0.9")


def _check_length(megabatches: int) -> None:
    if megabatches < 1:
        raise ValueError(f"a plan needs at least 1 megabatch, got {megabatches}")
