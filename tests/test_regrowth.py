"""RP-RR, MP-RR and their relatives at work: what plans and options do to masks, weights and optimizer state."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import geometric_mean

import pytest
import torch
from cases import OPTIMIZERS, batch, equal, network, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.cadence import Decisions
from prunus.carriers import Masked
from prunus.criteria import magnitude, random
from prunus.learned_schedule import LearnedSchedule
from prunus.masks import Masks, active_count, sparsity_of
from prunus.methods import itop, mp_rr, random_pruning, rigl, rp_rr, set_, snfs
from prunus.models.simple_cnn import conv_net
from prunus.plans import ByLayer, Even
from prunus.schedules import Constant, Piecewise, Schedule, Table, handmade, linear
from prunus.sparsifier import Sparsifier, sparsify
from prunus.updates import Resize

RANDOM_REGROWTH = {"rp-rr": rp_rr, "mp-rr": mp_rr}
FAMILIES = ("linear", "quadratic", "cubic", "cosine", "constant")
methods = pytest.mark.parametrize("make", RANDOM_REGROWTH.values(), ids=RANDOM_REGROWTH)
few = settings(deadline=None, max_examples=6)


def trained(method: Masked, optimizer_name: str, steps: int, seed: int, see: Callable[..., None]) -> Sparsifier:
    """The sparsifier after a training that shows ``see`` masks, model and optimizer at every clock."""
    model = network()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    sparsifier = sparsify(model, optimizer, method, steps, seed=seed)
    see(0, sparsifier, optimizer)
    for number in range(steps):
        inputs, targets = batch(number)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        see(number + 1, sparsifier, optimizer)
    return sparsifier


def history(method: Masked, steps: int = 12, seed: int = 0) -> list[Masks]:
    """The masks at every clock."""
    found: list[Masks] = []

    def see(clock: int, sparsifier: Sparsifier, optimizer: object) -> None:
        found.append({name: mask.clone() for name, mask in sparsifier.masks.items()})

    trained(method, "sgd", steps, seed, see)
    return found


@methods
@pytest.mark.parametrize("optimizer_name", ["sgd", "adam"])
@few
@given(densities=st.lists(st.floats(0, 1), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_only_the_difference_changes_and_what_comes_starts_at_zero(
    make: Callable[..., Masked], optimizer_name: str, densities: list[float], seed: int
) -> None:
    seen: list[Masks] = []
    schedule = Table(tuple(1 - density for density in densities))

    def see(clock: int, sparsifier: Sparsifier, optimizer: torch.optim.Optimizer) -> None:
        now = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        before = seen[-1] if seen else now
        for name, mask in now.items():
            old, weight = before[name], sparsifier.site.weights[name]
            assert int(mask.sum()) == active_count(mask.numel(), 1 - schedule(min(clock // 3, 3) / 4))
            assert not (mask & ~old).any() or not (old & ~mask).any()
            assert clock % 3 == 0 or torch.equal(mask, old)
            state = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
            assert clock == 0 or state
            for tensor in (weight.detach(), *state):
                assert not tensor[~mask | ~old].any(), "dropped, or grown just now"
        seen.append(now)

    trained(make(0.5, schedule=schedule, update_every=3), optimizer_name, 13, seed, see)


@methods
def test_the_same_seed_has_the_same_masks(make: Callable[..., Masked]) -> None:
    one, same, other = (history(make(0.6, schedule="linear", update_every=3), seed=seed) for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)


@methods
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_a_family_grows_from_half_the_target(make: Callable[..., Masked], family: str, sparsity: float) -> None:
    found = history(make(sparsity, schedule=family, update_every=3))
    density = 1 - sparsity
    for masks, expected in ((found[0], density if family == "constant" else density / 2), (found[-1], density)):
        assert {n: int(m.sum()) for n, m in masks.items()} == {
            n: active_count(m.numel(), expected) for n, m in masks.items()
        }
    for before, after in pairwise(found):
        assert all(not (before[name] & ~after[name]).any() for name in after)


@methods
def test_a_constant_family_is_no_schedule_and_full_density_is_dense(make: Callable[..., Masked]) -> None:
    assert equal(history(make(0.7, schedule="constant", update_every=3)), history(make(0.7)))
    assert all(mask.all() for mask in history(make(0.0))[-1].values())


def test_a_schedule_for_each_layer() -> None:
    plan = {"0.*": "linear", "*": Constant(0.5)}
    found = history(rp_rr(0.8, schedule=plan, update_every=3))
    assert [[int(m.sum()) for m in masks.values()] for masks in (found[0], found[-1])] == [[6, 40, 12], [12, 40, 12]]
    with pytest.raises(ValueError, match="every layer needs a schedule, got none for"):
        history(rp_rr(0.8, schedule={"0.*": "linear"}, update_every=3))
    with pytest.raises(ValueError, match=r"a handmade schedule must be one of linear, .*, got 'linaer'"):
        rp_rr(0.8, schedule={"*": "linaer"})


@pytest.mark.parametrize("schedule", [None, "constant", "linear"])
@pytest.mark.parametrize("mask_init", ["random", "magnitude"])
@methods
def test_first_masks_of_choice(make: Callable[..., Masked], mask_init: str, schedule: str | None) -> None:
    (first, *_, last) = history(make(0.5, schedule=schedule, mask_init=mask_init, update_every=3))
    weights = plain(network())
    chosen = {"random": random, "magnitude": magnitude}[mask_init]
    drawn = history(Masked(Resize(Even(Constant(sparsity_of(first.values()))), chosen), Decisions(3)))[0]
    assert equal(first, drawn)
    size = weights["0.weight"].abs()
    largest = bool(size[first["0.weight"]].min() >= size[~first["0.weight"]].max())
    assert largest == (mask_init == "magnitude")
    assert (schedule == "linear") != equal(first, last)


@methods
def test_first_masks_by_a_file_and_where_one_decision_is_all(make: Callable[..., Masked]) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in plain(network()).items()}
    held = LearnedSchedule({name.removesuffix(".weight"): (0.3, 0.5) for name in shapes}, mask_init="random")
    by_size = replace(held, mask_init="magnitude")
    for updates in (3, 12):
        drawn, largest = (history(make(0.5, schedule=one, update_every=updates)) for one in (held, by_size))
        assert not equal(drawn[0], largest[0])
        overruled = make(0.5, schedule=held, mask_init="magnitude", update_every=updates)
        assert equal(history(overruled)[0], largest[0])


def test_what_is_dropped_later_is_not_what_the_first_masks_drop() -> None:
    falling = Piecewise((0.5,), (0.5, 0.8))
    assert equal(
        *(history(rp_rr(0.8, schedule=falling, mask_init=init, update_every=6))[0] for init in (None, "random"))
    )
    by_size = history(mp_rr(0.8, schedule=falling, mask_init="random", update_every=6), steps=13)
    assert int((by_size[0]["0.weight"] & ~by_size[-1]["0.weight"]).sum()) == 18


@methods
def test_turnover_swaps_a_share_of_every_layer(make: Callable[..., Masked]) -> None:
    found = history(make(0.8, turnover=0.5, update_every=3))
    for clock, (before, after) in enumerate(pairwise(found), start=1):
        for name, mask in after.items():
            gone = int((before[name] & ~mask).sum())
            assert int(mask.sum()) == int(before[name].sum()) == active_count(mask.numel(), 0.2)
            assert gone <= int(0.5 * int(mask.sum()))
            assert gone == 0 if clock % 3 or clock == 12 else name != "0.weight" or gone > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda on: random_pruning(0.9, rescale=on),
        lambda on: set_(0.9, rescale=on),
        lambda on: rigl(0.9, rescale=on),
        lambda on: itop(0.9, rescale=on),
        lambda on: snfs(0.9, rescale=on),
        lambda on: rp_rr(0.9, rescale=on),
        lambda on: mp_rr(0.9, rescale=on, schedule="linear"),
    ],
    ids=["random", "set", "rigl", "itop", "snfs", "rp-rr", "mp-rr"],
)
def test_rescaled_weights_are_those_of_the_first_masks_over_the_root_of_density(make: Callable[[bool], Masked]) -> None:
    plainly, rescaled = (network() for _ in range(2))
    for model, on in ((plainly, False), (rescaled, True)):
        sparsifier = sparsify(model, OPTIMIZERS["sgd"](model.parameters()), make(on), 200)
    for name, mask in sparsifier.masks.items():
        expected = plain(plainly)[name] / math.sqrt(int(mask.sum()) / mask.numel())
        torch.testing.assert_close(plain(rescaled)[name], expected)


def test_weights_of_a_sparse_network_are_not_rescaled() -> None:
    model = network()
    start = {name: torch.rand(w.shape) < 0.5 for name, w in model.named_parameters() if name.endswith("weight")}
    before = plain(model)["0.weight"].clone()
    sparsifier = sparsify(model, OPTIMIZERS["sgd"](model.parameters()), mp_rr(0.8, rescale=True), 20, start=start)
    mask = sparsifier.masks["0.weight"]
    assert torch.equal(plain(model)["0.weight"], before * mask)


def deviation(method: Callable[[], Masked] | None) -> float:
    """The standard deviation of an untrained network's logits over noise and classes; geometric mean over 6 seeds."""
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return geometric_mean(_deviation(method, images, seed) for seed in range(6))


