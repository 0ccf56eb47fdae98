"""Setting validation images aside."""

from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor


class Selectable(Protocol):
    """Examples that can be counted and chosen by number."""

    def __len__(self) -> int: ...

    def select(self: "Chosen", indices: Tensor) -> "Chosen":
        """Those at ``indices``."""
        ...


Chosen = TypeVar("Chosen", bound=Selectable)


def split(images: Chosen, fraction: float = 0.1, seed: int = 0) -> tuple[Chosen, Chosen]:
    """Training and validation images: the indices shuffled by ``RandomState(seed)``, the first ``fraction`` validates.

    The split of Lee et al. 2020's released code. Only a training stream augments, so the validation images, which are
    read through ``evaluation_batches``, never are.

    >>> from prunus.data import Images
    >>> train, validation = split(Images(torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.arange(50)))
    >>> len(train), len(validation)
    (45, 5)
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(images)))
    size = round(fraction * len(images))
    return images.select(order[size:]), images.select(order[:size])
