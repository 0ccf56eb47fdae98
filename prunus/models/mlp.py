"""Multi-layer perceptrons."""

import math
from itertools import pairwise

from torch import nn

from prunus.models.assembly import Layers, sequence


def mlp(input_shape: tuple[int, int, int], classes: int, *, widths: tuple[int, ...] = (256, 256)) -> nn.Module:
    """Linear layers with ReLU between them; ``widths`` are the hidden ones.

    The layers are called linear1, linear2, … and start as PyTorch starts them.

    >>> [layer.out_features for layer in mlp((1, 28, 28), 10, widths=(512,)) if isinstance(layer, nn.Linear)]
    [512, 10]
    """
    *hidden, last = pairwise((math.prod(input_shape), *widths, classes))
    layers: Layers = {"flatten": nn.Flatten()}
    for number, (inputs, outputs) in enumerate(hidden, start=1):
        layers[f"linear{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"linear{len(widths) + 1}"] = nn.Linear(*last)
    return sequence(layers)


def lenet_300_100(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-300-100: the perceptron with 300 and 100 hidden units (LeCun et al. 1998)."""
    return mlp(input_shape, classes, widths=(300, 100))
