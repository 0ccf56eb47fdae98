"""ResNet-18, -34 and -50, with parameter names as in torchvision so that its checkpoints load."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.assembly import Block, Layers, head, sequence, stages
from prunus.models.initialise import kaiming_normal_

Stem = Literal["cifar", "imagenet"]


def resnet18(input_shape: tuple[int, int, int], classes: int, *, stem: Stem = "cifar") -> nn.Module:
    """ResNet-18 (He et al. 2016), with the stem for small images or the one for ImageNet."""
    return _resnet(BasicBlock, (64, 64, 128, 256, 512), (2, 2, 2, 2), _stem(stem, input_shape[0]), classes)


def resnet34(input_shape: tuple[int, int, int], classes: int, *, stem: Stem = "cifar") -> nn.Module:
    """ResNet-34 (He et al. 2016), with the stem for small images or the one for ImageNet."""
    return _resnet(BasicBlock, (64, 64, 128, 256, 512), (3, 4, 6, 3), _stem(stem, input_shape[0]), classes)


def resnet50(input_shape: tuple[int, int, int], classes: int, *, stem: Stem = "cifar") -> nn.Module:
    """ResNet-50 (He et al. 2016), stride in the 3x3 convolution, with the stem for small images or ImageNet's."""
    return _resnet(Bottleneck, (64, 256, 512, 1024, 2048), (3, 4, 6, 3), _stem(stem, input_shape[0]), classes)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut that is a normalised 1x1 convolution where the shape changes, else the identity (option B)."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut; ReLU after the first and after the sum.

    >>> import torch
    >>> BasicBlock(8, 16, 2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """Normalised 1x1, 3x3 and 1x1 convolutions, the inner ones a quarter as wide as the output, and a shortcut.

    >>> import torch
    >>> Bottleneck(8, 16, 2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


def _resnet(block: Block, widths: Sequence[int], blocks: Sequence[int], stem: Layers, classes: int) -> nn.Module:
    return kaiming_normal_(sequence(stem | stages(block, widths, blocks) | head(widths[-1], classes)))


def _stem(stem: Stem, channels: int) -> Layers:
    if stem == "cifar":
        return {
            "conv1": nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
        }
    if stem == "imagenet":
        return {
            "conv1": nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
        }
    raise ValueError(f"stem must be 'cifar' (3x3, stride 1) or 'imagenet' (7x7, stride 2, pooled), got {stem!r}")
