"""Exactly the k highest of many scores, without sorting or concatenating them.

The threshold is found by a radix search over the bits of the scores: one histogram of 65,536 buckets for each 16 bits,
read block by block, so the extra memory does not grow with the network.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from math import inf

import torch
from torch import Tensor

from prunus.candidates import Candidates, key

RUN = 1 << 17  # keys whose digits are counted at once; clearing the table of 65,536 counts must not outweigh counting
HELD = 4  # runs of keys that are held between two passes; the keys of a larger network are computed again
DIGIT = 16  # bits decided by one pass

Contest = Mapping[str, Tensor | Candidates]  # scores by name, given or yet to be computed


class NotANumberError(ValueError):
    """A score is NaN."""


def top_k(scores: Tensor | Candidates, k: int) -> Tensor:
    """The mask of the ``k`` highest scores: bool, shaped like ``scores``, exactly ``k`` True.

    Ties go to the lower flat index. Raises ValueError for NaN and for ``k`` outside 0..numel.

    >>> top_k(torch.tensor([3.0, 1.0, 3.0, 2.0]), 1)
    tensor([ True, False, False, False])
    """
    return top_k_together({"scores": scores}, k)["scores"]


def top_k_together(scores: Contest, k: int) -> dict[str, Tensor]:
    """The masks of the ``k`` highest scores of all tensors ranked together; exactly ``k`` True in sum.

    Ties go to the earlier tensor, then to the lower flat index. Raises like `top_k`.
    """
    return find_cut(scores, k).masks()


def find_cut(scores: Contest, k: int, pins: Mapping[str, int] | None = None) -> "Cut":
    """Where the ``k`` highest of all scores end; reads the scores and writes nothing. Raises like `top_k`.

    ``pins`` holds the flat index of one entry of some tensors that counts as higher than every score.
    """
    total = sum(score.numel() for score in scores.values())
    if not 0 <= k <= total:
        raise ValueError(f"k must be in 0..{total}, the number of scores, got {k}")
    candidates = {name: Candidates(score) if isinstance(score, Tensor) else score for name, score in scores.items()}
    field = _Field(candidates, common_type(candidates), pins or {})
    noted: _Noted = {name: [] for name in candidates}
    threshold, ties, equal = _kth_largest(field, k, total, noted)
    best = _best(field, noted)
    return Cut(field, threshold, _shared(field, threshold, ties, equal), best)


@dataclass(frozen=True)
class Cut:
    """The line that a ranking draws: keys above ``threshold`` stay, and the first ``ties[name]`` of those equal to it.

    ``best`` is the highest key of each tensor.
    """

    field: "_Field"
    threshold: int
    ties: Mapping[str, int]
    best: Mapping[str, int]

    def empty(self) -> list[str]:
        """The tensors of which nothing stays."""
        return [name for name, best in self.best.items() if best < self.threshold + (self.ties[name] == 0)]

    def best_place(self, name: str) -> int:
        """The flat index of a tensor's highest score, the lowest among equals."""
        start = 0
        for keys in self.field.keys(name):
            if int(keys.max()) == self.best[name]:
                break
            start += keys.numel()
        return start + int(keys.argmax())

    def masks(self) -> dict[str, Tensor]:
        """The masks, written where the candidates want them."""
        return {name: candidates.write(self._chosen(name)) for name, candidates in self.field.candidates.items()}

    def _chosen(self, name: str) -> Iterator[Tensor]:
        ties = self.ties[name]
        all_or_none = ties in (0, self.field.candidates[name].numel())
        for keys in self.field.keys(name):
            if all_or_none:
                yield keys.ge_(self.threshold + (ties == 0))  # in place: a comparison that makes bools is slower
                continue
            equal = (keys == self.threshold).nonzero().squeeze(1)
            yield keys.gt_(self.threshold).index_fill_(0, equal[:ties], 1)
            ties -= min(ties, equal.numel())


_Noted = dict[str, list[tuple[Tensor, Tensor]]]  # the lowest and the highest key of each block


