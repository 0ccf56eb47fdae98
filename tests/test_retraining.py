"""Retraining schedules: the paper's numbers, closed forms beside a naive twin, measured drops, torch's schedulers."""

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from golden import golden
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus import retraining, schedules
from prunus.retraining import (
    RESTARTS,
    Pretraining,
    Restart,
    allr,
    clr,
    discount,
    llr,
    lr_scheduler,
    lrw,
    relative_drop,
    slr,
)
from prunus.schedules import Constant, Cosine, Schedule
from prunus.training import Training

GOLDEN = golden("retraining")
STEPWISE = Pretraining(tuple(GOLDEN["pretraining"]))
ALL: dict[str, Callable[[Pretraining, int], Schedule]] = {
    **RESTARTS,
    "allr": lambda pretraining, length: allr(pretraining, length, drop=0.3, fraction=0.9),
}
every = pytest.mark.parametrize("name", ALL)


def used(schedule: Schedule, length: int) -> list[float]:
    """The rate of every step, as `Training` asks for it."""
    return [schedule(step / length) for step in range(length)]


def twin(name: str, rates: list[float], length: int, warm_up: int) -> list[float]:
    """The paper's forms step by step, with pretraining's rates counted from 1."""
    total, peak, lowest = len(rates), max(rates), min(rates[warm_up:])
    if name == "ft":
        return [lowest] * length
    if name == "lrw":
        return [rates[total - length + step] for step in range(length)]
    if name == "allr":
        peak *= min(1, max(0.3 / math.sqrt(0.9), length / total))
    rise = length // 10
    found = [peak * (1 - math.cos(math.pi * step / rise)) / 2 for step in range(rise)]
    left = length - rise
    for step in range(left):
        number = 1 + step * total // left
        squeezed = max(rates) if number < warm_up else rates[number - 1]
        wave = lowest + (peak - lowest) * (1 + math.cos(math.pi * step / left)) / 2
        line = peak * (1 - step / left)
        found.append({"slr": squeezed, "clr": wave, "llr": line, "allr": line}[name])
    return found


@st.composite
def pretrainings(draw: st.DrawFn) -> Pretraining:
    rates = draw(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60))
    return Pretraining(tuple(rates), draw(st.integers(0, len(rates) - 1)))


@pytest.mark.parametrize("case", GOLDEN["rates"], ids=lambda case: f"{case['name']}-{case['length']}")
def test_golden_rates(case: dict[str, object]) -> None:
    name, length, expected = case["name"], case["length"], case["rates"]
    assert used(ALL[name](STEPWISE, length), length) == pytest.approx(expected, rel=1e-12, abs=1e-17)


def test_golden_discounts_of_allr() -> None:
    for case in GOLDEN["allr_peak"]:
        budget = case["retrain_epochs"] / case["n_epochs"]
        factor = discount(case["relative_norm_drop"], case["pruning_sparsity"], budget=budget)
        assert factor * case["max_lr"] == pytest.approx(case["peak_lr_used"], rel=1e-12)
    for drop, fraction, retrained, pretrained, peak in GOLDEN["peaks"]:
        assert 0.1 * discount(drop, fraction, budget=retrained / pretrained) == pytest.approx(peak, rel=2e-6)


def test_golden_drops_of_two_cycles() -> None:
    tiny = GOLDEN["tiny"]
    before = {name: torch.tensor(tiny[name], dtype=torch.float64) for name in ("W1", "B1", "W2")}
    for case in tiny["drops"]:
        masks = {name: torch.zeros_like(before[name], dtype=torch.bool) for name in ("W1", "W2")}
        for name, row, column in map(str.split, case["kept"]):
            masks[name][int(row), int(column)] = True
        drop = relative_drop(before, masks)
        assert drop == pytest.approx(case["drop"], abs=1e-6)
        if "discount" in case:
            assert discount(drop, case["fraction"], budget=0.0) == pytest.approx(case["discount"], abs=1e-6)


@every
@given(pretraining=pretrainings(), length=st.integers(1, 70))
def test_equals_the_closed_form(name: str, pretraining: Pretraining, length: int) -> None:
    if name == "lrw":
        length = min(length, len(pretraining.rates))
    expected = twin(name, list(pretraining.rates), length, pretraining.warm_up)
    schedule = ALL[name](pretraining, length)
    assert used(schedule, length) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert all(0.0 <= schedule(step / 23) <= pretraining.peak * (1 + 1e-12) for step in range(24))


@given(pretraining=pretrainings(), length=st.integers(1, 3000))
def test_the_smooth_ones_rise_from_zero_to_the_peak_and_fall_to_their_end(
    pretraining: Pretraining, length: int
) -> None:
    for name, end in (("clr", pretraining.lowest), ("llr", 0.0), ("allr", 0.0)):
        schedule = ALL[name](pretraining, length)
        top = schedule.rise / length
        assert schedule(1.0) == pytest.approx(end, rel=1e-12)
        assert schedule(top) == pytest.approx(schedule.peak)
        assert schedule.rise == length // 10
        rates = [schedule(top * step / 20) for step in range(21)]
        assert all(after >= before * (1 - 1e-12) for before, after in pairwise(rates))
        assert rates[0] == (schedule.peak if length < 10 else 0.0)
        rates = [schedule(top + (1 - top) * step / 20) for step in range(21)]
        assert all(after <= before * (1 + 1e-12) for before, after in pairwise(rates))


