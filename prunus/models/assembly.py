"""What the networks share: a sequence of named layers, stages of residual blocks, the linear layer on top."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

Layers = dict[str, nn.Module]
Block = Callable[[int, int, int], nn.Module]  # input channels, output channels, stride


def sequence(layers: Layers) -> nn.Sequential:
    """The layers one after the other, under their names."""
    return nn.Sequential(OrderedDict(layers))


def stages(block: Block, widths: Sequence[int], blocks: Sequence[int]) -> Layers:
    """``layer1``, ``layer2``, …: stages of as many blocks as ``blocks`` says; each but the first halves the side.

    ``widths`` are the channels before, between and after the stages, so one more than ``blocks``.
    """
    layers: Layers = {}
    for number, ((inputs, outputs), count) in enumerate(zip(pairwise(widths), blocks, strict=True), start=1):
        first = block(inputs, outputs, 1 if number == 1 else 2)
        layers[f"layer{number}"] = nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))
    return layers


def head(features: int, classes: int) -> Layers:
    """The mean over all positions and the linear layer ``fc`` on it."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(features, classes)}
