"""Allocations: exact totals, the floor of one weight a layer, LAMP by its definition, N:M along the input dimension."""

import math
import pickle
import warnings
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus import allocation
from prunus.allocation import (
    ALLOCATIONS,
    Allocation,
    CollapseWarning,
    Pattern,
    er,
    erk,
    global_,
    lamp,
    pattern,
    per_layer,
    uniform,
    uniform_plus,
)
from prunus.budgets import ErdosRenyi
from prunus.masks import keep_count
from prunus.ranking import Cut, find_cut, top_k, top_k_together

SHAPES = {"conv": (8, 4, 3, 3), "middle": (20, 32), "last": (5, 20)}


def draws(shapes: dict[str, tuple[int, ...]] = SHAPES, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).abs() for name, shape in shapes.items()}


def kept(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


@pytest.mark.parametrize("rank", [global_, lamp])
@settings(deadline=None, max_examples=40)
@given(sparsity=st.floats(0, 0.99), seed=st.integers(0, 99), scale=st.sampled_from([1.0, 1e-3]))
def test_rankings_are_exact_in_total(rank: Allocation, sparsity: float, seed: int, scale: float) -> None:
    scores = draws(seed=seed)
    scores["last"] *= scale  # so that the last layer sometimes needs its floor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        masks = rank(scores, sparsity)
    assert sum(kept(masks).values()) == keep_count(1028, sparsity)
    assert min(kept(masks).values()) >= 1


def test_global_ranks_all_layers_together() -> None:
    scores = draws()
    assert all(torch.equal(mask, top_k_together(scores, 103)[name]) for name, mask in global_(scores, 0.9).items())


def test_a_layer_keeps_its_best_weight_in_place_of_the_worst_elsewhere() -> None:
    """The floor of c takes the place of b's last weight, so b needs its floor in turn."""
    scores = {"a": torch.tensor([5.0, 4.0, 3.0, 2.0]), "b": torch.tensor([0.1, 2.5, 0.2]), "c": torch.tensor([[0.5]])}
    with pytest.warns(CollapseWarning, match="at sparsity 0.5 only the floor of one weight is left in c, b; a budget"):
        masks = global_(scores, 0.5)
    assert masks["a"].tolist() == [True, True, False, False]
    assert masks["b"].tolist() == [False, True, False]
    assert masks["c"].tolist() == [[True]]


def test_no_warning_where_every_layer_lives() -> None:
    masks = global_({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 0.5])}, 0.5)
    assert kept(masks) == {"a": 1, "b": 1}


def test_fewer_weights_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity 0.9 keeps 1 weights for 2 layers; at least one each must stay"):
        global_({"a": torch.ones(5), "b": torch.ones(5)}, 0.9)


def test_the_floor_holds_against_infinite_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(scores: dict[str, Tensor], k: int, pins: Mapping[str, int] | None = None) -> Cut:
        calls.append(k)
        assert len(calls) < 10, "the search for the floor does not end"
        return find_cut(scores, k, pins)

    monkeypatch.setattr(allocation, "find_cut", counted)
    with pytest.warns(CollapseWarning, match="left in b;"):
        masks = global_({"a": torch.full((4,), math.inf), "b": torch.zeros(4)}, 0.5)
    assert kept(masks) == {"a": 3, "b": 1}


def naive_lamp(scores: dict[str, Tensor], k: int) -> set[tuple[str, int]]:
    """Every weight's square over the squares ranked at least as high in its layer; ties rank the lower index higher."""
    ranked = []
    for position, (name, score) in enumerate(scores.items()):
        values = score.flatten().tolist()
        for i, value in enumerate(values):
            total = sum(v * v for j, v in enumerate(values) if v * v > value * value or (v == value and j <= i))
            ranked.append((-(value * value / total if value else 0.0), position, i, name))
    return {(name, i) for _, _, i, name in sorted(ranked)[:k]}


def chosen(masks: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {(name, int(i)) for name, mask in masks.items() for i in mask.flatten().nonzero()}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), sparsity=st.floats(0, 0.9))
def test_lamp_is_a_double_loop(seed: int, sparsity: float) -> None:
    scores = draws({"a": (3, 4), "b": (10,), "c": (2, 2, 2)}, seed)
    assert chosen(lamp(scores, sparsity)) == naive_lamp(scores, keep_count(30, sparsity))


def test_lamp_breaks_ties_by_the_lower_index() -> None:
    scores = {"a": torch.tensor([2.0, 1.0, 2.0, 2.0, 1.0, 1.0])}
    assert chosen(lamp(scores, 0.5)) == naive_lamp(scores, 3)
    assert chosen(lamp(scores, 0.35)) == naive_lamp(scores, 4)


