"""Paired timing: what is measured and how many steps; never how fast."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny

from prunus import timing
from prunus.recipes import Recipe, single
from prunus.timing import BLOCKS, dense_twin, throughput
from prunus.training import Step

KEYS = {
    *("run", "method", "sparsity", "precision", "dense_steps_per_second", "steps_per_second", "ratio", "low", "high"),
    "blocks",
}


@pytest.mark.parametrize("method", ["dense", "gmp", "rigl", "dpf", "str"])
def test_throughput_is_a_positive_ratio_with_its_quartiles(method: str) -> None:
    recipe = tiny(method=method)
    measured = throughput(recipe, dense_twin(recipe))
    assert set(measured) == KEYS
    assert (measured["run"], measured["method"]) == (recipe.name(), method)
    assert (measured["sparsity"], measured["precision"]) == (single(recipe).sparsity, "32-true")
    assert 0 < measured["low"] <= measured["ratio"] <= measured["high"]
    assert measured["steps_per_second"] > 0
    assert measured["dense_steps_per_second"] > 0
    assert measured["blocks"] == BLOCKS


def test_the_dense_twin_differs_in_its_method_alone() -> None:
    recipe = tiny(accumulate=2, clip=1.0, seed=3)
    twin = dense_twin(recipe)
    assert single(twin).method == "dense"
    assert single(twin).sparsity == 0.0
    rest = set(Recipe.model_fields) - {"method", "sparsity"}
    assert all(getattr(twin, field) == getattr(recipe, field) for field in rest)
    study = tiny(method=["dense", "gmp"], accumulate=2, clip=1.0, seed=3)
    assert twin.name() == next(study.runs()).name()


@dataclass
class Clock:
    """Time that only steps move: a dense one takes 3 seconds, any other 2. Trainings record their steps as d and s."""

    now: float = 0.0
    taken: str = ""

    def prepare(self, recipe: Recipe) -> SimpleNamespace:
        self.now += 1000.0  # building a training is not counted
        return SimpleNamespace(training=PretendedTraining(self, recipe), sparsifier=None)


@dataclass
class PretendedTraining:
    clock: Clock
    recipe: Recipe

    @property
    def steps(self) -> int:
        assert self.recipe.steps is not None
        return self.recipe.steps

    def __iter__(self) -> Iterator[Step]:
        dense = "dense" in self.recipe.method
        for number in range(self.steps):
            self.clock.now += 3.0 if dense else 2.0
            self.clock.taken += "d" if dense else "s"
            yield Step(number + 1, torch.zeros(()), 0.1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "prepare", clock.prepare)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_blocks_of_equal_length_alternate_and_a_training_that_ends_begins_anew(clock: Clock) -> None:
    measured = throughput(tiny(), dense_twin(tiny()))
    assert clock.taken == "ddddd" + "s" + "dssd" * (
        BLOCKS // 2
    )  # warm up both, then one step a block: six steps are few
    assert (measured["low"], measured["ratio"], measured["high"]) == (1.5, 1.5, 1.5)
    assert (measured["dense_steps_per_second"], measured["steps_per_second"]) == (1 / 3, 1 / 2)


def test_a_block_is_a_tenth_of_a_training_that_is_long(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 1e9)
    throughput(tiny(steps=30), dense_twin(tiny(steps=30)))
    assert clock.taken == "ddddd" + "s" + "dddssssssddd" * (BLOCKS // 2)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 6.0)
    clock.taken = ""
    throughput(tiny(steps=30), dense_twin(tiny(steps=30)))
    assert clock.taken == "ddddd" + "s" + "ddssssdd" * (BLOCKS // 2)


def test_a_method_with_cycles_is_timed_on_pruned_weights() -> None:
    blocks = timing._Blocks(next(tiny(method={"bimp": {"cycles": 5}}, steps=100).runs()))
    assert blocks.seconds(3) > 0.0
    assert blocks.prepared.sparsifier is not None
    assert blocks.prepared.sparsifier.sparsity() == pytest.approx(0.9, abs=1e-3)
