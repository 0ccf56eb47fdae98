"""Why networks with random masks of 5 % stay at chance: the signal at initialisation, on CIFAR-10 (minutes)."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus.carriers import Masked
from prunus.data import Stream, evaluation_batches, load
from prunus.evaluation import evaluate
from prunus.methods import mp_rr, rp_rr
from prunus.models.simple_cnn import conv_net
from prunus.sparsifier import sparsify
from prunus.training import Training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRUNUS_DATA" not in os.environ, reason="PRUNUS_DATA is not set: it is the folder of CIFAR-10"),
]

STEPS, BATCH = 4000, 32
CASES = {
    "random 5 %": lambda: rp_rr(0.95),
    "random 5 %, rescaled": lambda: rp_rr(0.95, rescale=True),
    "magnitude 5 %": lambda: mp_rr(0.95),
    "random 10 %": lambda: rp_rr(0.9),
}


def departure(method: Masked) -> tuple[int | None, float]:
    """The step at which a running mean of the loss falls below 2.2, None for never; and the test accuracy then."""
    data = replace(load("cifar10"), augmentation="none")
    torch.manual_seed(0)
    model = conv_net(data.input_shape, data.classes, widths=(16, 32, 32)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsify(model, optimizer, method, STEPS, seed=0)
    stream = Stream(data.train, BATCH, data=data, seed=0)
    mean, left = 2.3, None
    for step in Training(model, optimizer, stream, nn.functional.cross_entropy, STEPS):
        mean = 0.98 * mean + 0.02 * float(step.loss)
        if mean < 2.2:
            left = step.number
            break
    return left, evaluate(model, evaluation_batches(data.test, 1000, data)).accuracy


@pytest.mark.parametrize(("name", "make"), CASES.items(), ids=CASES)
def test_only_a_random_mask_of_five_percent_stays_at_chance(name: str, make: Callable[[], Masked]) -> None:
    left, accuracy = departure(make())
    print(f"{name}: leaves chance at step {left}, accuracy {accuracy:.4f}")
    if name == "random 5 %":
        assert left is None
        assert accuracy == pytest.approx(0.1), "one class for every image"
    else:
        assert left is not None
        assert accuracy > 0.15
