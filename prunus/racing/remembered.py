"""What a probe found on a network before training, kept for others that begin from the same weights."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from prunus.cadence import Once
from prunus.carriers import Carrier, Masked
from prunus.masks import Tensors, Weights
from prunus.packing import save_dense
from prunus.signals import LossGradient, Probe
from prunus.tensor_file import read_tensors
from prunus.updates import Prune


@dataclass(frozen=True)
class Remembered:
    """The signals of ``probe``, computed once and then read from ``path``."""

    probe: Probe
    path: Path

    def __call__(self, model: nn.Module, weights: Weights) -> Tensors:
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_dense(self.path, self.probe(model, weights))
        found, _ = read_tensors(self.path)
        return {name: found[name].to(weight.device) for name, weight in weights.items()}


def remembering(method: Carrier, path: Path) -> Carrier:
    """The method, where it prunes once before training by the gradient of the loss, with that gradient in a file.

    The saliency of SNIP on all training images takes a whole epoch, and is the same for every sparsity, optimizer and
    batch size.
    """
    if not (isinstance(method, Masked) and isinstance(method.cadence, Once) and isinstance(method.update, Prune)):
        return method
    if method.cadence != Once(0.0) or not isinstance(method.update.signal, LossGradient):
        return method
    return replace(method, update=replace(method.update, signal=Remembered(method.update.signal, path)))
