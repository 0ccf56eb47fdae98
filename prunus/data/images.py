"""Images as tensors that live on one device, and a data set made of two of them."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Augmentation = Literal["none", "crop-flip"]


@dataclass(frozen=True)
class Images:
    """Labelled images: ``images`` uint8 (n, c, h, w) and ``labels`` int64 (n,), both on one device.

    >>> images = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> images.select(torch.tensor([4, 0])).labels
    tensor([4, 0])
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on ``device``."""
        return Images(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "Images":
        """A copy of the images at ``indices``, in that order (int64, repeats allowed), or where a bool mask is true."""
        return Images(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """A data set, and how its pixels become the input of a network.

    A pixel divided by ``scale`` lies in [0, 1]; ``mean`` and ``std`` hold one value per channel in that unit.
    ``augmentation`` is what a training stream does by default; ``dataclasses.replace`` changes it.
    """

    name: str
    train: Images
    test: Images
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        known = get_args(Augmentation)
        if self.augmentation not in known:
            raise ValueError(f"augmentation must be one of {known}, got {self.augmentation!r}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def pixel_statistics(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in units of the raw pixels, each (c, 1, 1) float32, for ``normalise``."""
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean * self.scale, std * self.scale
