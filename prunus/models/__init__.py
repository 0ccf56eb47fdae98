"""The models that recipes name: functions of an input shape (channels, height, width) and a number of classes."""

from collections.abc import Callable
from functools import partial

from torch import nn

from prunus.models.cifar_resnet import resnet20, resnet32, resnet44, resnet56
from prunus.models.external import from_timm, from_torchvision, from_transformers
from prunus.models.initialise import kaiming_normal_, lecun_normal_
from prunus.models.mlp import lenet_300_100, mlp
from prunus.models.resnet import resnet18, resnet34, resnet50
from prunus.models.resnet8 import resnet8
from prunus.models.simple_cnn import conv_net, simple_cnn
from prunus.models.vgg import vgg16_bn
from prunus.models.wide_resnet import wrn_22_2, wrn_28_10

__all__ = ["EXTERNAL", "MODELS", "Factory", "factory", "kaiming_normal_", "lecun_normal_"]

Factory = Callable[..., nn.Module]  # (input_shape, classes, *, options with defaults)

MODELS: dict[str, Factory] = {
    "mlp": mlp,
    "lenet-300-100": lenet_300_100,
    "simple-cnn": simple_cnn,
    "conv-net": conv_net,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16-bn": vgg16_bn,
    "wrn-28-10": wrn_28_10,
    "wrn-22-2": wrn_22_2,
}

EXTERNAL: dict[str, Factory] = {"timm": from_timm, "torchvision": from_torchvision, "transformers": from_transformers}


def factory(name: str) -> Factory:
    """The function that builds the model ``name``: a key of ``MODELS``, or ``timm/NAME`` and so on for ``EXTERNAL``.

    Raises ValueError for a name that is neither.

    >>> factory("lenet-300-100")((1, 28, 28), 10).linear1.weight.shape
    torch.Size([300, 784])
    """
    package, slash, external = name.partition("/")
    if slash and package in EXTERNAL:
        return partial(EXTERNAL[package], external)
    if name in MODELS:
        return MODELS[name]
    known = [*MODELS, *(f"{package}/NAME" for package in EXTERNAL)]
    raise ValueError(f"no model is called {name!r}; there are {', '.join(known)}")
