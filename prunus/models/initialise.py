"""Initial weights. They come from torch's global generator, as at any construction in PyTorch: seed that one first."""

import math
from collections.abc import Iterator

from torch import nn

CUT_DEVIATION = 0.87962566103423978  # standard deviation of a standard normal cut off at two


def lecun_normal_(model: nn.Module) -> nn.Module:
    """The model, its weights redrawn with variance 1/fan_in from a normal cut off at two deviations, its biases 0.

    That is TF1's ``variance_scaling_initializer()``, which Lee et al. 2020 train from.
    """
    for layer in _layers(model):
        deviation = 1 / math.sqrt(layer.weight[0].numel()) / CUT_DEVIATION  # one output's slice has fan_in entries
        nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        _zero_bias_(layer)
    return model


def kaiming_normal_(model: nn.Module) -> nn.Module:
    """The model, its convolutions redrawn from a normal of variance 2/fan_out, their biases 0 (He et al. 2015, Eq. 14).

    Linear and BatchNorm layers keep PyTorch's own start.
    """
    for layer in _layers(model):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            _zero_bias_(layer)
    return model


def _layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def _zero_bias_(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
