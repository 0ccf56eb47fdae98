"""Batches from images in memory: endless for training, one pass for evaluation."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

from torch import Tensor

from prunus.data.images import Data, Images
from prunus.data.order import Order
from prunus.data.transforms import crop_flip, crop_flip_draws, normalise
from prunus.randomness import seeded

Batch = tuple[Tensor, Tensor]


@dataclass
class Stream:
    """An endless iterator of (inputs float32 (b, c, h, w), labels int64 (b,)) on the device of ``images``.

    ``batch_size`` counts the examples of all ranks together; each gets ``batch_size / world_size`` of them.
    Normalisation and augmentation are those of ``data``. Batch ``t`` depends on the arguments and ``t`` alone, so the
    number of batches drawn is the whole state, and ranks together see, bit for bit, what one process would.
    Everything random is drawn on the CPU: a GPU sees the same batches.

    >>> from prunus.data import load
    >>> digits = load("digits")
    >>> stream = Stream(digits.train, 64, data=digits)
    >>> inputs, labels = next(stream)
    >>> inputs.shape, stream.state_dict()
    (torch.Size([64, 1, 8, 8]), {'batches': 1})
    """

    images: Images
    batch_size: int
    _: KW_ONLY
    data: Data
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    batches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        device = self.images.images.device
        self._order = Order(
            len(self.images),
            self.batch_size,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            device=device,
        )
        self._statistics = self.data.pixel_statistics(device)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        indices = self._order(self.batches)
        images = self.images.images.index_select(0, indices)
        if self.data.augmentation == "crop-flip":
            # without waiting: a copy that blocks would make the host keep step with the GPU
            images = crop_flip(images, self._draws().to(images.device, non_blocking=True))
        self.batches += 1
        return normalise(images, *self._statistics), self.images.labels.index_select(0, indices)

    def _draws(self) -> Tensor:
        """This rank's share of what is drawn for the whole batch, so that it does not depend on the number of ranks."""
        return crop_flip_draws(self.batch_size, seeded(self.seed, "augment", self.batches))[:, self._order.share]

    def state_dict(self) -> dict[str, int]:
        """The number of batches drawn."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that ``state`` counts, bit for bit as if never interrupted."""
        self.batches = state["batches"]


@dataclass(frozen=True)
class EvaluationBatches:
    """One pass in order, never augmented, the last batch possibly short; may be iterated again and again."""

    images: Images
    batch_size: int
    data: Data

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        statistics = self.data.pixel_statistics(self.images.images.device)
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield normalise(self.images.images[part], *statistics), self.images.labels[part]