def test_lamp_leaves_dropped_weights_below_all_others_and_out_of_the_sums() -> None:
    scores = draws({"a": (40,), "b": (20,)})
    dropped = {name: torch.arange(score.numel()) % 2 == 0 for name, score in scores.items()}
    alive = {name: score[~dropped[name]] for name, score in scores.items()}
    masked = {name: score.masked_fill(dropped[name], -math.inf) for name, score in scores.items()}
    found = lamp(masked, 1 - 10 / 60)
    assert {n: m[~dropped[n]].tolist() for n, m in found.items()} == {
        n: m.tolist() for n, m in lamp(alive, 1 - 10 / 30).items()
    }
    assert chosen(lamp(masked, 0.5)) == {(n, int(i)) for n, d in dropped.items() for i in (~d).nonzero()}
    zeros = {"a": torch.tensor([0.0, -math.inf, 0.0, 1.0])}
    assert lamp(zeros, 0.25)["a"].tolist() == [True, False, True, True]


@pytest.mark.parametrize("rank", [*ALLOCATIONS.values(), pattern("2:4")], ids=[*ALLOCATIONS, "2:4"])
def test_nan_is_refused(rank: Allocation) -> None:
    scores = draws()
    scores["middle"][1, 1] = math.nan
    with pytest.raises(ValueError, match="hold NaN"):
        rank(scores, 0.5)


@pytest.mark.parametrize(
    ("rank", "counts"),
    [
        (uniform, {"conv": 115, "middle": 256, "last": 40}),
        (uniform_plus, {"conv": 288, "middle": 103, "last": 20}),
        (erk, ErdosRenyi()(SHAPES, 0.6)),
        (er, ErdosRenyi(kernel=False)(SHAPES, 0.6)),
        (per_layer({"middle": 0.9, "l*": 0.3}), {"conv": 277, "middle": 64, "last": 70}),
    ],
    ids=["uniform", "uniform+", "erk", "er", "per layer"],
)
def test_budgets_rank_inside_each_layer(rank: Allocation, counts: dict[str, int]) -> None:
    scores = draws()
    masks = rank(scores, 0.6)
    assert kept(masks) == counts
    assert all(torch.equal(mask, top_k(scores[name], counts[name])) for name, mask in masks.items())


def test_pattern_keeps_two_of_four_along_the_input() -> None:
    linear = torch.tensor([[1.0, 4.0, 3.0, 2.0, 8.0, 8.0, 8.0, 8.0], [-1.0, -2.0, -3.0, -4.0, 5.0, 7.0, 6.0, 8.0]])
    expected = [[0, 1, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 0, 1]]
    assert pattern("2:4")({"linear": linear}, 0.5)["linear"].int().tolist() == expected


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pattern_on_a_convolution_groups_input_channels(fmt: torch.memory_format) -> None:
    score = draws({"conv": (3, 8, 2, 2)})["conv"].to(memory_format=fmt)
    mask = pattern("2:4")({"conv": score}, 0.5)["conv"]
    assert mask.shape == score.shape
    for out in range(3):
        for row in range(2):
            for column in range(2):
                for group in (slice(0, 4), slice(4, 8)):
                    assert torch.equal(mask[out, group, row, column], top_k(score[out, group, row, column], 2))


def test_pattern_on_the_way_of_a_schedule_narrows_to_itself() -> None:
    scores = draws({"a": (4, 8)})
    masks = [pattern("1:4")(scores, sparsity)["a"] for sparsity in (0.0, 0.2, 0.5, 0.75)]
    assert [int(mask.sum()) for mask in masks] == [32, 24, 16, 8]
    assert all(not (after & ~before).any() for before, after in pairwise(masks))
    assert pattern("2:4")(scores, 0.3)["a"].sum() == 24  # 30 % of 4 is nearest to one dropped


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 3, 3), (8,)])
def test_pattern_refuses_a_layer_that_does_not_divide(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"divisible by 4; 'first' has shape \(.*\), exclude it"):
        pattern("2:4")({"first": torch.ones(shape)}, 0.5)


def test_pattern_refuses_more_than_its_sparsity() -> None:
    with pytest.raises(ValueError, match=r"pattern 2:4 has sparsity 0.5, asked was 0.9; pass 0.5"):
        pattern("2:4")({"a": torch.ones(4, 4)}, 0.9)


@pytest.mark.parametrize("text", ["2:", "2/4", "a:b", "2:4:8", "-2:4"])
def test_a_pattern_is_written_with_a_colon(text: str) -> None:
    with pytest.raises(ValueError, match=r'written N:M, such as "2:4", got'):
        pattern(text)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4)])
def test_a_pattern_keeps_some_of_its_group(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=rf"0 < N <= M, got {n}:{m}"):
        Pattern(n, m)


@pytest.mark.parametrize(
    "rank", [*ALLOCATIONS.values(), Pattern(2, 4), per_layer({"conv": 0.5})], ids=[*ALLOCATIONS, "2:4", "table"]
)
def test_an_allocation_is_a_value(rank: Allocation) -> None:
    assert pickle.loads(pickle.dumps(rank)) == rank


@pytest.mark.parametrize("rank", ALLOCATIONS.values(), ids=ALLOCATIONS)
@pytest.mark.parametrize("sparsity", [1.0, -0.1])
def test_every_allocation_refuses_a_sparsity_outside(rank: Allocation, sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        rank(draws(), sparsity)
