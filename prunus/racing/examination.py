"""Whether networks have met the goal: how many validation images they get wrong, looked at as few as that takes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunus.data import Data, Labelled, evaluation_batches

BATCH = 1000
DEVIATIONS = 3.0  # by which a sample may be worse than the goal before the rest is not looked at
Batches = Iterable[tuple[Tensor, Tensor]]
Count = Callable[[Batches], Tensor]  # batches -> how many each network gets wrong, int64 (networks,)


@dataclass
class Examination:
    """Counts wrong answers on ``images``, of which at most ``goal`` may be wrong.

    Of more than ``screen`` images the first ``screen`` are looked at alone where all networks are so bad that the goal
    is out of their reach; 0 for always all. ``seen`` counts the images looked at, once for each network.
    """

    images: Labelled
    data: Data
    goal: int
    screen: int = 0
    seen: int = field(default=0, init=False)
    errors: list[float] = field(default_factory=list, init=False)  # the last of each, of as many images as were seen

    def __post_init__(self) -> None:
        places = torch.arange(len(self.images))
        parts = [places[: self.screen], places[self.screen :]] if 0 < self.screen < len(places) else [places]
        self._parts = [(len(part), evaluation_batches(self.images.select(part), BATCH, self.data)) for part in parts]

    def __call__(self, model: nn.Module) -> int | None:
        """How many of all images ``model`` gets wrong; None where a sample says that it is far from the goal."""
        (wrong,) = self.of_each(lambda batches: _wrong(model, batches)[None], 1)
        return wrong

    def of_each(self, count: Count, networks: int) -> list[int | None]:
        """The same of several ``networks``, which are counted together."""
        (size, batches), *rest = self._parts
        wrong = count(batches)
        self.seen += size * networks
        self.errors = [one / size for one in wrong.tolist()]
        hopeful = [not rest or one <= self._hopeless() for one in wrong.tolist()]
        if rest and any(hopeful):
            ((size, batches),) = rest
            wrong = wrong + count(batches)
            self.seen += size * networks
            self.errors = [one / len(self.images) for one in wrong.tolist()]
        return [one if near else None for one, near in zip(wrong.tolist(), hopeful, strict=True)]

    def _hopeless(self) -> float:
        """The most wrong answers among those of the screen with which the goal may still be met."""
        goal, screen = self.goal / len(self.images), self.screen
        return screen * (goal + DEVIATIONS * math.sqrt(goal * (1.0 - goal) / screen))


@torch.no_grad()
def _wrong(model: nn.Module, batches: Batches) -> Tensor:
    training = model.training
    model.eval()
    counts = [(model(inputs).argmax(1) != labels).sum() for inputs, labels in batches]
    model.train(training)
    return torch.stack(counts).sum()
