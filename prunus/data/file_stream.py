"""Batches from image files, which other processes read ahead: endless for training, one pass for evaluation."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunus.data.files import DataError
from prunus.data.images import Data, Files
from prunus.data.order import Order
from prunus.data.pictures import crop_chances, read
from prunus.data.stream import Batch
from prunus.data.transforms import normalise
from prunus.randomness import seeded

MOST_READERS = 16
MOST_AT_ONCE = 256  # images in a batch of an evaluation, of which several wait in memory


@dataclass
class FileStream:
    """`Stream` for image files: the same order, shares of ranks, state and draws by name.

    Pixels are cropped on the CPU, by `resized_crop` or in the centre, and normalised on the device of ``images``.
    ``readers`` processes read ahead, 0 for this one, by default those of `readers_here`; they end when the stream is
    dropped. What was read and not yet drawn is read again after a resume.
    """

    images: Files
    batch_size: int
    _: KW_ONLY
    data: Data
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    readers: int | None = None
    batches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._order = Order(
            len(self.images), self.batch_size, seed=self.seed, rank=self.rank, world_size=self.world_size
        )
        self._device = self.images.labels.device
        self._statistics = self.data.pixel_statistics(self._device)
        self._pixels: Iterator[Tensor] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._pixels is None:
            augmented = self.data.augmentation == "resized-crop"
            # on the CPU, because a process that reads must not touch another device
            reading = _Training(self.images.to("cpu"), self._order, augmented)
            self._pixels = _read(reading, count(self.batches), self._device, self.readers, self.seed)
        pixels = next(self._pixels)
        indices = self._order(self.batches).to(self._device, non_blocking=True)
        self.batches += 1
        return normalise(pixels, *self._statistics), self.images.labels.index_select(0, indices)

    def state_dict(self) -> dict[str, int]:
        """The number of batches drawn."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that ``state`` counts, bit for bit as if never interrupted."""
        self.batches = state["batches"]
        self._pixels = None


@dataclass(frozen=True)
class FileEvaluation:
    """`EvaluationBatches` for image files, cropped in the centre; at most 256 images in a batch."""

    images: Files
    batch_size: int
    data: Data
    readers: int | None = None

    @property
    def _size(self) -> int:
        return min(self.batch_size, MOST_AT_ONCE)

    def __len__(self) -> int:
        return -(-len(self.images) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        device = self.images.labels.device
        statistics = self.data.pixel_statistics(device)
        reading = _Evaluating(self.images.to("cpu"), self._size)
        pixels = _read(reading, range(len(self)), device, self.readers, seed=0)
        for number, part in enumerate(pixels):
            labels = self.images.labels[number * self._size :][: self._size]
            yield normalise(part, *statistics), labels


def readers_here() -> int:
    """How many processes read images by default: $PRUNUS_READERS, else one for each core of this process, at most 16.

    The cores of a process that torchrun started are its share of the machine's; of any other, the threads of torch.
    """
    if asked := os.environ.get("PRUNUS_READERS"):
        if not asked.isdecimal():
            raise ValueError(
                f"PRUNUS_READERS must be a number of processes, got {asked!r}; 0 reads in the training one"
            )
        return int(asked)
    # torchrun sets the threads to one, though the process has more cores
    local = os.environ.get("LOCAL_WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    cores = (os.cpu_count() or 1) // int(local) if local else torch.get_num_threads()
    return max(1, min(cores, MOST_READERS))


@dataclass(frozen=True)
class _Training(Dataset[Tensor | str]):
    """The pixels of batch ``step``, uint8 (b, 3, size, size); the message where an image cannot be read."""

    images: Files
    order: Order
    augmented: bool

    def __getitem__(self, step: int) -> Tensor | str:
        drawn = self.images.select(self.order(step))
        if not self.augmented:
            return _pixels(drawn)
        # of the whole batch, so that no image's chances depend on the number of ranks
        chances = crop_chances(self.order.batch_size, seeded(self.order.seed, "augment", step))
        return _pixels(drawn, chances[self.order.share].tolist())


@dataclass(frozen=True)
class _Evaluating(Dataset[Tensor | str]):
    """The pixels of one ``batch_size`` of images after the other, in the centre; or the message, as in training."""

    images: Files
    batch_size: int

    def __getitem__(self, number: int) -> Tensor | str:
        places = torch.arange(len(self.images))[number * self.batch_size :][: self.batch_size]
        return _pixels(self.images.select(places))


def _pixels(images: Files, chances: Sequence[Sequence[float] | None] | None = None) -> Tensor | str:
    pixels = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    try:
        for place, name in enumerate(images.names):
            path = images.folder / os.fsdecode(name)
            pixels[place] = read(path, images.size, chances[place] if chances else None)
    except DataError as error:
        return str(error)  # raised here, it would arrive with the traceback of this process in its message
    return pixels


def _read(
    dataset: Dataset[Tensor | str], numbers: Iterable[int], device: torch.device, readers: int | None, seed: int
) -> Iterator[Tensor]:
    """What ``dataset`` holds at ``numbers``, on ``device``. Raises DataError."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=readers_here() if readers is None else readers,
        pin_memory=device.type == "cuda",  # so that copies do not wait
        generator=seeded(seed, "workers"),  # without one of its own a loader would draw from the global one
    )
    for pixels in loader:
        if isinstance(pixels, str):
            raise DataError(pixels)
        yield pixels.to(device, non_blocking=True)
