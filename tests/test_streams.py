"""Streams: orders, megabatches, few-shot, replay and the plan; numbers of the public code of ALMA and APP."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden import golden
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.randomness import seeded
from prunus.streams import (
    ORDERS,
    FractionReplay,
    FullReplay,
    LastReplay,
    NoReplay,
    Replay,
    Reservoir,
    app_layout,
    balanced,
    by_class,
    cut,
    exponent,
    exponents,
    few_shot,
    given,
    hold_out,
    of_exponent,
    permuted,
    replay,
    sparsities,
    sparsity_at,
)

VECTORS = golden("streams")
REPLAYS = (NoReplay(), FullReplay(), LastReplay(1), LastReplay(3), FractionReplay(0.5), Reservoir(7))
few_examples = settings(max_examples=25, deadline=None)
labellings = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(torch.tensor)


def replayed(rule: Replay, parts: tuple[Tensor, ...], seed: int = 0) -> list[Tensor]:
    """What is trained on at each megabatch; the memory goes through a checkpoint's list of numbers each time."""
    memory: tuple[Tensor, ...] = ()
    history, seen = [], 0
    for number, new in enumerate(parts):
        now, memory = rule(memory, new, seen, seeded(seed, "replay", number))
        memory = tuple(torch.tensor(ids.tolist(), dtype=torch.int64) for ids in memory)
        history.append(now)
        seen += len(new)
    return history


def ids_of(*parts: Tensor) -> list[int]:
    return torch.cat(parts).tolist()


def of_ranges(ranges: list[list[int]]) -> list[int]:
    return [index for start, stop in ranges for index in range(start, stop)]


@pytest.mark.parametrize("case", VECTORS["alma_stream_indices"]["cases"], ids=lambda case: f"{case['N']}")
def test_golden_alma_streams(case: dict[str, Any]) -> None:
    parts = cut(permuted(torch.zeros(case["N"]), case["seed"]), case["n_megabatches"])
    assert [part.tolist() for part in parts] == case["indices"]


def test_golden_alma_stream_of_cifar() -> None:
    parts = cut(permuted(torch.zeros(50000), 432), 50)
    assert parts[0][:4].tolist() == [10387, 32683, 41961, 29545]


FLAGS: dict[str, Replay] = {"": FullReplay(), "no_replay": NoReplay(), "one_replay": LastReplay(1)}


@pytest.mark.parametrize("case", VECTORS["app_stream_indices"]["cases"], ids=lambda case: "".join(case["flags"]))
def test_golden_app_streams(case: dict[str, Any]) -> None:
    size, rule = case["M"], FLAGS["".join(case["flags"])]
    trains, validations = zip(*app_layout(given(torch.zeros(50000), 0), case["S_B"]), strict=True)
    steps = zip(replayed(rule, trains), replayed(rule, validations), case["per_megabatch"], strict=True)
    for train, validation, expected in steps:
        assert train.tolist() == of_ranges(expected["train_ranges"])
        assert validation.tolist() == of_ranges(expected["val_ranges"])
        assert train[: int(0.2 * size)].tolist() == of_ranges(expected["prune_sample_ranges"])


@pytest.mark.parametrize("case", VECTORS["few_shot_layouts"], ids=lambda case: f"{case['S_B']}-{case['M']}")
def test_golden_app_layouts_of_few_shot_streams(case: dict[str, int]) -> None:
    layout = app_layout(torch.arange(case["M"] * case["S_B"]), case["S_B"])
    assert {(len(train), len(validation)) for train, validation in layout} == {(case["n_train"], case["n_val"])}
    assert layout[0][1][0] == case["first_validation"]


@pytest.mark.parametrize("size", [3, 10, 70, 100, 6250, 9999])
def test_training_has_the_whole_examples_of_its_fraction(size: int) -> None:
    train, validation = hold_out(torch.arange(size), 0.1)
    assert (len(train), len(validation)) == (int(0.9 * size), size - int(0.9 * size))


def test_a_fraction_is_meant_as_written() -> None:
    assert len(hold_out(torch.arange(100), 0.07)[1]) == 7


@few_examples
@for_all(labels=labellings, seed=st.integers(0, 3), data=st.data())
@pytest.mark.parametrize("order", ORDERS.values(), ids=[*ORDERS])
def test_a_cut_order_holds_every_example_once(
    order: Callable[[Tensor, int], Tensor], labels: Tensor, seed: int, data: st.DataObject
) -> None:
    ids = order(labels, seed)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, order(labels, seed))
    number = data.draw(st.integers(1, len(labels)))
    equal, sized = cut(ids, number), cut(ids, size=number)
    assert sorted(ids_of(*equal)) == list(range(len(labels)))
    assert ids_of(*sized) == ids_of(*equal) == ids.tolist()
    assert [len(part) for part in equal] == [len(part) for part in np.array_split(ids.numpy(), number)]
    assert {len(part) for part in sized[:-1]} <= {number}
    assert 1 <= len(sized[-1]) <= number


