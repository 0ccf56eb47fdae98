"""Candidates: the entries of one weight that compete by score, the scores computed block by block whenever read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor

BLOCK = 1 << 17  # elements; what is made of a few blocks is all the memory that a ranking adds

_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """The scores of one weight, not computed yet: ``criterion(weight, signal, generator)``, which must be elementwise.

    Without a criterion ``weight`` holds the scores themselves. Entries outside ``among`` score -inf and are never
    chosen. The mask of the chosen is written ``into`` a tensor, which may be ``among`` itself, or into a new one.
    """

    weight: Tensor
    signal: Tensor | None = None
    criterion: Callable[[Tensor, Tensor | None, Generator], Tensor] | None = None
    generator: Generator | None = None
    among: Tensor | None = None
    into: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return self.weight.shape

    def numel(self) -> int:
        """The number of entries, those outside ``among`` included."""
        return self.weight.numel()

    def dtype(self) -> torch.dtype:
        """The type of the scores."""
        nothing = self.signal if self.signal is None else self.signal.new_empty(0)
        return self._score(self.weight.new_empty(0), nothing).dtype

    def whole(self) -> Tensor:
        """All scores at once, shaped like the weight."""
        scores = self._score(self.weight.detach(), self.signal)
        return scores if self.among is None else scores.masked_fill(~self.among, -inf)

    def keys(self, kind: torch.dtype) -> Iterator[Tensor]:
        """The keys of the scores as ``kind``, flat and in the order of the flat index; new tensors."""
        barred = _keys(torch.full((), -inf, dtype=kind, device=self.weight.device))
        for weight, signal, among in zip(blocks(self.weight), self._of(self.signal), self._of(self.among), strict=True):
            keys = _keys(self._score(weight.detach(), signal).reshape(-1).to(kind))
            if among is not None:
                # -inf outside, by integer operations: masked_fill takes several times as long
                inside = among.reshape(-1).view(torch.int8).to(keys.dtype)
                keys.bitwise_xor_(barred).mul_(inside).bitwise_xor_(barred)
            yield keys

    def write(self, chosen: Iterable[Tensor]) -> Tensor:
        """The mask of the candidates that are not 0 in ``chosen``, flat blocks in the order of the flat index."""
        mask = self.into
        if mask is None:
            mask = torch.empty(self.shape, dtype=torch.bool, device=self.weight.device)
        for part, found, among in zip(blocks(mask), chosen, self._of(self.among), strict=True):
            kept = found.to(torch.bool).view(part.shape)
            part.copy_(kept if among is None else kept.logical_and_(among))
        return mask

    def _of(self, tensor: Tensor | None) -> Iterator[Tensor | None]:
        return blocks(tensor) if tensor is not None else (None for _ in blocks(self.weight))

    def _score(self, weight: Tensor, signal: Tensor | None) -> Tensor:
        if self.criterion is None:
            return weight
        return self.criterion(weight, signal, self.generator)  # type: ignore[arg-type]  # elementwise: nothing is drawn


def blocks(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most `BLOCK` elements in the order of the flat index; alike for all tensors of one shape."""
    if tensor.numel() <= BLOCK or tensor.dim() == 1:
        yield from torch.split(tensor, BLOCK) if tensor.dim() else [tensor]
    elif (rows := BLOCK * len(tensor) // tensor.numel()) > 0:
        yield from torch.split(tensor, rows)
    else:
        for row in tensor:
            yield from blocks(row)


def key(value: float, kind: torch.dtype) -> int:
    """The key of one number."""
    return int(_keys(torch.tensor(value, dtype=kind)))


def _keys(scores: Tensor) -> Tensor:
    """Signed integers, at least int32, in the order of the floating-point numbers; +0 and -0 share one."""
    bits = scores.view(_BITS[scores.dtype])
    negative = bits >> 8 * bits.itemsize - 1  # -1 or 0: what follows is the sign and magnitude's two's complement
    keys = (bits & torch.iinfo(bits.dtype).max).bitwise_xor_(negative).sub_(negative)
    return keys.to(torch.promote_types(keys.dtype, torch.int32))
