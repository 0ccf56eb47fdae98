"""Setting validation images aside."""

import numpy as np
import torch

from prunus.data.images import Images


def split(images: Images, fraction: float = 0.1, seed: int = 0) -> tuple[Images, Images]:
    """Training and validation images: the indices shuffled by ``RandomState(seed)``, the first ``fraction`` validates.

    The split of Lee et al. 2020's released code. Only a ``Stream`` augments, so the validation images, which are read
    through ``evaluation_batches``, never are.

    >>> train, validation = split(Images(torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.arange(50)))
    >>> len(train), len(validation)
    (45, 5)
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(images)))
    size = round(fraction * len(images))
    return images.select(order[size:]), images.select(order[:size])
