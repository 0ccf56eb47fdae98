"""What a run looks at around a pruning: accuracy on the validation images, and BatchNorm's statistics made anew."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

from prunus.evaluation import evaluate, recalibrate_

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass
class AroundPruning:
    """Measures ``model`` before and after each pruning of a cycle, and again after its BatchNorm is recalibrated.

    ``validation`` and ``training`` make their batches anew at each call; ``recalibrate`` batches of training are used,
    none for 0. ``forward`` is the precision's context. The model is the plain one until it has been wrapped.
    """

    model: nn.Module
    classes: int
    validation: Batches
    training: Batches
    recalibrate: int
    forward: Callable[[], AbstractContextManager[object]]

    def __call__(self, moment: str) -> dict[str, float]:
        measured = {moment: self.accuracy()}
        if moment == "pruned" and self.recalibrate:
            self.recalibrate_()
            measured["recalibrated"] = self.accuracy()
        return measured

    def accuracy(self) -> float:
        """On the validation images."""
        with self.forward():
            return evaluate(self.model, self.validation(), self.classes).accuracy

    def recalibrate_(self) -> None:
        """Replace the running statistics of BatchNorm by those of the network as it is."""
        with self.forward():
            recalibrate_(self.model, self._first())

    def _first(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(self.training(), self.recalibrate)
