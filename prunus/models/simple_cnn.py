"""The two small convolutional networks that papers on sparse training call Simple-CNN; both start LeCun-normal."""

from itertools import pairwise

from torch import nn

from prunus.models.assembly import Layers, sequence
from prunus.models.initialise import lecun_normal_


def simple_cnn(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two unpadded 5x5 convolutions and a linear layer (Lee et al. 2020).

    62,346 parameters on 1x28x28 and 10 classes; sides of 16 or more.
    """
    channels, height, width = input_shape
    if min(height, width) < 16:
        raise ValueError(f"simple-cnn needs sides of 16 or more, got {height} x {width}; conv-net takes smaller images")
    features = 64 * _side(height) * _side(width)
    layers: Layers = {
        "conv1": nn.Conv2d(channels, 32, 5),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(32, 64, 5),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(features, classes),
    }
    return lecun_normal_(sequence(layers))


def conv_net(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[int, ...] = (32, 64, 64),
    hidden: int = 64,
) -> nn.Module:
    """Padded 3x3 convolutions, each pooled by 2, and two linear layers (the Simple-CNN of Tessera et al. 2022).

    The paper states neither widths nor initial weights: those here are ours (122,570 parameters on 3x32x32 and 10
    classes). A side that does not divide by 2 loses its last row in pooling.
    """
    channels, height, width = input_shape
    layers: Layers = {}
    for number, (inputs, outputs) in enumerate(pairwise((channels, *widths)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    shrink = 2 ** len(widths)
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(widths[-1] * (height // shrink) * (width // shrink), hidden)
    layers[f"relu{len(widths) + 1}"] = nn.ReLU()
    layers["linear2"] = nn.Linear(hidden, classes)
    return lecun_normal_(sequence(layers))


def _side(side: int) -> int:
    return ((side - 4) // 2 - 4) // 2
