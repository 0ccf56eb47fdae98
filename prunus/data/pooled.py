"""Smaller images, for studies that are to cost less."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from prunus.data.files import DataError
from prunus.data.images import Data, Images, Labelled

CHUNK = 4096  # images at once, which are float32 on the way


def pooled(data: Data, size: int) -> Data:
    """``data`` with images of ``size`` x ``size``, each pixel the mean of a square, half up; statistics stay.

    Raises DataError unless ``size`` divides both sides.
    """
    _, height, width = data.input_shape
    if height != width or height % size:
        raise DataError(
            f"images of {height} x {width} can be pooled to a side that divides both, got {data.name}@{size}"
        )
    train, test = (_pooled(part, height // size) for part in (data.train, data.test))
    return replace(data, name=f"{data.name}@{size}", train=train, test=test)


def _pooled(images: Labelled, factor: int) -> Images:
    if not isinstance(images, Images):
        raise DataError("images in files are read at their size and not pooled")
    return Images(torch.cat([_means(part, factor) for part in torch.split(images.images, CHUNK)]), images.labels)


def _means(pixels: Tensor, factor: int) -> Tensor:
    return avg_pool2d(pixels.float(), factor).add_(0.5).to(torch.uint8)
