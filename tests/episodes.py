"""The smallest episodes: a perceptron on made-up points."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.carriers import Masked
from prunus.evaluation import evaluate
from prunus.learned.environment import SparsityEnv
from prunus.learned.episode import Episode, Measured, counter, decided
from prunus.masks import prunable
from prunus.methods import METHODS
from prunus.randomness import seeded
from prunus.sparsifier import Sparsifier, sparsify
from prunus.training import Training

FEATURES, CLASSES, BATCH = 6, 3, 16


def points(*purpose: str | int) -> tuple[Tensor, Tensor]:
    """A batch whose classes can be learned."""
    inputs = torch.randn(BATCH, FEATURES, generator=seeded(0, *purpose))
    return inputs, inputs[:, :CLASSES].argmax(1)


HELD_OUT = [points("held out", number) for number in range(4)]


@dataclass
class Points:
    """Endless batches, those of a seed."""

    seed: int
    drawn: int = 0

    def __iter__(self) -> "Points":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        self.drawn += 1
        return points(self.seed, self.drawn)


def trained(
    seed: int, method: Masked, *, steps: int = 12, widths: tuple[int, ...] = (8, 5), rate: float = 0.05
) -> tuple[Training, Sparsifier]:
    """A network with dropout, its training and the method at work in it."""
    layers: list[nn.Module] = []
    for width, following in zip((FEATURES, *widths), widths, strict=False):
        layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    sparsifier = sparsify(model, optimizer, method, steps, seed=seed)
    return Training(model, optimizer, Points(seed), nn.functional.cross_entropy, steps), sparsifier


def make(
    seed: int,
    *,
    method: str = "mp-rr",
    steps: int = 12,
    widths: tuple[int, ...] = (8, 5),
    rate: float = 0.05,
    update_every: int = 3,
    rescale: bool = False,
) -> Episode:
    """An episode of four decisions."""
    chosen = METHODS[method](0.5, rescale=rescale)
    assert isinstance(chosen, Masked)
    training, sparsifier = trained(seed, decided(chosen), steps=steps, widths=widths, rate=rate)
    operations = counter(training.model, prunable(training.model), torch.zeros(1, FEATURES))

    def measure() -> Measured:
        quality = evaluate(training.model, HELD_OUT)
        return Measured(quality.nll, quality.accuracy)

    return Episode(training, sparsifier, measure, operations, update_every, BATCH, CLASSES)


def environment(**changes: Any) -> SparsityEnv:
    """Its environment; what `make` takes goes there."""
    names = ("method", "steps", "widths", "rate", "update_every", "rescale")
    built = {key: changes.pop(key) for key in names if key in changes}
    return SparsityEnv(partial(make, **built), **changes)