def test_parts_share_no_memory_with_the_stream() -> None:
    assert {len(part.untyped_storage()) for part in cut(torch.arange(1000), 10)} == {800}


@few_examples
@for_all(labels=labellings, seed=st.integers(0, 3))
def test_every_beginning_of_a_balanced_stream_has_each_class_within_one_of_its_share(labels: Tensor, seed: int) -> None:
    one_hot = torch.nn.functional.one_hot(labels, 6)
    counts = one_hot[balanced(labels, seed)].cumsum(0)
    shares = torch.arange(1, len(labels) + 1)[:, None] * one_hot.sum(0) / len(labels)
    assert (counts - shares).abs().max() < 1.0


@few_examples
@for_all(classes=st.integers(1, 5), each=st.integers(1, 8), seed=st.integers(0, 3), data=st.data())
def test_any_stretch_of_equal_classes_has_them_within_one(
    classes: int, each: int, seed: int, data: st.DataObject
) -> None:
    labels = torch.arange(classes).repeat(each)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(labels))] * 2)))
    counts = labels[balanced(labels, seed)][start:stop].bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1


@few_examples
@for_all(labels=labellings, seed=st.integers(0, 3))
def test_classes_arrive_one_after_another(labels: Tensor, seed: int) -> None:
    arriving = labels[by_class(labels, seed)]
    assert len(arriving.unique_consecutive()) == len(labels.unique())


def test_a_seed_orders_classes_and_the_examples_within() -> None:
    labels = torch.arange(4).repeat_interleave(30)
    assert len({tuple(labels[by_class(labels, seed)].unique_consecutive().tolist()) for seed in range(9)}) > 1
    first = {seed: by_class(labels, seed).sort().values for seed in range(9)}
    assert all(torch.equal(ids, torch.arange(120)) for ids in first.values())
    inside = [ids[labels[ids] == 0] for ids in (by_class(labels, 0), by_class(labels, 1))]
    assert not torch.equal(*inside)
    assert not torch.equal(inside[0], inside[0].sort().values)


@few_examples
@for_all(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    fraction=st.sampled_from([0.1, 0.3, 0.5]),
    rule=st.sampled_from(REPLAYS),
    tail=st.booleans(),
    seed=st.integers(0, 3),
)
def test_nothing_validates_that_was_trained_on(
    sizes: list[int], fraction: float, rule: Replay, tail: bool, seed: int
) -> None:
    parts = torch.split(torch.randperm(sum(sizes), generator=seeded(seed)), sizes)
    pairs = [hold_out(part, fraction, seed=seed, number=n, tail=tail) for n, part in enumerate(parts)]
    for part, (train, validation) in zip(parts, pairs, strict=True):
        assert min(len(train), len(validation)) >= 1
        assert sorted(ids_of(train, validation)) == sorted(part.tolist())
        positions = [part.tolist().index(example) for example in train.tolist()]
        assert positions == sorted(positions)
        assert not tail or torch.equal(torch.cat([train, validation]), part)
    trains, validations = (replayed(rule, side, seed) for side in zip(*pairs, strict=True))
    assert not set(ids_of(*trains)) & set(ids_of(*validations))


def test_every_megabatch_draws_its_own_validation() -> None:
    drawn = [hold_out(torch.arange(40), 0.5, seed=seed, number=n)[1].tolist() for seed in (0, 1) for n in (0, 1)]
    assert len({tuple(ids) for ids in drawn}) == 4


@few_examples
@for_all(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.sampled_from(REPLAYS), st.integers(0, 3))
def test_replay_trains_on_the_new_after_distinct_old_ones(sizes: list[int], rule: Replay, seed: int) -> None:
    parts = torch.split(torch.randperm(sum(sizes), generator=seeded(seed)), sizes)
    for number, now in enumerate(replayed(rule, parts, seed)):
        old = now[: len(now) - len(parts[number])].tolist()
        assert torch.equal(now[len(old) :], parts[number])
        assert len(set(old)) == len(old)
        assert set(old) <= set(ids_of(*parts[:number], parts[0][:0]))


