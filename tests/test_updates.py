"""Update rules: exact counts, the sets they may touch, and the cases in which nothing moves."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.allocation import Allocation, erk, global_, lamp, pattern, uniform
from prunus.budgets import ErdosRenyi, uniform_counts
from prunus.criteria import Criterion, magnitude, random, saliency
from prunus.masks import keep_count
from prunus.plans import Even
from prunus.randomness import seeded
from prunus.schedules import Constant, Cosine, cubic, linear
from prunus.signals import Gradient
from prunus.updates import DropGrow, Prune, Resize, State, Then, Update, mean_signal

SHAPES = {"conv": (6, 4, 3, 3), "linear": (10, 24)}
N = sum(math.prod(shape) for shape in SHAPES.values())


def state(sparsity: float = 0.5, *, seed: int = 0, progress: float = 0.0) -> State:
    """Random weights, zero off random masks, and random signals."""
    generator = torch.Generator().manual_seed(seed)
    draws = [{n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()} for _ in range(3)]
    masks = uniform(draws[0], sparsity)
    weights = {name: weight * masks[name] for name, weight in draws[1].items()}
    return State(weights, masks, draws[2], progress, seeded(seed, "masks"))


def counts(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def subset(inner: Tensor, outer: Tensor) -> bool:
    return not bool((inner & ~outer).any())


sparsities = st.floats(0.05, 0.9)
examples = settings(deadline=None, max_examples=25)


@pytest.mark.parametrize("recover", [False, True])
@examples
@given(old=sparsities, further=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_prune_keeps_the_best_of_what_is_left(recover: bool, old: float, further: float, seed: int) -> None:
    before = state(old, seed=seed)
    before.weights.update({n: torch.randn(s, generator=before.generator) for n, s in SHAPES.items()})
    target = old + (0.95 - old) * further
    masks = Prune(Constant(target), allocation=uniform, recover=recover)(before)
    assert counts(masks) == uniform_counts(SHAPES, target)
    for name, mask in masks.items():
        rivals = torch.ones_like(mask) if recover else before.masks[name]
        assert subset(mask, rivals)
        size = before.weights[name].abs()
        assert size[mask].min() >= size[rivals & ~mask].max() if (rivals & ~mask).any() else True


@pytest.mark.parametrize(
    "allocation", [global_, lamp, uniform, erk, pattern("2:4")], ids=["global", "lamp", "uniform", "erk", "2:4"]
)
def test_prune_along_a_schedule_nests_and_ends_exactly(allocation: Allocation) -> None:
    final = 0.5 if allocation == pattern("2:4") else 0.9
    rule, now = Prune(cubic(final), allocation=allocation), state(0.0)
    for step in range(9):
        masks = rule(replace(now, progress=step / 8))
        assert all(subset(mask, now.masks[name]) for name, mask in masks.items())
        now = replace(now, masks=masks)
    exact = sum(ErdosRenyi()(SHAPES, final).values()) if allocation is erk else keep_count(N, final)
    assert sum(counts(now.masks).values()) == exact


def test_prune_below_the_present_sparsity_changes_nothing() -> None:
    before = state(0.8)
    for allocation in (global_, lamp, uniform):
        masks = Prune(Constant(0.3), allocation=allocation)(before)
        assert all(torch.equal(mask, before.masks[name]) for name, mask in masks.items())


@pytest.mark.parametrize("drop", [magnitude, random])
@examples
@given(old=sparsities, new=sparsities, seed=st.integers(0, 99))
def test_resize_changes_the_difference_alone(drop: Criterion, old: float, new: float, seed: int) -> None:
    before = state(old, seed=seed)
    masks = Resize(Even(Constant(new)), drop=drop)(before)
    assert counts(masks) == uniform_counts(SHAPES, new)
    for name, mask in masks.items():
        inner, outer = sorted((mask, before.masks[name]), key=lambda m: int(m.sum()))
        assert subset(inner, outer)
        if drop is magnitude and mask.sum() < before.masks[name].sum():
            size = before.weights[name].abs()
            assert size[mask].min() >= size[before.masks[name] & ~mask].max()


@pytest.mark.parametrize("drop", [random, magnitude])
def test_resize_at_the_same_count_is_bit_identical(drop: Criterion) -> None:
    before = state(0.6)
    masks = Resize(Even(Constant(0.6)), drop=drop)(before)
    assert all(torch.equal(mask, before.masks[name]) for name, mask in masks.items())


def test_resize_grows_the_highest_scores_off_the_mask_up_to_dense() -> None:
    before = state(0.7)
    rule = Resize(Even(linear(0.0, initial=0.7), ErdosRenyi()), grow=saliency_of_signal, signal=Gradient())
    masks = rule(replace(before, progress=0.5))
    assert counts(masks) == ErdosRenyi()(SHAPES, 0.35)
    for name, mask in masks.items():
        size, grown = before.signals[name].abs(), mask & ~before.masks[name]
        assert size[grown].min() >= size[~mask].max()
    assert all(mask.all() for mask in rule(replace(before, progress=1.0)).values())


def saliency_of_signal(weight: Tensor, signal: Tensor | None, generator: torch.Generator) -> Tensor:
    assert signal is not None
    return signal.abs()


RULES = {
    "rigl": DropGrow(Constant(0.3)),
    "rigl without regrowth": DropGrow(Constant(0.3), regrow=False),
    "set": DropGrow(Constant(0.3), grow=random, signal=None),
    "snfs": DropGrow(Cosine(0.5, 0.005), share=mean_signal, rounding=math.ceil),
    "snfs without regrowth": DropGrow(Constant(0.5), share=mean_signal, regrow=False),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@examples
@given(sparsity=sparsities, seed=st.integers(0, 99), scale=st.sampled_from([1.0, 1e-4, 0.0]))
def test_drop_and_grow_keeps_the_density(rule: DropGrow, sparsity: float, seed: int, scale: float) -> None:
    before = state(sparsity, seed=seed)
    before.signals["conv"] *= scale
    masks = rule(before)
    assert sum(counts(masks).values()) == sum(counts(before.masks).values())
    if rule.share is not mean_signal:
        assert counts(masks) == counts(before.masks)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_smallest_go_and_the_strongest_come(rule: DropGrow) -> None:
    before = state(0.6)
    masks = rule(before)
    fraction = rule.fraction(0.0)
    for name, mask in masks.items():
        old, size = before.masks[name], before.weights[name].abs()
        turned = rule.rounding(fraction * int(old.sum()))
        dropped = old & (size <= size[old].sort().values[turned - 1])
        assert int(dropped.sum()) == turned
        assert subset(old & ~mask, dropped)
        assert (mask & dropped).any() or not rule.regrow or rule.signal is None
        assert rule.regrow or not (mask & dropped).any()
        if rule.signal is not None:
            strength, grown = before.signals[name].abs(), mask & (~old | dropped)
            rivals = ~mask & (~old | dropped if rule.regrow else ~old)
            assert strength[grown].min() >= strength[rivals].max()


def test_rounding_decides_the_count() -> None:
    before = state(0.5)  # 108 and 120 kept
    for rounding, dropped in ((math.floor, [10, 12]), (math.ceil, [11, 12])):
        masks = DropGrow(Constant(0.1), regrow=False, rounding=rounding)(before)
        assert [int((old & ~masks[name]).sum()) for name, old in before.masks.items()] == dropped


@pytest.mark.parametrize(("sparsity", "fraction"), [(0.0, 0.3), (0.5, 0.0), (0.5, 0.001)])
def test_without_free_places_or_a_fraction_nothing_moves(sparsity: float, fraction: float) -> None:
    before = state(sparsity)
    for regrow in (True, False):
        masks = DropGrow(Constant(fraction), regrow=regrow)(before)
        assert all(torch.equal(mask, before.masks[name]) for name, mask in masks.items())


def test_a_nearly_dense_layer_turns_only_its_free_places() -> None:
    before = state(0.02)  # 4 and 5 places free
    masks = DropGrow(Constant(0.3), regrow=False)(before)
    assert counts(masks) == counts(before.masks)
    assert all(bool(mask[~before.masks[name]].all()) for name, mask in masks.items())


def test_mean_signal_shares_growth_by_the_mean_over_kept_weights() -> None:
    before = state(0.8)
    flat = {name: torch.full(shape, 3.0 if name == "conv" else 1.0) for name, shape in SHAPES.items()}
    dropped = {"conv": 10, "linear": 10}
    kept = {name: mask.clone() for name, mask in before.masks.items()}
    assert mean_signal(replace(before, signals=flat), kept, dropped) == {"conv": 15, "linear": 5}
    flat["conv"][~kept["conv"]] = 1000.0
    assert mean_signal(replace(before, signals=flat), kept, dropped) == {"conv": 15, "linear": 5}


def test_mean_signal_passes_on_what_a_layer_cannot_take() -> None:
    masks = {"a": torch.arange(100) < 90, "b": torch.arange(100) < 50, "c": torch.arange(100) < 50}
    signals = {"a": torch.full((100,), 1e6), "b": torch.full((100,), 2.0), "c": torch.full((100,), 1.0)}
    now = State(signals, masks, signals, 0.0, seeded(0))
    assert mean_signal(now, masks, {"a": 5, "b": 10, "c": 10}) == {"a": 9, "b": 16, "c": 0}
    silent = replace(now, signals={name: torch.zeros(100) for name in masks})
    assert sum(mean_signal(silent, masks, {"a": 5, "b": 10, "c": 10}).values()) == 25


def test_then_runs_the_second_on_the_masks_of_the_first() -> None:
    before = state(0.5, progress=1.0)
    prune, turn = Prune(cubic(0.8), allocation=uniform), DropGrow(Constant(0.3))
    masks = Then(prune, turn)(before)
    expected = turn(replace(before, masks=prune(before)))
    assert all(torch.equal(mask, expected[name]) for name, mask in masks.items())
    assert counts(masks) == uniform_counts(SHAPES, 0.8)


def test_then_asks_for_the_signal_of_either() -> None:
    assert Then(Prune(cubic(0.8)), DropGrow(Constant(0.3))).signal == Gradient()
    assert Then(Prune(cubic(0.8), saliency, signal=Gradient(0.9)), Resize(Even(Constant(0.5)))).signal == Gradient(0.9)
    assert Then(Prune(cubic(0.8)), Resize(Even(Constant(0.5)))).signal is None


@pytest.mark.parametrize(
    "rule", [Prune(Constant(0.9)), Resize(Even(Constant(0.2))), *RULES.values()], ids=["prune", "resize", *RULES]
)
def test_a_rule_is_a_pure_value(rule: Update) -> None:
    before, twin = state(0.5), state(0.5)
    masks, again = rule(before), rule(twin)
    assert all(torch.equal(masks[name], again[name]) for name in SHAPES)
    assert all(torch.equal(before.masks[name], state(0.5).masks[name]) for name in SHAPES)
    assert all(torch.equal(before.weights[name], state(0.5).weights[name]) for name in SHAPES)
    assert replace(rule) == rule