@every
def test_smooth_ones_have_no_jumps(name: str) -> None:
    schedule = ALL[name](STEPWISE, 20)
    jumps = [abs(schedule(step / 10_000) - schedule((step + 1) / 10_000)) for step in range(10_000)]
    assert (max(jumps) < 2e-4) == (name in ("ft", "clr", "llr", "allr"))


@every
def test_one_step_takes_the_peak_or_the_end(name: str) -> None:
    first = {"ft": 0.001, "lrw": 0.001, "allr": 0.1 * 0.3 / math.sqrt(0.9)}.get(name, 0.1)
    assert ALL[name](STEPWISE, 1)(0.0) == pytest.approx(first)


@every
def test_progress_is_clipped(name: str) -> None:
    schedule = ALL[name](STEPWISE, 20)
    assert (schedule(-0.03), schedule(2.0)) == (schedule(0.0), schedule(1.0))


@every
def test_a_retraining_schedule_is_a_value(name: str) -> None:
    schedule = ALL[name](STEPWISE, 20)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), {**vars(schedules), **vars(retraining)}) == schedule
    assert hash(schedule) == hash(ALL[name](STEPWISE, 20))


def test_ft_and_lrw_coincide_where_pretraining_ended_constant() -> None:
    assert used(ALL["ft"](STEPWISE, 4), 4) == used(lrw(STEPWISE, 4), 4)
    assert used(ALL["ft"](STEPWISE, 5), 5) != used(lrw(STEPWISE, 5), 5)


def test_without_a_history_the_peak_and_the_length_say_it_all() -> None:
    assert Restart(peak=0.1, length=20) == llr(STEPWISE, 20)
    assert Restart(0.1, 20, Cosine(1.0, STEPWISE.lowest / 0.1)) == clr(STEPWISE, 20)
    assert used(Restart(0.1, 20, Constant(1.0), warm_up=0.2), 20)[3:6] == pytest.approx([0.0853553, 0.1, 0.1])
    assert [Restart(0.1, 100, warm_up=share).rise for share in (0.0, 0.29, 0.999)] == [0, 29, 99]


def test_another_peak_scales_the_squeezed_rates() -> None:
    halved = replace(slr(STEPWISE, 10), peak=0.05)
    assert used(halved, 10) == pytest.approx([rate / 2 for rate in used(slr(STEPWISE, 10), 10)])


def test_the_decay_begins_in_the_step_after_the_rise() -> None:
    for length in range(10, 2000):  # (rise / length) * length is below rise for some
        rate = Restart(1.0, length, Constant(0.5))
        assert rate(rate.rise / length) == 0.5


def test_the_warm_up_of_a_restart_is_one_of_pretraining() -> None:
    history = Pretraining.of(Restart(0.1, 33, Cosine(1.0, 0.2)), 66)
    assert (history.warm_up, history.rates[6]) == (6, 0.1)
    assert history.lowest == pytest.approx(0.02, abs=1e-4)


def test_a_warm_up_of_pretraining_lowers_no_rate() -> None:
    warmed = Pretraining((0.0, 0.05, 0.1, 0.1, 0.01, 0.02), warm_up=2)
    assert (warmed.peak, warmed.lowest) == (0.1, 0.01)
    assert used(slr(warmed, 6), 6) == pytest.approx([0.1, 0.05, 0.1, 0.1, 0.01, 0.02])


