"""The data sets by name, and ``load``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from prunus.data.cifar import read_binary, read_pickle
from prunus.data.fetch import fetch
from prunus.data.files import data_root
from prunus.data.folder import imagenet, read_folder, sized
from prunus.data.idx import read_idx
from prunus.data.images import Data, Images
from prunus.data.manifest import PUBLISHED
from prunus.data.npz import read_npz
from prunus.data.pooled import pooled


def digits(_root: Path) -> Data:
    """1,437 + 360 handwritten digits, 1 x 8 x 8, ten classes; inside scikit-learn, so always there.

    The test set is every fifth image of the classes one after the other, each shuffled by ``RandomState(0)``: the
    classes have the same shares in both parts. Images keep scikit-learn's order. Pixels run from 0 to 16.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = Images(torch.from_numpy(bunch.images).to(torch.uint8)[:, None], torch.from_numpy(bunch.target))
    shuffled = np.random.RandomState(0).permutation(len(images))
    by_class = shuffled[np.argsort(bunch.target[shuffled], kind="stable")]
    fifth = torch.zeros(len(images), dtype=torch.bool)
    fifth[by_class[::5]] = True
    train, test = images.select(~fifth), images.select(fifth)
    return Data("digits", train, test, classes=10, scale=16.0, mean=(0.3054,), std=(0.3759,))


def mnist(root: Path) -> Data:
    """60,000 + 10,000 handwritten digits, 1 x 28 x 28, ten classes (LeCun et al. 1998)."""
    train, test = _idx_images("mnist", root)
    return Data("mnist", train, test, classes=10, scale=255.0, mean=(0.1307,), std=(0.3081,))


def fashion_mnist(root: Path) -> Data:
    """60,000 + 10,000 photographs of clothes, 1 x 28 x 28, ten classes (Xiao et al. 2017)."""
    train, test = _idx_images("fashion-mnist", root)
    return Data("fashion-mnist", train, test, classes=10, scale=255.0, mean=(0.2860,), std=(0.3530,))


def cifar10(root: Path) -> Data:
    """50,000 + 10,000 colour photographs, 3 x 32 x 32, ten classes (Krizhevsky 2009)."""
    train, test = _cifar_images("cifar10", root, label_bytes=1)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Data("cifar10", train, test, classes=10, scale=255.0, mean=mean, std=std, augmentation="crop-flip")


def cifar100(root: Path) -> Data:
    """50,000 + 10,000 colour photographs, 3 x 32 x 32, a hundred classes (Krizhevsky 2009)."""
    train, test = _cifar_images("cifar100", root, label_bytes=2)
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Data("cifar100", train, test, classes=100, scale=255.0, mean=mean, std=std, augmentation="crop-flip")


DATA: dict[str, Callable[[Path], Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
}


def load(name: str, root: Path | None = None, *, download: bool = False) -> Data:
    """The data set ``name``: a key of ``DATA``, or the path of an ``.npz`` file or of a folder of images.

    See ``read_npz`` and ``read_folder``. A name may end in ``@SIZE``, the side of the images: those of a folder and
    ``imagenet`` are read so, others ``pooled``. ``root`` defaults to ``$PRUNUS_DATA``, else ``~/.cache/prunus``; a
    relative path that is not found from here is sought there. Raises ``DataError`` when files are missing or broken;
    ``download`` fetches those first.

    >>> load("digits").input_shape
    (1, 8, 8)
    """
    before, size = sized(name)
    if before.endswith(".npz"):
        data = read_npz(data_path(before, root))
        return data if name == before else pooled(data, size)
    if not known(name, root):
        raise ValueError(
            f"data must be one of {list(DATA)} or the path of an .npz file or of a folder of images, got {name!r}"
        )
    root = data_root(root)
    if before == "imagenet":
        return imagenet(root, size)
    if before not in DATA:
        return read_folder(data_path(before, root), size)
    if download and before in PUBLISHED:
        fetch(before, root)
    data = DATA[before](root)
    return data if name == before else pooled(data, size)


def known(name: str, root: Path | None = None) -> bool:
    """Whether ``name`` names a data set, or a path: of an ``.npz``, with a slash or of a folder that exists."""
    before, _ = sized(name)
    return (
        before in DATA
        or before.endswith(".npz")
        or "/" in before
        or (bool(before) and data_path(before, root).is_dir())
    )


def data_path(name: str, root: Path | None = None) -> Path:
    """Where a file or folder is sought: from here, else below ``root``."""
    return Path(name) if Path(name).exists() else data_root(root) / name


def _idx_images(name: str, root: Path) -> tuple[Images, Images]:
    """Training and test images from the four IDX files, images before labels."""
    layout = PUBLISHED[name].find(root)
    train, train_labels, test, test_labels = (
        read_idx(PUBLISHED[name].read(root / layout.folder, file)) for file in layout.files
    )
    return Images(train[:, None], train_labels.long()), Images(test[:, None], test_labels.long())


def _cifar_images(name: str, root: Path, label_bytes: int) -> tuple[Images, Images]:
    """Training and test images from whichever version is there; the last file holds the test images."""
    layout = PUBLISHED[name].find(root)
    parts = []
    for file in layout.files:
        content = PUBLISHED[name].read(root / layout.folder, file)
        parts.append(read_binary(content, label_bytes) if file.name.endswith(".bin") else read_pickle(content))
    train = Images(torch.cat([part.images for part in parts[:-1]]), torch.cat([part.labels for part in parts[:-1]]))
    return train, parts[-1]
