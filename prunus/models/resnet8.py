"""ResNet-8 without normalisation, as Lee et al. 2020 train it on CIFAR-10 (their code is TensorFlow 1)."""

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.assembly import Layers, head, sequence
from prunus.models.initialise import lecun_normal_


def resnet8(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-8 without BatchNorm: three pre-activation blocks, 75,050 parameters on 3x32x32 and 10 classes.

    Sides must divide by 4: on others TensorFlow would pad differently.
    """
    layers: Layers = {
        "conv1": nn.Conv2d(input_shape[0], 16, 3, padding=1),
        "block1": Block(16),
        "block2": HalvingBlock(16),
        "block3": HalvingBlock(32),
        "relu": nn.ReLU(),
    }
    return lecun_normal_(sequence(layers | head(64, classes)))


class Block(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, added to the input as it was before the first ReLU.

    >>> import torch
    >>> Block(16)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 16, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, shaped like ``x``."""
        inner: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + inner


class HalvingBlock(nn.Module):
    """The block that halves the side and doubles the channels; its shortcut averages 2x2 and appends zero channels.

    Unlike ``Block``, the shortcut starts *after* the first ReLU.

    >>> import torch
    >>> HalvingBlock(16)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride=2)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, 2 * channels, h / 2, w / 2)."""
        active = F.relu(x)
        # TensorFlow's "SAME" pads an even side at its end only; padding=1 would sample a grid shifted by one pixel
        inner: Tensor = self.conv2(F.relu(self.conv1(F.pad(active, (0, 1, 0, 1)))))
        return inner + F.pad(F.avg_pool2d(active, 2), (0, 0, 0, 0, 0, self.channels))
