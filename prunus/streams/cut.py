"""Cutting a stream into megabatches, and each of them into a part to train on and one to validate on."""

import math

import torch
from torch import Tensor

from prunus.randomness import seeded


def cut(ids: Tensor, megabatches: int | None = None, size: int | None = None) -> tuple[Tensor, ...]:
    """The megabatches of a stream: so many of nearly equal size, or as many as there are of ``size``, the last shorter.

    Of nearly equal ones the larger come first, by one example at most (the rule of ``numpy.array_split``, and ALMA's).

    >>> [len(part) for part in cut(torch.arange(10), megabatches=4)]
    [3, 3, 2, 2]
    >>> [len(part) for part in cut(torch.arange(10), size=4)]
    [4, 4, 2]
    """
    if megabatches is not None and size is None:
        _check_number(megabatches, len(ids))
        parts = torch.tensor_split(ids, megabatches)
    elif megabatches is None and size is not None:
        _check_size(size)
        parts = torch.split(ids, size)
    else:
        raise ValueError(f"give the number of megabatches or their size, one of the two, got {megabatches} and {size}")
    # a view would take the whole stream into every checkpoint that holds a part
    return tuple(part.clone() for part in parts)


def hold_out(
    part: Tensor, fraction: float = 0.1, *, seed: int = 0, number: int = 0, tail: bool = False
) -> tuple[Tensor, Tensor]:
    """What of a megabatch to train on, and what to validate on: ⌈``fraction`` · size⌉ examples, each in arrival order.

    Drawn with ``seed`` for megabatch ``number``; with ``tail`` the last ones. Raises ValueError where none is left to
    train on.

    >>> hold_out(torch.arange(5), 0.2, tail=True)
    (tensor([0, 1, 2, 3]), tensor([4]))
    """
    size = _held_out(len(part), fraction, number)
    validates = torch.zeros(len(part), dtype=torch.bool)
    if tail:
        validates[len(part) - size :] = True
    else:
        validates[torch.randperm(len(part), generator=seeded(seed, "megabatch", number))[:size]] = True
    return part[~validates], part[validates]


def app_layout(ids: Tensor, megabatches: int, fraction: float = 0.1) -> tuple[tuple[Tensor, Tensor], ...]:
    """(training, validation) of each megabatch as in APP's released code: the latter from the end of ``ids``.

    All megabatches have ⌊len(ids) / megabatches⌋ examples, what is left over is in none. The released code knows where
    validation begins as a literal (45000, 6800, 80565); here it is where training ends, the same number.
    """
    _check_number(megabatches, len(ids))
    size = len(ids) // megabatches
    held_out = _held_out(size, fraction, 0)
    begin = megabatches * (size - held_out)
    train = cut(ids[:begin], megabatches)
    return tuple(zip(train, cut(ids[begin : size * megabatches], megabatches), strict=True))


def _check_number(megabatches: int, examples: int) -> None:
    if not 1 <= megabatches <= examples:
        raise ValueError(f"there must be from 1 to {examples} megabatches, one for each example, got {megabatches}")


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"a megabatch must have at least 1 example, got size {size}")


def _held_out(size: int, fraction: float, number: int) -> int:
    """How many of ``size`` examples validate."""
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"the fraction that validates must be in (0, 1), got {fraction}")
    # rounded first: 0.07 of 100 is 7, not 7.000000000000001
    held_out = math.ceil(round(fraction * size, 9))
    if held_out >= size:
        raise ValueError(
            f"megabatch {number} must have an example to train on beside {held_out} to validate on, got {size}; "
            "make megabatches larger or the fraction smaller"
        )
    return held_out