@dataclass(frozen=True)
class _Field:
    """All candidates, the type that their scores are compared in, and the pinned places."""

    candidates: Mapping[str, Candidates]
    kind: torch.dtype
    pins: Mapping[str, int]

    @property
    def pin(self) -> int:
        """The key of a pinned entry, above that of infinity."""
        return key(inf, self.kind) + 1

    def keys(self, name: str) -> Iterator[Tensor]:
        """The keys of one tensor, block by block."""
        place = self.pins.get(name, -1)
        for keys in self.candidates[name].keys(self.kind):
            if 0 <= place < keys.numel():
                keys[place] = self.pin
            place -= keys.numel()
            yield keys

    def runs(self, noted: _Noted | None = None) -> Iterator[Tensor]:
        """The keys of all tensors in runs of at most `RUN`; ``noted`` takes the extremes down."""
        held: list[Tensor] = []
        for name in self.candidates:
            for keys in self.keys(name):
                if noted is not None:
                    noted[name].append(keys.aminmax())
                if held and sum(map(len, held)) + len(keys) > RUN:
                    yield _joined(held)
                    held.clear()
                held.append(keys.to(held[0].device) if held else keys)
        yield _joined(held)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _kth_largest(field: _Field, k: int, total: int, noted: _Noted) -> tuple[int, int, int]:
    """The key of the k-th largest score, how many scores equal to it belong to the top k, and how many there are."""
    bits, prefix, equal = 8 * field.kind.itemsize, None, 0  # prefix: the digits decided so far, as a signed integer
    runs: Iterable[Tensor] = field.runs(noted)
    if k == 0:
        return field.pin + 1, 0, sum(0 for _ in runs)
    if total <= RUN:
        keys = torch.cat(list(runs))
        threshold = int(keys.kthvalue(total - k + 1).values)
        return threshold, k - int((keys > threshold).sum()), int((keys == threshold).sum())
    held = list(runs) if total <= HELD * RUN else None
    for shift in range(bits - DIGIT, -1, -DIGIT):
        bucket, k, equal = _bucket(_histogram(iter(held or runs), prefix, shift), k)
        prefix = bucket - (1 << DIGIT - 1) if prefix is None else (prefix << DIGIT) + bucket
        runs = field.runs()
    assert prefix is not None
    return prefix, k, equal


def _histogram(runs: Iterator[Tensor], prefix: int | None, shift: int) -> Tensor:
    """How many keys of those that begin with ``prefix`` have each value of the digit at ``shift``."""
    counts = _counts(next(runs), prefix, shift)
    for keys in runs:
        counts += _counts(keys, prefix, shift)
    return counts


def _counts(keys: Tensor, prefix: int | None, shift: int) -> Tensor:
    if prefix is None:
        digits = (keys >> shift).add_(1 << DIGIT - 1)
    else:
        inside = (keys >> shift + DIGIT == prefix).nonzero().squeeze(1)
        digits = (keys[inside] >> shift).bitwise_and_((1 << DIGIT) - 1)
    return torch.bincount(digits, minlength=1 << DIGIT)


def _bucket(counts: Tensor, k: int) -> tuple[int, int, int]:
    """The bucket of the k-th largest score, which rank it has in there, and of how many."""
    above = counts.flip(0).cumsum_(0).flip(0)  # scores in this bucket or a higher one
    bucket = int((above >= k).nonzero()[-1])  # the search waits for each digit: two waits for float32
    equal = int(counts[bucket])
    return bucket, k - int(above[bucket]) + equal, equal


def _shared(field: _Field, threshold: int, ties: int, equal: int) -> dict[str, int]:
    """How many of its scores equal to the threshold each tensor keeps; all its entries stands for all of them."""
    shares = {name: candidates.numel() for name, candidates in field.candidates.items()}
    if ties == equal:
        return shares
    for name in shares:
        found = sum(int((keys == threshold).sum()) for keys in field.keys(name)) if ties else 0
        if found >= ties:
            shares[name] = ties
        ties = max(0, ties - found)
    return shares


def _best(field: _Field, noted: _Noted) -> dict[str, int]:
    """The highest key of each tensor; a NotANumberError for a key beyond that of infinity."""
    device = next(iter(noted.values()))[0][0].device
    lowest = torch.stack([torch.stack([low for low, _ in pairs]).min().to(device) for pairs in noted.values()])
    highest = torch.stack([torch.stack([high for _, high in pairs]).max().to(device) for pairs in noted.values()])
    best, infinite = dict(zip(noted, highest.tolist(), strict=True)), key(inf, field.kind)
    for name, low in zip(noted, lowest.tolist(), strict=True):
        if low < key(-inf, field.kind) or best[name] > infinite + (name in field.pins):
            raise _not_a_number(name)
    return best


def refuse_nan(scores: Mapping[str, Tensor]) -> None:
    """Raises NotANumberError, naming the tensor, where a score is NaN."""
    for name, score in scores.items():
        if bool(score.isnan().any()):
            raise _not_a_number(name)


def _not_a_number(name: str) -> NotANumberError:
    return NotANumberError(f"scores of {name!r} hold NaN, which has no rank; look for a diverged loss or a dead signal")


def common_type(candidates: Mapping[str, Candidates]) -> torch.dtype:
    """The type in which all scores can be compared."""
    kind = reduce(torch.promote_types, (one.dtype() for one in candidates.values()))
    return kind if kind.is_floating_point else torch.float32
