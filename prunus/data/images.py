"""Labelled images, as tensors that live on one device or as files that are read when needed; and a data set of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Augmentation = Literal["none", "crop-flip", "resized-crop"]


@dataclass(frozen=True)
class Images:
    """Labelled images: ``images`` uint8 (n, c, h, w) and ``labels`` int64 (n,), both on one device.

    >>> images = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> images.select(torch.tensor([4, 0])).labels
    tensor([4, 0])
    """

    images: Tensor
    labels: Tensor
    augmentations: ClassVar[tuple[Augmentation, ...]] = ("none", "crop-flip")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "Images":
        """The same images on ``device``."""
        return Images(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "Images":
        """A copy of the images at ``indices``, in that order (int64, repeats allowed), or where a bool mask is true."""
        return Images(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Files:
    """Labelled images in files below ``folder``: ``names`` (n,), relative to it, and ``labels`` int64 (n,).

    A stream reads each as uint8 (3, ``size``, ``size``) when it is its turn, and puts it on the device of ``labels``.
    """

    folder: Path
    names: NDArray[np.bytes_]  # not a list: processes that read would each copy what counts its references
    labels: Tensor
    size: int = 224
    augmentations: ClassVar[tuple[Augmentation, ...]] = ("none", "resized-crop")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image as it is read."""
        return 3, self.size, self.size

    def to(self, device: torch.device | str) -> "Files":
        """The same images, to be put on ``device`` when read."""
        return replace(self, labels=self.labels.to(device))

    def select(self, indices: Tensor) -> "Files":
        """The images at ``indices``, in that order (int64, repeats allowed), or where a bool mask is true."""
        return replace(self, names=self.names[indices.cpu().numpy()], labels=self.labels[indices])


Labelled = Images | Files


@dataclass(frozen=True)
class Data:
    """A data set, and how its pixels become the input of a network.

    A pixel divided by ``scale`` lies in [0, 1]; ``mean`` and ``std`` hold one value per channel in that unit.
    ``augmentation`` is what a training stream does by default; ``dataclasses.replace`` changes it.
    """

    name: str
    train: Labelled
    test: Labelled
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        known = get_args(Augmentation)
        if self.augmentation not in known:
            raise ValueError(f"augmentation must be one of {known}, got {self.augmentation!r}")
        if self.augmentation not in (fitting := self.train.augmentations):
            raise ValueError(
                f"augmentation of {self.name} must be 'none' or {fitting[-1]!r}, got {self.augmentation!r}: crop-flip "
                "is for images in memory, resized-crop for a folder of images"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.train.shape

    def pixel_statistics(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in units of the raw pixels, each (c, 1, 1) float32, for ``normalise``."""
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean * self.scale, std * self.scale
