"""Advice in Python: copies are retrained as `retrain` does it, and the network itself stays as it is."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from prunus import Training, advise, retrain
from prunus.advice import CYCLES, Choice
from prunus.retraining import Peak, Pretraining
from prunus.schedules import linear

Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Pretraining, list[Batch], list[Batch]]:
    """A classifier, its history, and its batches for training and for validation."""
    torch.manual_seed(0)
    points = torch.randn(320, 8)
    batches = list(zip(points.split(16), points[:, :4].argmax(1).split(16), strict=True))
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    rate = linear(0.0, initial=0.2)
    steps = Training(
        model, SGD(model.parameters(), lr=0.2), batches[:12], nn.functional.cross_entropy, 60, learning_rate=rate
    )
    return model, Pretraining(tuple(step.learning_rate for step in steps)), batches[:12], batches[12:]


def test_a_choice_is_what_retrain_makes_of_it(
    trained: tuple[nn.Module, Pretraining, list[Batch], list[Batch]],
) -> None:
    model, pretraining, data, validation = trained
    before = deepcopy(model.state_dict())
    settings = {"sparsity": 0.8, "epochs": 1, "validation": validation}

    def optimizer(copy: nn.Module) -> SGD:
        return SGD(copy.parameters(), lr=0.2)

    advice = advise(model, data, pretraining=pretraining, optimizer=optimizer, **settings)
    assert [tried.choice for tried in advice.tried[6:8]] == [Choice(advice.tried[6].choice.schedule, n) for n in CYCLES]
    assert len(advice.tried) == 10
    for tried in advice.tried:
        copy, choice = deepcopy(model), tried.choice
        history = pretraining.scaled(choice.factor)
        arguments = {"schedule": choice.schedule, "cycles": choice.cycles, "pretraining": history}
        done = retrain(copy, data, optimizer=optimizer(copy), **arguments, **settings)
        assert tried.accuracy == done.cycles[-1].measured["retrained"]
        assert tried.peak == max(cycle.peak for cycle in done.cycles)
        assert tried.n == 128
    assert advice.best.accuracy == max(tried.accuracy or 0 for tried in advice.tried)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_the_history_rules_out_is_left_out_and_what_diverges_is_said(
    trained: tuple[nn.Module, Pretraining, list[Batch], list[Batch]],
) -> None:
    model, _, data, validation = trained
    settings = {"sparsity": 0.8, "epochs": 1, "validation": validation, "trainings": 2}
    advice = advise(model, data, pretraining=Peak(0.1, 60), **settings)
    assert [tried.choice for tried in advice.tried] == [Choice("allr"), Choice("llr")]
    assert set(advice.left_out) == {"ft", "lrw", "slr", "clr"}
    with pytest.raises(ValueError, match="all 2 diverged; lower the peak"):
        advise(model, data, pretraining=Peak(1e30, 60), **settings)


def test_every_choice_sees_the_same_batches(
    trained: tuple[nn.Module, Pretraining, list[Batch], list[Batch]],
) -> None:
    model, pretraining, data, validation = trained
    orders: list[list[int]] = []

    class Shuffled(list[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            orders.append(torch.randperm(len(self)).tolist())
            return iter([self[place] for place in orders[-1]])

    advise(model, Shuffled(data), sparsity=0.8, epochs=1, pretraining=pretraining, validation=validation, trainings=2)
    assert len(orders) >= 2
    assert orders[: len(orders) // 2] == orders[len(orders) // 2 :]
    with pytest.raises(ValueError, match="trainings must be at least 1, got 0"):
        advise(model, data, sparsity=0.8, epochs=1, pretraining=pretraining, validation=validation, trainings=0)
