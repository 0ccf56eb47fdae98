"""A sparsifier in the hands of a trainer that saves and restores model and optimizer at times of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.integrations.plain import dense_state, plain_
from prunus.masks import Masks, unwrap
from prunus.sparsifier import Sparsifier


class Attached:
    """A sparsifier whose model keeps the state dict of the dense network.

    A trainer's own checkpoint then holds the weights in use under their plain names, for whatever reads it; the rest is
    in `state_dict`.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier
        self._handles, self._final = plain_(sparsifier.site.model), False

    def state_dict(self) -> dict[str, Any]:
        """The sparsifier's state, and the dense weights and thresholds where parts stand before the weights."""
        model, state = self.sparsifier.site.model, self.sparsifier.state_dict()
        return {"sparsifier": state, "dense": dense_state(model), "final": self._final}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken, once the model holds the weights of the trainer's checkpoint.

        Raises RuntimeError for a state taken after `finalize`.
        """
        if state["final"]:
            raise RuntimeError(
                "the checkpoint is of a finished training, whose weights are plain: load them as those of any model, "
                "or resume from a checkpoint of an earlier step"
            )
        unwrap(self.sparsifier.site.model).load_state_dict(state["dense"], strict=False)
        self.sparsifier.load_state_dict(state["sparsifier"])

    def finalize(self) -> Masks:
        """Finalize the sparsifier; the state dict is then plain by itself."""
        for handle in self._handles:
            handle.remove()
        self._final = True
        return self.sparsifier.finalize()


@contextmanager
def values_kept(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Put weights, buffers and optimizer state back to their values: attaching prunes what a checkpoint restored."""
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    tensors = [*model.parameters(), *model.buffers(), *states]
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
