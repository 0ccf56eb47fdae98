"""VGG with BatchNorm, for small images."""

from itertools import pairwise

from torch import nn

from prunus.models.assembly import Layers, head, sequence
from prunus.models.initialise import kaiming_normal_

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_bn(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """VGG-16 with BatchNorm and one linear layer, as is usual on CIFAR: 14,728,266 parameters.

    Simonyan & Zisserman 2015, configuration D, without its three linear layers. Pooling rounds odd sides up, so that
    28x28 inputs keep a pixel to the end; sides that divide by 32 are not affected.
    """
    convolutions = pairwise((input_shape[0], *(width for stage in VGG16 for width in stage)))
    layers: Layers = {}
    for number, stage in enumerate(VGG16, start=1):
        layers[f"layer{number}"] = nn.Sequential(*(_convolution(*next(convolutions)) for _ in stage))
        layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True)
    linear = nn.Linear(512, classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return kaiming_normal_(sequence(layers | head(512, classes) | {"fc": linear}))


def _convolution(inputs: int, outputs: int) -> nn.Module:
    return sequence(
        {"conv": nn.Conv2d(inputs, outputs, 3, padding=1), "bn": nn.BatchNorm2d(outputs), "relu": nn.ReLU()}
    )
