"""The endless order in which a stream visits its examples."""

from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from prunus.randomness import seeded


@dataclass(frozen=True)
class Order:
    """One permutation of ``length`` examples after another, cut into batches of ``batch_size``: step -> indices.

    A batch may straddle epochs, so none is short and none is dropped. Of each batch a rank gets its own contiguous
    share: the shares of ``world_size`` ranks, joined, are the batch of one process. A function of its fields and the
    step alone: permutations are drawn on the CPU, the same for every ``device``.

    >>> order = Order(5, 2, seed=0)
    >>> torch.cat([order(step) for step in range(5)]).bincount()
    tensor([2, 2, 2, 2, 2])
    """

    length: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    _latest: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size is that of all ranks together and must be divisible by their number, "
                f"got {self.batch_size} for {self.world_size}; the nearest below is "
                f"{self.batch_size // self.world_size * self.world_size}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, world_size), got {self.rank} of {self.world_size}")

    @property
    def share(self) -> slice:
        """Where this rank's examples lie within a batch of all ranks."""
        size = self.batch_size // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def epoch(self, number: int) -> Tensor:
        """The permutation of epoch ``number``; the latest is kept, for most steps need the one before them."""
        if number not in self._latest:
            permutation = torch.randperm(self.length, generator=seeded(self.seed, "order", number))
            self._latest.clear()
            self._latest[number] = permutation.to(self.device)
        return self._latest[number]

    def __call__(self, step: int) -> Tensor:
        """The indices, int64 on ``device``, of this rank's share of batch ``step``."""
        start, stop = (step * self.batch_size + edge for edge in (self.share.start, self.share.stop))
        pieces = []
        while start < stop:
            number, offset = divmod(start, self.length)
            piece = self.epoch(number)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return torch.cat(pieces)
