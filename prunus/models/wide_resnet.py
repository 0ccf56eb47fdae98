"""Wide ResNets (Zagoruyko & Komodakis 2016) as in the code of Zimmer et al. 2023."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from prunus.models.assembly import Layers, head, sequence, stages
from prunus.models.initialise import kaiming_normal_


def wrn_28_10(input_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.3) -> nn.Module:
    """Wide ResNet of depth 28 and width 10 (Zagoruyko & Komodakis 2016): 36,546,980 parameters for 100 classes."""
    return _wide_resnet(input_shape, classes, depth=28, width=10, dropout=dropout)


def wrn_22_2(input_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.0) -> nn.Module:
    """Wide ResNet of depth 22 and width 2, the small one of the papers on sparse training (Evci et al. 2020)."""
    return _wide_resnet(input_shape, classes, depth=22, width=2, dropout=dropout)


class WideBlock(nn.Module):
    """Two 3x3 convolutions with bias, each after BatchNorm and ReLU, dropout between them; the second one strides.

    >>> import torch
    >>> WideBlock(8, 16, 2, dropout=0.3)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1)
        changes = inputs != outputs or stride != 1
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        inner = self.dropout(self.conv1(F.relu(self.bn1(x))))
        output: Tensor = self.conv2(F.relu(self.bn2(inner))) + self.downsample(x)
        return output


def _wide_resnet(
    input_shape: tuple[int, int, int], classes: int, *, depth: int, width: int, dropout: float
) -> nn.Module:
    widths = (16, 16 * width, 32 * width, 64 * width)
    stem: Layers = {"conv1": nn.Conv2d(input_shape[0], 16, 3, padding=1)}
    body = stages(partial(WideBlock, dropout=dropout), widths, ((depth - 4) // 6,) * 3)
    # momentum as in the reference code: evaluation sees nearly the last batch's statistics alone
    last: Layers = {"bn1": nn.BatchNorm2d(widths[-1], momentum=0.9), "relu": nn.ReLU()}
    return kaiming_normal_(sequence(stem | body | last | head(widths[-1], classes)))
