"""Advice on a network of your own: copies of it are retrained, each with another choice."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.optim import Optimizer

from prunus.advice import TRAININGS, Advice, Choice, Tried, impossible, ordered
from prunus.recovery import Batches, retrain
from prunus.retraining import History
from prunus.runs import DIVERGED
from prunus.training import Loss


def advise(
    model: nn.Module,
    data: Batches,
    *,
    sparsity: float,
    epochs: float,
    pretraining: History,
    validation: Batches,
    optimizer: Callable[[nn.Module], Optimizer] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    recalibrate: int = 0,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    trainings: int = TRAININGS,
) -> Advice:
    """Which schedule, cycles and rates to `retrain` the trained ``model`` with, which itself stays as it is.

    Each of up to ``trainings`` choices retrains a copy, as `retrain` does with these arguments; ``optimizer`` makes one
    for a copy. The most accurate classifier on ``validation`` is ``advice.best.choice``: its schedule, its cycles, and
    the factor for ``pretraining.scaled``. Raises ValueError where every retraining diverged.
    """
    drawn = torch.get_rng_state()
    images = sum(len(targets) for _, targets in validation)

    def tried(choice: Choice) -> Tried:
        copy = deepcopy(model)
        torch.set_rng_state(drawn)  # every choice sees the same batches
        try:
            done = retrain(
                copy,
                data,
                sparsity=sparsity,
                epochs=epochs,
                pretraining=pretraining.scaled(choice.factor),
                optimizer=optimizer(copy) if optimizer else None,
                cycles=choice.cycles,
                schedule=choice.schedule,
                loss=loss,
                validation=validation,
                recalibrate=recalibrate,
                include=include,
                exclude=exclude,
            )
        except DIVERGED:
            return Tried(choice, "", None, 0, None)
        accuracy = done.cycles[-1].measured["retrained"]
        return Tried(choice, "", accuracy, images, max(cycle.peak for cycle in done.cycles))

    steps = round(epochs * len(data))
    return ordered(tried, impossible(pretraining, steps), steps, trainings)
