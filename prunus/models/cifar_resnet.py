"""The thin ResNets that He et al. 2016 designed for CIFAR-10, depth 6n + 2."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.assembly import Layers, head, sequence, stages
from prunus.models.initialise import kaiming_normal_
from prunus.models.resnet import BasicBlock


def resnet20(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016, Section 4.2), shortcuts without parameters: 269,722 parameters."""
    return _cifar_resnet(input_shape, classes, blocks=3)


def resnet32(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-32 for CIFAR (He et al. 2016, Section 4.2), shortcuts without parameters: 464,154 parameters."""
    return _cifar_resnet(input_shape, classes, blocks=5)


def resnet44(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-44 for CIFAR (He et al. 2016, Section 4.2), shortcuts without parameters: 658,586 parameters."""
    return _cifar_resnet(input_shape, classes, blocks=7)


def resnet56(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-56 for CIFAR (He et al. 2016, Section 4.2), shortcuts without parameters: 853,018 parameters."""
    return _cifar_resnet(input_shape, classes, blocks=9)


class Subsample(nn.Module):
    """The shortcut without parameters: every ``stride``-th position, zero channels half before, half after (option A).

    >>> import torch
    >>> Subsample(2, 4, 2)(torch.ones(1, 2, 2, 2)).flatten().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else Subsample(inputs, outputs, stride)


def _cifar_resnet(input_shape: tuple[int, int, int], classes: int, *, blocks: int) -> nn.Module:
    stem: Layers = {
        "conv1": nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
    }
    body = stages(partial(BasicBlock, shortcut=_shortcut), (16, 16, 32, 64), (blocks,) * 3)
    return kaiming_normal_(sequence(stem | body | head(64, classes)))
