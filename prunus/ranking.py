"""Exactly the k highest of many scores, without sorting or concatenating them.

The threshold is found by a radix search over the bits of the scores: one histogram of 65,536 buckets for each 16 bits,
read chunk by chunk, so the extra memory does not grow with the network.
"""

from collections.abc import Iterator, Mapping
from functools import reduce

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements; the integer copies of one chunk are all the memory that a search adds
DIGIT = 16  # bits decided by one pass

_KEYS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class NotANumberError(ValueError):
    """A score is NaN."""


def top_k(scores: Tensor, k: int) -> Tensor:
    """The mask of the ``k`` highest scores: bool, shaped like ``scores``, exactly ``k`` True.

    Ties go to the lower flat index. Raises ValueError for NaN and for ``k`` outside 0..numel.

    >>> top_k(torch.tensor([3.0, 1.0, 3.0, 2.0]), 1)
    tensor([ True, False, False, False])
    """
    return top_k_together({"scores": scores}, k)["scores"]


def top_k_together(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The masks of the ``k`` highest scores of all tensors ranked together; exactly ``k`` True in sum.

    Ties go to the earlier tensor, then to the lower flat index. Raises like `top_k`.
    """
    total = sum(score.numel() for score in scores.values())
    if not 0 <= k <= total:
        raise ValueError(f"k must be in 0..{total}, the number of scores, got {k}")
    if k in (0, total):
        refuse_nan(scores)
        return {name: torch.full(score.shape, k > 0, device=score.device) for name, score in scores.items()}
    kind = _common_type(scores)
    threshold, ties = _kth_largest(scores, k, kind)
    return _split_ties(scores, threshold, ties, kind)


def _kth_largest(scores: Mapping[str, Tensor], k: int, kind: torch.dtype) -> tuple[int, int]:
    """The key of the k-th largest score, and how many scores equal to it belong to the top k."""
    refuse_nan(scores)
    if (total := sum(score.numel() for score in scores.values())) <= CHUNK:
        keys = torch.cat([_keys(chunk.to(kind)) for chunk in _chunks(scores)])
        threshold = keys.kthvalue(total - k + 1).values
        return int(threshold), k - int((keys > threshold).sum())
    bits = 8 * kind.itemsize
    prefix = None  # the digits of the key decided so far, as a signed integer
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = _histogram(scores, kind, prefix, shift)
        above = counts.flip(0).cumsum(0).flip(0)  # scores in this bucket or a higher one
        bucket = int((above >= k).nonzero()[-1])  # the search waits for each digit: two waits for float32
        k -= int(above[bucket] - counts[bucket])
        prefix = bucket - (1 << DIGIT - 1) if prefix is None else (prefix << DIGIT) + bucket
    assert prefix is not None
    return prefix, k


def _histogram(scores: Mapping[str, Tensor], kind: torch.dtype, prefix: int | None, shift: int) -> Tensor:
    counts: Tensor | None = None
    for chunk in _chunks(scores):
        keys = _keys(chunk.to(kind))
        if prefix is None:
            digits = (keys >> shift).to(torch.int32) + (1 << DIGIT - 1)  # int16 would overflow
        else:
            digits = keys[keys >> (shift + DIGIT) == prefix] >> shift & (1 << DIGIT) - 1
        found = torch.bincount(digits.to(torch.int64), minlength=1 << DIGIT)
        counts = found if counts is None else counts.add_(found.to(counts.device))
    assert counts is not None
    return counts


def _split_ties(scores: Mapping[str, Tensor], threshold: int, ties: int, kind: torch.dtype) -> dict[str, Tensor]:
    masks = {}
    for name, score in scores.items():
        mask = torch.empty(score.numel(), dtype=torch.bool, device=score.device)
        for kept, chunk in zip(torch.split(mask, CHUNK), _chunks({name: score}), strict=True):
            keys = _keys(chunk.to(kind))
            torch.gt(keys, threshold, out=kept)
            equal = (keys == threshold).nonzero().squeeze(1)
            kept[equal[:ties]] = True
            ties -= min(ties, equal.numel())
        masks[name] = mask.view(score.shape)
    return masks


def _chunks(scores: Mapping[str, Tensor]) -> Iterator[Tensor]:
    for score in scores.values():
        yield from torch.split(score.detach().reshape(-1), CHUNK)


def _common_type(scores: Mapping[str, Tensor]) -> torch.dtype:
    kind = reduce(torch.promote_types, (score.dtype for score in scores.values()))
    return kind if kind.is_floating_point else torch.float32


def _keys(scores: Tensor) -> Tensor:
    """Signed integers in the order of the floating-point numbers; +0 and -0 share one."""
    kind = _KEYS[scores.dtype]
    bits = (scores + 0.0).view(kind)  # -0.0 + 0.0 is +0.0
    return torch.where(bits < 0, bits ^ torch.iinfo(kind).max, bits)


def refuse_nan(scores: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the tensor, where a score is NaN."""
    for name, score in scores.items():
        if any(bool(chunk.isnan().any()) for chunk in _chunks({name: score})):
            raise NotANumberError(
                f"scores of {name!r} hold NaN, which has no rank; look for a diverged loss or a dead signal"
            )
