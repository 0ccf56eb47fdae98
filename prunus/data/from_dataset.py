"""The same endless stream from any map-style dataset."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from itertools import count

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunus.data.order import Order
from prunus.data.stream import Batch
from prunus.randomness import seeded


@dataclass
class DatasetStream:
    """An endless iterator over ``dataset``, which has a length and whose items are (input tensor, label).

    The order, the sharding by rank and the state are those of ``Stream``; items are collated as a ``DataLoader`` does
    and stay on the CPU. ``workers`` processes read ahead; what was read and not yet drawn is read again after a
    resume. Where the dataset itself draws at random, resuming is as exact as the dataset makes it.

    >>> import torch
    >>> dataset = torch.utils.data.TensorDataset(torch.zeros(10, 3), torch.arange(10))
    >>> inputs, labels = next(DatasetStream(dataset, 4))
    >>> inputs.shape
    torch.Size([4, 3])
    """

    dataset: Dataset[tuple[Tensor, Tensor | int]]
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    batches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._order = Order(
            len(self.dataset),  # type: ignore[arg-type]
            self.batch_size,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )
        self._loader: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._loader is None:
            self._loader = self._read_from(self.batches)
        inputs, labels = next(self._loader)
        self.batches += 1
        return inputs, labels

    def _read_from(self, step: int) -> Iterator[Batch]:
        """Batches ``step``, ``step + 1`` and so on without end."""
        steps = (self._order(number).tolist() for number in count(step))
        # without a generator of its own a loader draws its workers' seed from the global one
        generator = seeded(self.seed, "workers", step)
        return iter(DataLoader(self.dataset, batch_sampler=steps, num_workers=self.workers, generator=generator))

    def state_dict(self) -> dict[str, int]:
        """The number of batches drawn."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that ``state`` counts."""
        self.batches = state["batches"]
        self._loader = None
