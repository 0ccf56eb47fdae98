"""A data set of one's own: four arrays in one ``.npz`` file."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunus.data.files import DataError
from prunus.data.images import Data, Images

_SCALE = 255.0


def read_npz(path: Path) -> Data:
    """``train_images``, ``train_labels``, ``test_images``, ``test_labels``; other arrays in the file are ignored.

    Images are uint8, (n, h, w) or (n, h, w, c); labels are integers from 0. Mean and standard deviation are computed
    from the training images, and nothing is augmented by default.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected an .npz file written by numpy.savez, found none that is whole")
    with np.load(path, allow_pickle=False) as arrays:
        train, test = (_images(path, arrays, part) for part in ("train", "test"))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    mean, std = channel_statistics(train.images, _SCALE)
    return Data(path.stem, train, test, classes, _SCALE, mean, std)


def _images(path: Path, arrays: "np.lib.npyio.NpzFile", part: str) -> Images:
    """The images and labels of ``part``, checked against what ``read_npz`` states."""
    names = f"{part}_images", f"{part}_labels"
    if missing := [name for name in names if name not in arrays]:
        raise DataError(f"{path}: expected arrays {names}, found {sorted(arrays)}; add {missing} with numpy.savez")
    images, labels = (arrays[name] for name in names)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{path}: {names[0]} must be uint8 of shape (n, h, w) or (n, h, w, c), got {images.dtype} of {images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path}: {names[1]} must be of shape {images.shape[:1]}, one an image, got {labels.shape}")
    pixels = torch.from_numpy(images.reshape(*images.shape[:3], -1))  # (n, h, w, c)
    return Images(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long())


def channel_statistics(images: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, after division by ``scale``.

    From each channel's histogram, hence exact whatever the number of images.
    """
    values = torch.arange(256, dtype=torch.float64) / scale
    means, stds = [], []
    for channel in images.unbind(1):
        share = channel.flatten().bincount(minlength=256) / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(stds)
