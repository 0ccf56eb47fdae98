"""Criteria: their formulas, the sign that counts, and the signal that must be there."""

import pytest
import torch

from prunus.criteria import CRITERIA, Criterion, gradient, magnitude, preservation, random, saliency, taylor
from prunus.randomness import seeded

WEIGHT = torch.tensor([[2.0, -3.0, 0.0], [0.5, -0.5, 1.0]])
SIGNAL = torch.tensor([[-1.0, -2.0, 4.0], [4.0, 4.0, 0.0]])
FORMULAS = {
    magnitude: [[2.0, 3.0, 0.0], [0.5, 0.5, 1.0]],
    gradient: [[1.0, 2.0, 4.0], [4.0, 4.0, 0.0]],
    saliency: [[2.0, 6.0, 0.0], [2.0, 2.0, 0.0]],
    taylor: [[4.0, 36.0, 0.0], [4.0, 4.0, 0.0]],
    preservation: [[-2.0, 6.0, 0.0], [2.0, -2.0, 0.0]],
}


@pytest.mark.parametrize("criterion", FORMULAS)
def test_formulas_leave_their_arguments_alone(criterion: Criterion) -> None:
    weight, signal = WEIGHT.clone(), SIGNAL.clone()
    assert criterion(weight, signal, seeded(0)).tolist() == FORMULAS[criterion]
    assert torch.equal(weight, WEIGHT)
    assert torch.equal(signal, SIGNAL)


@pytest.mark.parametrize("criterion", [gradient, saliency, taylor, preservation])
def test_a_missing_signal_says_where_to_get_one(criterion: Criterion) -> None:
    with pytest.raises(ValueError, match=r"reads a signal and got none; give the update one, such as signal=Gradient"):
        criterion(WEIGHT, None, seeded(0))


def test_random_depends_on_the_generator_alone() -> None:
    first = random(WEIGHT, None, seeded(0, "masks", 1))
    assert first.shape == WEIGHT.shape
    assert torch.equal(first, random(-WEIGHT, SIGNAL, seeded(0, "masks", 1)))
    assert not torch.equal(first, random(WEIGHT, None, seeded(0, "masks", 2)))
    generator = seeded(0)
    assert not torch.equal(random(WEIGHT, None, generator), random(WEIGHT, None, generator))


def test_random_is_uniform() -> None:
    draws = random(torch.empty(100_000), None, seeded(0))
    counts = torch.histc(draws, bins=10, min=0, max=1)
    assert ((counts - 10_000).abs() < 400).all()  # four standard deviations are 380


def test_criteria_are_named() -> None:
    assert set(CRITERIA.values()) == {random, *FORMULAS}
    assert all(criterion.__name__ == name for name, criterion in CRITERIA.items())