def test_long_retrainings_hit_their_steps() -> None:
    length = 20_011  # times progress, not every step comes back exactly
    rates = tuple(1.0 + step for step in range(length))
    assert used(lrw(Pretraining(rates), length), length) == list(rates)
    squeezed = used(slr(Pretraining(rates), length), length)
    left = length - length // 10
    assert squeezed[-left:] == pytest.approx([rates[step * length // left] for step in range(left)], rel=1e-14)


@given(data=st.data())
def test_drop_is_the_distance_to_the_pruned_weights(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    before = {name: torch.randn(4, 5, generator=generator, dtype=torch.float64) for name in ("first", "second", "bias")}
    masks = {name: torch.rand(4, 5, generator=generator) < 0.4 for name in ("first", "second")}
    for over, names in (("all", before), ("masked", masks)):
        whole = torch.cat([before[name].flatten() for name in names])
        pruned = torch.cat([(before[name] * masks.get(name, 1)).flatten() for name in names])
        expected = float((whole - pruned).norm() / whole.norm())
        assert relative_drop(before, masks, over) == pytest.approx(expected, rel=1e-12)


def test_drop_of_magnitude_pruning_is_at_most_the_root_of_its_fraction() -> None:
    weight = torch.randn(1000).abs().sort().values
    for removed in (1, 10, 500, 990):
        masks = {"weight": torch.arange(1000) >= removed}
        assert 0.0 < relative_drop({"weight": weight}, masks) <= math.sqrt(removed / 1000)


def test_drop_of_a_small_pruning_does_not_cancel() -> None:
    weight = torch.full((1 << 16,), 1.0)
    weight[0] = 1e-6
    drop = relative_drop({"weight": weight.requires_grad_()}, {"weight": weight > 0.5})
    assert drop == pytest.approx(1e-6 / math.sqrt((1 << 16) - 1), rel=1e-6)
    assert relative_drop({"weight": weight.bfloat16()}, {"weight": weight > 0.5}) == pytest.approx(drop, rel=1e-2)


def test_drop_of_half_precision_does_not_overflow() -> None:
    weight = torch.full((1 << 16,), 300.0, dtype=torch.float16)
    assert relative_drop({"weight": weight}, {"weight": torch.arange(1 << 16) >= 1 << 14}) == 0.5


def test_nothing_removed_is_no_drop() -> None:
    assert relative_drop({"weight": torch.ones(3)}, {"weight": torch.ones(3, dtype=torch.bool)}) == 0.0


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.02}]
    return model, torch.optim.SGD(groups, lr=0.2)


BATCHES: list[tuple[Tensor, Tensor]] = [(torch.ones(4, 2), torch.ones(4, 1))]


@every
def test_training_and_the_torch_scheduler_take_the_same_rates(name: str) -> None:
    schedule, expected = ALL[name](STEPWISE, 20), used(ALL[name](STEPWISE, 20), 20)
    model, optimizer = network()
    training = Training(model, optimizer, BATCHES, nn.functional.mse_loss, steps=20, learning_rate=schedule)
    assert [step.learning_rate for step in training] == pytest.approx(expected)

    model, optimizer = network()
    scheduler = lr_scheduler(optimizer, schedule, 20)
    rates = []
    for _ in range(20):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([rate / 10 for rate in expected])


def test_the_torch_scheduler_goes_on_from_a_plain_state() -> None:
    _, optimizer = network()
    scheduler = lr_scheduler(optimizer, clr(STEPWISE, 20), 20)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    saved = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], saved)
    saved.seek(0)
    first, second = torch.load(saved, weights_only=True)

    _, other = network()
    resumed = lr_scheduler(other, clr(STEPWISE, 20), 20)
    other.load_state_dict(first)
    resumed.load_state_dict(second)
    for _ in range(13):
        assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in optimizer.param_groups]
        for one, two in ((optimizer, scheduler), (other, resumed)):
            one.step()
            two.step()


def test_the_torch_scheduler_of_a_second_cycle_sets_absolute_rates() -> None:
    _, optimizer = network()
    for length in (10, 20):  # the first ends at a rate of 0
        scheduler = lr_scheduler(optimizer, llr(STEPWISE, length), length)
        for step in range(length):
            rate = llr(STEPWISE, length)(step / length)
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 10])
            optimizer.step()
            scheduler.step()


WEIGHT = {"weight": torch.ones(2)}
KEEP = {"weight": torch.tensor([True, False])}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Pretraining(()), "got 0 rates and a warm-up of 0; record"),
        (lambda: Pretraining((0.1, 0.1), warm_up=2), "got 2 rates and a warm-up of 2; record"),
        (lambda: lrw(STEPWISE, 21), "rewinding for 21 steps needs as many of pretraining, got 20; retrain for fewer"),
        (lambda: Restart(0.1, 10, warm_up=1.0), r"warm_up must be in \[0, 1\), got 1.0; for a tenth"),
        (lambda: discount(0.1, 0.0, budget=0.1), r"fraction must be in \(0, 1\), got 0.0; where nothing"),
        (lambda: discount(0.1, 90, budget=0.1), r"fraction must be in \(0, 1\), got 90; where nothing"),
        (lambda: relative_drop(WEIGHT, KEEP, "prunable"), "over must be 'all' or 'masked', got 'prunable'"),
        (lambda: relative_drop({"weight": WEIGHT["weight"] / 0}, KEEP), "got NaN or infinity in 'weight'; prune"),
        (lambda: relative_drop({"weight": WEIGHT["weight"] * 0}, KEEP), "got 1 tensors of zeros; train before"),
        (
            lambda: lr_scheduler(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.0), Constant(0.1), 5),
            "must be positive, got 0.0; make it with the peak rate",
        ),
        (
            lambda: lr_scheduler(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), Constant(0.1), 0),
            "at least one step, got 0; to prune alone",
        ),
    ],
)
def test_errors_say_what_is_expected_and_what_helps(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@every
@pytest.mark.parametrize("length", [0, -3])
def test_a_retraining_has_at_least_one_step(name: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"a retraining needs at least one step, got {length}; to prune alone"):
        ALL[name](STEPWISE, length)