def test_memory_is_what_replay_needs_and_no_more() -> None:
    a, b, c = torch.arange(9).split(3)
    generator = seeded(0)
    assert NoReplay()((), a, 0, generator)[1] == ()
    assert [part.tolist() for part in FullReplay()((a, b), c, 6, generator)[1]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [part.tolist() for part in LastReplay(2)((a, b), c, 6, generator)[1]] == [[3, 4, 5], [6, 7, 8]]


def test_golden_sizes_of_fractions() -> None:
    parts = torch.arange(54).split(18)
    assert [len(now) for now in replayed(FractionReplay(0.5), parts)] == [18, 27, 31]
    for fraction, rule in ((0.0, NoReplay()), (1.0, FullReplay())):
        pairs = zip(replayed(FractionReplay(fraction), parts), replayed(rule, parts), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_a_fraction_is_of_what_was_trained_on_last() -> None:
    sets = [set(now.tolist()) for now in replayed(FractionReplay(0.5), torch.arange(54).split(18))]
    assert sets[2] & set(range(36)) < sets[1]
    assert sets[1] & set(range(18)) != set(range(9))


@few_examples
@for_all(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 20))
def test_a_reservoir_has_its_size(sizes: list[int], size: int) -> None:
    parts = torch.arange(sum(sizes)).split(sizes)
    for number, now in enumerate(replayed(Reservoir(size), parts)):
        assert len(now) == min(size, sum(sizes[:number])) + sizes[number]


@pytest.mark.parametrize(
    ("sizes", "size", "quantile"),  # 0.1 % of chi-squared values are larger
    [([1, 2, 1, 1], 2, 16.27), ([1, 7, 4, 12, 5, 1], 6, 56.89)],
)
def test_a_reservoir_is_a_uniform_sample_of_all_before(sizes: list[int], size: int, quantile: float) -> None:
    before, draws = sum(sizes) - 1, 400
    parts = torch.arange(sum(sizes)).split(sizes)
    counts = torch.zeros(before)
    for seed in range(draws):
        counts[replayed(Reservoir(size), parts, seed)[-1][:-1]] += 1
    expected = draws * size / before
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic * (before - 1) / (before - size) < quantile  # for draws without replacement


def test_resume_needs_nothing_but_the_memory() -> None:
    parts = torch.arange(40).split(8)
    for rule in REPLAYS:
        whole = replayed(rule, parts, seed=3)
        assert all(torch.equal(*pair) for pair in zip(whole, replayed(rule, parts, seed=3), strict=True))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("none", NoReplay()),
        ("full", FullReplay()),
        ({"last": 2}, LastReplay(2)),
        ({"fraction": 0.5}, FractionReplay(0.5)),
        ({"fraction": 1}, FractionReplay(1)),
        ({"reservoir": 1000}, Reservoir(1000)),
    ],
)
def test_settings_of_replay(setting: Any, rule: Replay) -> None:
    assert replay(setting) == rule


