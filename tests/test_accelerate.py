"""accelerate saves and restores a sparsifier with model and optimizer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from cases import STEPS, Case, all_cases, attach, batch, equal, error, expected, final, network, sgd, six_methods
from torch import nn

from prunus.sparsifier import Sparsifier


@pytest.fixture
def generators() -> Iterator[None]:
    """accelerate restores the global ones."""
    with torch.random.fork_rng():
        yield


class Loop:
    """A loop with accelerate, prepared before or after `sparsify`."""

    def __init__(self, case: Case, sparsify_first: bool) -> None:
        self.inner = network()
        optimizer, self.accelerator = sgd(self.inner), Accelerator(cpu=True)
        if sparsify_first:
            self.sparsifier: Sparsifier = attach(case, self.inner, optimizer)
        self.model, self.optimizer = self.accelerator.prepare(self.inner, optimizer)
        if not sparsify_first:
            self.sparsifier = attach(case, self.model, self.optimizer)
        self.accelerator.register_for_checkpointing(self.sparsifier)

    def train(self, first: int, last: int) -> None:
        for number in range(first, last):
            inputs, targets = batch(number)
            self.optimizer.zero_grad()
            self.accelerator.backward(error(self.model(inputs), targets))
            self.optimizer.step()


def check_resume(case: Case, sparsify_first: bool, tmp_path: Path) -> None:
    begun = Loop(case, sparsify_first)
    begun.train(0, 9)
    begun.accelerator.save_state(str(tmp_path))
    resumed = Loop(case, sparsify_first)
    with torch.no_grad():
        for parameter in resumed.inner.parameters():
            nn.init.ones_(parameter)
    resumed.accelerator.load_state(str(tmp_path))
    assert resumed.sparsifier.clock == 9
    resumed.train(9, STEPS)
    assert equal(final(resumed.sparsifier, resumed.inner), expected(case))


either_order = pytest.mark.parametrize("sparsify_first", [True, False], ids=["sparsify-first", "prepare-first"])


@pytest.mark.usefixtures("generators")
@either_order
@six_methods
def test_a_resumed_loop_ends_bit_for_bit_the_same(case: Case, sparsify_first: bool, tmp_path: Path) -> None:
    check_resume(case, sparsify_first, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("generators")
@either_order
@all_cases
def test_every_method_resumes(case: Case, sparsify_first: bool, tmp_path: Path) -> None:
    check_resume(case, sparsify_first, tmp_path)
