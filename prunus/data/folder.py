"""A data set in a folder of images: a folder of files for each class, for training and for testing."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from prunus.data.files import DataError
from prunus.data.images import Data, Files

SIZE = 224
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST = ("val", "test")  # the first that is there; ImageNet's own test images have no labels
IMAGENET_CLASSES = 1000
_FORM = "expected train/CLASS/ and val/CLASS/ (or test/CLASS/) with images in them"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def sized(name: str) -> tuple[str, int]:
    """The name without ``@SIZE``, and the side of the images as they are read: 224 where it does not say.

    >>> sized("photos/@64")
    ('photos/', 64)
    """
    before, at, size = name.rpartition("@")
    if not at or not size.isdecimal():
        return name, SIZE
    if int(size) < 1:
        raise ValueError(f"the size of images must be at least 1, got {size} in {name!r}; {SIZE} is usual")
    return before, int(size)


def read_folder(folder: Path, size: int = SIZE) -> Data:
    """The images of ``train`` and of ``val`` or ``test`` in ``folder``, of ``size`` x ``size`` when read.

    Classes are the names of the folders in either, sorted; images lie at any depth in them, sorted by path, and are
    listed once a process. Normalised as ImageNet, augmented by resized crops.
    """
    test = next((part for part in TEST if (folder / part).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise DataError(f"{folder}: {_FORM}, found {_found(folder)}; place them there or give another folder")
    folder = folder.absolute()
    name = folder.name if size == SIZE else f"{folder.name}@{size}"
    (classes, train), (tested, held_out) = (_listed(folder, part) for part in ("train", test))
    if classes != tested:
        missing, more = sorted({*classes} - {*tested}), sorted({*tested} - {*classes})
        raise DataError(
            f"{folder}: expected the classes of train/ in {test}/, found {len(classes)} and {len(tested)}, missing "
            f"{_few(missing)}, too many {_few(more)}; give both the same folders"
        )
    train, held_out = (replace(images, size=size) for images in (train, held_out))
    return Data(name, train, held_out, len(classes), 255.0, _MEAN, _STD, augmentation="resized-crop")


def imagenet(root: Path, size: int = SIZE) -> Data:
    """1,281,167 + 50,000 photographs, a thousand classes (Russakovsky et al. 2015), read from files."""
    data = read_folder(root / "imagenet", size)
    if data.classes != IMAGENET_CLASSES:
        raise DataError(
            f"{root / 'imagenet'}: expected ImageNet's {IMAGENET_CLASSES} classes, found {data.classes}; complete "
            "them, or give the path of the folder for data of your own"
        )
    return data


@cache
def _listed(folder: Path, part: str) -> tuple[tuple[str, ...], Files]:
    """The classes in ``folder / part``, and the files of them all."""
    with os.scandir(folder / part) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    paths: list[bytes] = []
    counts = []
    for name in classes:
        below = sorted(_images(os.fsencode(folder / part / name), os.fsencode(f"{part}/{name}/")))
        if not below:
            raise DataError(
                f"{folder / part / name}: {_FORM}, found none of {', '.join(SUFFIXES)}; add some or remove it"
            )
        paths += below
        counts.append(len(below))
    if not classes:
        raise DataError(f"{folder}: {_FORM}, found no folder in {part}/; give each class a folder")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return tuple(classes), Files(folder, np.array(paths), labels)


def _images(folder: bytes, prefix: bytes) -> Iterator[bytes]:
    """The paths of the images below ``folder``, each with ``prefix`` for the folder's own."""
    suffixes = tuple(suffix.encode() for suffix in SUFFIXES)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images(entry.path, prefix + entry.name + b"/")
            elif entry.name.lower().endswith(suffixes) and not entry.name.startswith(b"."):
                yield prefix + entry.name


def _found(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return _few(sorted(path.name for path in folder.iterdir()))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "") if names else "none"
