"""What is measured around the prunings of a cycle, and BatchNorm's statistics made anew after them."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

from prunus.evaluation import Reduce, alone, recalibrate_

Measure = Callable[[nn.Module], float]


@dataclass
class Watch:
    """Hears of the moments of a cycle and says what it measured, by name: trained, pruned, recalibrated, retrained.

    After a pruning, and again when all is retrained, it recalibrates BatchNorm with the first ``recalibrate`` of
    ``batches``, none for 0. ``forward`` is the context of forward passes, for a precision; ``mean`` the mean over the
    ranks, each of which has ``batches`` of its own.
    """

    model: nn.Module
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    measure: Measure | None
    recalibrate: int
    forward: Callable[[], AbstractContextManager[object]] = nullcontext
    mean: Reduce = alone

    def __call__(self, moment: str) -> dict[str, float]:
        if not self.recalibrate or moment == "trained":
            return self.measured(moment)
        measured = self.measured(moment) if moment == "pruned" else {}
        self.recalibrate_()
        return measured | self.measured("recalibrated" if moment == "pruned" else moment)

    def measured(self, name: str) -> dict[str, float]:
        """The network as it is, under this name."""
        if self.measure is None:
            return {}
        with self.forward():
            return {name: float(self.measure(self.model))}

    def recalibrate_(self) -> None:
        """Replace the running statistics of BatchNorm by those of the network as it is."""
        with self.forward():
            recalibrate_(self.model, islice(iter(self.batches()), self.recalibrate), mean=self.mean)