@few_examples
@for_all(
    piles=st.lists(st.lists(st.integers(6, 12), min_size=1, max_size=4), min_size=1, max_size=3),
    per_class=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_few_shot_is_even_over_classes_and_groups(piles: list[list[int]], per_class: int, seed: int) -> None:
    flat = [
        (label, group) for label, sizes in enumerate(piles) for group, size in enumerate(sizes) for _ in range(size)
    ]
    shuffled = torch.tensor(flat)[torch.randperm(len(flat), generator=seeded(seed))]
    labels, groups = shuffled.unbind(1)
    ids = few_shot(labels, per_class, seed, groups)
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert labels[ids].bincount().tolist() == [per_class] * len(piles)
    for label, sizes in enumerate(piles):
        counts = groups[ids][labels[ids] == label].bincount(minlength=len(sizes))
        assert counts.max() - counts.min() <= 1
    assert labels[few_shot(labels, per_class, seed)].bincount().tolist() == [per_class] * len(piles)


def test_few_shot_takes_the_odd_one_from_a_group_that_has_it() -> None:
    groups = torch.tensor([0, 0, 1, 1, 1])
    for seed in range(8):
        assert few_shot(torch.zeros(5, dtype=torch.int64), 5, seed, groups).tolist() == [0, 1, 2, 3, 4]


def test_few_shot_draws_by_seed() -> None:
    labels = torch.arange(2).repeat(20)
    drawn = {tuple(few_shot(labels, 3, seed).tolist()) for seed in range(5)}
    assert len(drawn) == 5
    zero, one = (few_shot(labels, 5, 0)[few_shot(labels, 5, 0) % 2 == k] // 2 for k in (0, 1))
    assert not torch.equal(zero, one)
    groups = torch.arange(40) // 2 % 4
    assert len({tuple(groups[few_shot(labels, 1, seed, groups)].tolist()) for seed in range(9)}) > 2


@pytest.mark.parametrize("case", VECTORS["delta_lists"]["cases"], ids=lambda case: f"{case['S_B']}")
def test_golden_plans(case: dict[str, Any]) -> None:
    megabatches, tau = case["S_B"], case["tau"]
    delta = exponents(tau, megabatches, released=True)
    assert delta == tuple(case["delta"])
    assert [1.0 - of_exponent(power) for power in delta] == pytest.approx(case["target_density"], abs=1e-12)
    if megabatches > 1:
        plan = sparsities(of_exponent(tau), megabatches)
        assert exponents(tau, megabatches) == delta
        assert [1.0 - sparsity for sparsity in plan] == pytest.approx(case["target_density"], abs=1e-12)


@few_examples
@for_all(st.floats(1.0, 12.0), st.integers(2, 70))
def test_a_plan_is_app_s(tau: float, megabatches: int) -> None:
    plan = sparsities(of_exponent(tau), megabatches)
    assert plan == pytest.approx([1 - 0.8**power for power in np.linspace(1, tau, megabatches)], abs=1e-12)
    assert plan[-1] == of_exponent(tau)


def test_a_plan_of_one_megabatch_is_the_final_sparsity() -> None:
    assert exponents(4.5, 1) == (4.5,)
    assert sparsities(0.9, 1) == (0.9,)


def test_a_plan_once_and_one_from_another_beginning() -> None:
    assert sparsities(0.9, 3, kind="once") == (0.9,) * 3
    assert sparsities(0.1, 2, kind="once") == (0.1,) * 2
    assert sparsities(0.75, 3, first=0.0) == pytest.approx((0.0, 0.5, 0.75))


def test_after_the_horizon_the_sparsity_stays() -> None:
    plan = [sparsity_at(number, 0.9, horizon=4) for number in range(9)]
    assert plan == [*sparsities(0.9, 4), *[0.9] * 5]


@few_examples
@for_all(st.floats(0.0, 0.999))
def test_exponent_is_the_inverse(sparsity: float) -> None:
    assert of_exponent(exponent(sparsity)) == pytest.approx(sparsity, abs=1e-12)


ZEROS = torch.zeros(4, dtype=torch.int64)
TEN = torch.arange(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cut(TEN), "one of the two, got None and None"),
        (lambda: cut(TEN, 2, size=5), "one of the two, got 2 and 5"),
        (lambda: cut(TEN, 0), "from 1 to 10 megabatches, one for each example, got 0"),
        (lambda: cut(TEN, 11), "from 1 to 10 megabatches, one for each example, got 11"),
        (lambda: cut(TEN, size=0), "at least 1 example, got size 0"),
        (lambda: app_layout(TEN, 0), "from 1 to 10 megabatches, one for each example, got 0"),
        (lambda: app_layout(TEN, 10), "beside 1 to validate on, got 1"),
        (lambda: hold_out(TEN[:1], 0.1, number=7), "megabatch 7 must have an example to train on beside 1"),
        (lambda: hold_out(TEN, 0.95), "beside 10 to validate on, got 10; make megabatches larger"),
        (lambda: hold_out(TEN, 0.0), r"in \(0, 1\), got 0.0"),
        (lambda: hold_out(TEN, 1.0), r"in \(0, 1\), got 1.0"),
        (lambda: few_shot(torch.tensor([3, 3, 5, 5, 5]), 3), "needs 3 examples of each class, class 3 has 2"),
        (lambda: few_shot(ZEROS, 0), "at least 1 example of a class, got 0"),
        (
            lambda: few_shot(ZEROS, 4, groups=torch.tensor([0, 1, 1, 1])),
            "class 0 evenly over 2 groups, 2 from one that",
        ),
        (lambda: replay("all"), r"replay must be none, full, .* got 'all'"),
        (lambda: replay({"last": 2, "fraction": 0.5}), "got {'last': 2, 'fraction': 0.5}"),
        (lambda: replay({"last": 2.5}), "the first and the last of the three numbers whole ones, got {'last': 2.5}"),
        (lambda: replay({"last": 0}), "replay of last needs a number of at least 1, got 0; without replay it is none"),
        (lambda: replay({"reservoir": 0}), "replay of reservoir needs a number of at least 1, got 0"),
        (lambda: replay({"reservoir": 0.5}), "got {'reservoir': 0.5}"),
        (lambda: replay({"fraction": 1.5}), r"in \[0, 1\], got 1.5"),
        (lambda: exponents(4.5, 0), "at least 1 megabatch, got 0"),
        (lambda: exponent(1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: sparsities(0.9, 0), "at least 1 megabatch, got 0"),
        (lambda: sparsities(1.5, 3), r"sparsity must be in \[0, 1\), got 1.5"),
        (lambda: sparsities(0.1, 3), r"first must be in \[0, 0.1\], the final sparsity, got 0.2; begin with a smaller"),
        (lambda: sparsity_at(0, 0.9, horizon=0), "at least 1 megabatch, got 0"),
        (lambda: sparsity_at(0, 0.9, horizon=3, kind="twice"), "progressive or once, got 'twice'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