def _deviation(method: Callable[[], Masked] | None, images: Tensor, seed: int) -> float:
    torch.manual_seed(seed)
    model = conv_net((3, 32, 32), 10)
    if method is not None:
        sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method(), 100, seed=seed)
    with torch.no_grad():
        return float(model(images).std())


def test_a_random_mask_silences_a_network_and_rescaling_restores_it() -> None:
    dense, silent, ten = deviation(None), deviation(lambda: rp_rr(0.95)), deviation(lambda: rp_rr(0.9))
    # each of the five layers loses the square root of its density
    assert silent / ten == pytest.approx(0.5**2.5, rel=0.2)
    assert silent / dense == pytest.approx(0.05**2.5, rel=0.2)
    assert deviation(lambda: rp_rr(0.95, rescale=True)) / dense == pytest.approx(1.0, rel=0.2)
    assert deviation(lambda: mp_rr(0.95)) > 20 * silent


def test_itop_stops_before_the_end_and_drops_the_ceiling() -> None:
    found = history(itop(0.75, update_every=4), steps=12)
    changed = [clock for clock, (a, b) in enumerate(pairwise(found), start=1) if not equal(a, b)]
    assert changed == [4, 8]


def test_plans_stand_in_the_method() -> None:
    assert mp_rr(0.9, schedule={"*": "cosine"}).update.plan == ByLayer({"*": handmade("cosine", 0.9)})
    own: Schedule = linear(0.9)
    assert rp_rr(0.9, schedule=own).update.plan == Even(own)
