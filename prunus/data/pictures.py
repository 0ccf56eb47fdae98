"""One image file to the pixels of one input: decoded, cropped and resized."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor

from prunus.data.files import DataError

TRIES = 10  # at a box that fits
CHANCES = 2 * TRIES + 3  # area and ratio of each try; top, left, flip
AREAS = (0.08, 1.0)  # of the box, over that of the image
RATIOS = (3 / 4, 4 / 3)  # of the box: width over height
MARGIN = 256 / 224  # of the short side in evaluation, over the side of the crop


class Box(NamedTuple):
    """A part of an image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def read(path: Path, size: int, chances: Sequence[float] | None = None) -> Tensor:
    """The image in a file as uint8 (3, size, size): its `resized_crop` by ``chances``, without them its `centre_crop`.

    Gray becomes three equal channels, transparency is dropped. Raises DataError for a file that
    is no whole image or is gray with more than 8 bits.
    """
    try:
        # of spoilt metadata, which nothing here reads
        with warnings.catch_warnings(action="ignore", category=UserWarning), Image.open(path) as image:
            cropped = centre_crop(image, size) if chances is None else resized_crop(image, size, chances)
            pixels = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a whole image of 8 bits a channel, got {type(error).__name__} ({error}); replace the "
            "file or take it away"
        ) from error
    return pixels.view(size, size, 3).permute(2, 0, 1)  # (3, size, size)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The short side scaled to ``size * 256 / 224``, of which the middle ``size`` x ``size``; RGB, antialiased."""
    short = round(size * MARGIN)
    width, height = (int(short * side / min(image.size)) for side in image.size)
    _decode_smaller_(image, min(image.size) // short)
    scaled = _rgb(image).resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def resized_crop(image: Image.Image, size: int, chances: Sequence[float]) -> Image.Image:
    """The `crop_box` of ``chances`` scaled to ``size`` x ``size``, mirrored where the last is below a half; RGB."""
    width, height = image.size
    box = crop_box(width, height, chances)
    _decode_smaller_(image, min(box.width, box.height) // size)
    across, down = image.width / width, image.height / height
    edges = (box.left * across, box.top * down, (box.left + box.width) * across, (box.top + box.height) * down)
    scaled = _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=edges)
    return scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chances[-1] < 0.5 else scaled


def crop_box(width: int, height: int, chances: Sequence[float]) -> Box:
    """A box of a random share of the area and a random ratio (Szegedy et al. 2015), with torchvision's formula.

    ``chances`` are `CHANCES` numbers in [0, 1). The area is uniform in `AREAS`, the ratio of width to height uniform in
    `RATIOS` on a log scale; the first of `TRIES` boxes that fits is placed uniformly. Where none fits it is the middle
    of the image, cut to the nearest ratio.
    """
    *tries, top, left, _ = chances
    for area_chance, ratio_chance in zip(tries[::2], tries[1::2], strict=True):
        area = width * height * (AREAS[0] + (AREAS[1] - AREAS[0]) * area_chance)
        ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio_chance
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return Box(int(left * (width - wide + 1)), int(top * (height - high + 1)), wide, high)
    wide, high = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    return Box((width - wide) // 2, (height - high) // 2, wide, high)


def crop_chances(count: int, generator: Generator) -> Tensor:
    """The chance in `resized_crop` for ``count`` images: float64 (count, `CHANCES`) in [0, 1)."""
    return torch.rand(count, CHANCES, generator=generator, dtype=torch.float64)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # which would be cut off at 255
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
    # a palette with transparency by way of RGBA, because Pillow warns of what it would drop
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _decode_smaller_(image: Image.Image, factor: int) -> None:
    """Let a JPEG be decoded at an eighth, a quarter or half of its size, the smallest at least 1 / ``factor`` of it."""
    if factor > 1:
        width, height = (-(-side // factor) for side in image.size)
        image.draft(None, (width, height))
