"""Schedules: golden values of every family, exact ends, monotone between them, and values that travel."""

import math
import pickle
from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest
from golden import golden
from hypothesis import given
from hypothesis import strategies as st

from prunus import schedules
from prunus.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Decay,
    Exponential,
    Geometric,
    Piecewise,
    Polynomial,
    Schedule,
    Table,
    WarmUp,
    Within,
    cubic,
    decay,
    handmade,
    linear,
    quadratic,
)

GOLDEN = golden("progress")
ALL = [
    Constant(0.3),
    Polynomial(0.1, 0.9, power=5),
    linear(0.9),
    quadratic(0.9),
    cubic(0.9, 0.2),
    Cosine(0.3),
    Exponential(0.1, 0.001),
    Geometric(0.9),
    Piecewise((0.5,), (0.1, 0.2)),
    Table((0.1, 0.5, 0.2)),
    WarmUp(Cosine(0.1), 0.2),
    Within(cubic(0.9), 0.25, 0.75),
]
RISING = {
    "polynomial": lambda low, high: Polynomial(low, high, power=4.5),
    "linear": lambda low, high: linear(high, low),
    "quadratic": lambda low, high: quadratic(high, low),
    "cubic": lambda low, high: cubic(high, low),
    "cosine": Cosine,
    "exponential": Exponential,
    "geometric": lambda low, high: Geometric(high, low),
}
share = st.floats(0.001, 0.999)


def family(kind: str, initial: float, final: float) -> Schedule:
    if kind.startswith("exponential_"):  # RigL's name for a power of what is left
        return Polynomial(initial, final, power=float(kind.removeprefix("exponential_")))
    return {"constant": Constant(final), "cosine": Cosine(initial, final)}.get(kind) or SCHEDULES[kind](final, initial)


def test_golden_densities() -> None:
    for case in GOLDEN["density_schedules"]:
        schedule = family(case["kind"], case["init"], case["target"])
        assert schedule(case["step"] / case["total"]) == pytest.approx(case["density"], rel=1e-12), case


def test_golden_densities_are_those_of_the_handmade_families() -> None:
    cases = [case for case in GOLDEN["density_schedules"] if case["init"] == case["target"] / 2]
    assert {case["kind"] for case in cases} == {"linear", "quadratic", "cubic", "cosine", "constant"}
    for case in cases:
        schedule = handmade(case["kind"], 1 - case["target"])
        assert 1 - schedule(case["step"] / case["total"]) == pytest.approx(case["density"], rel=1e-12), case


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "exponential"])
def test_golden_drop_fractions_are_those_of_the_decays(shape: Decay) -> None:
    cases = [case for case in GOLDEN["drop_fraction_schedules"] if case["kind"].replace("_3", "") == shape]
    assert cases
    for case in cases:
        fraction = decay(shape, case["alpha"])(case["t"] / case["T_end"])
        assert fraction == pytest.approx(case["fraction"], rel=1e-12, abs=1e-17), case


def test_golden_zhu_and_gupta() -> None:
    for case in GOLDEN["zhu_gupta_sparsity"]:
        end, horizon = case["t0"] + case["n"] * case["dt"], 8000
        schedule = Within(cubic(case["s_final"], case["s_init"]), case["t0"] / horizon, end / horizon)
        assert schedule(case["t"] / horizon) == pytest.approx(case["sparsity"], rel=1e-12), case


def test_golden_drop_fractions() -> None:
    for case in GOLDEN["drop_fraction_schedules"]:
        constant = Constant(case["alpha"])
        schedule = constant if case["kind"] == "constant" else family(case["kind"], case["alpha"], 0.0)
        assert schedule(case["t"] / case["T_end"]) == pytest.approx(case["fraction"], rel=1e-12, abs=1e-17), case


def test_golden_rigl_drops_as_many() -> None:
    for case in GOLDEN["rigl_drop"]:
        fraction = Cosine(case["alpha"])(case["t"] / case["T_end"])
        assert fraction == pytest.approx(case["drop_fraction"], rel=1e-12, abs=1e-17)
        assert math.floor(fraction * case["n_active"]) == case["n_drop_floor"], case
        assert math.ceil(fraction * case["n_active"]) == case["n_drop_ceil"], case


def test_golden_geometric_is_iterative_pruning() -> None:
    for case in GOLDEN["prune_fraction_per_cycle"]:
        schedule, cycles = Geometric(case["goal_sparsity"]), case["n_phases"]
        for cycle in range(cycles):
            gone = 1 - (1 - schedule((cycle + 1) / cycles)) / (1 - schedule(cycle / cycles))
            assert gone == pytest.approx(case["fraction"], rel=1e-12), case


@pytest.mark.parametrize("kind", RISING)
@given(low=share, high=share)
def test_ends_are_exact_and_between_them_it_is_monotone(kind: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    for initial, final in ((low, high), (high, low)):
        schedule = RISING[kind](initial, final)
        assert schedule(1.0) == final
        assert schedule(0.0) == pytest.approx(initial, rel=1e-13)
        values = [schedule(step / 50) for step in range(51)]
        sign = 1 if final > initial else -1
        assert all(sign * (after - before) > -1e-15 for before, after in pairwise(values))


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_progress_is_clipped(schedule: Schedule) -> None:
    assert schedule(-0.5) == schedule(0.0)
    assert schedule(1.5) == schedule(1.0)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_a_schedule_is_a_value(schedule: Schedule) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert len({schedule, pickle.loads(pickle.dumps(schedule))}) == 1
    with pytest.raises(FrozenInstanceError):
        schedule.value = 0.5


def test_schedules_differ_by_their_arguments() -> None:
    assert len(set(ALL)) == len(ALL)
    assert cubic(0.9) == Polynomial(0.0, 0.9)
    assert cubic(0.9) != cubic(0.8)


def test_shapes_at_half_time() -> None:
    assert [linear(0.8)(0.5), quadratic(0.8)(0.5), cubic(0.8)(0.5)] == pytest.approx([0.4, 0.6, 0.7])
    assert Exponential(0.1, 0.001)(0.5) == pytest.approx(0.01)
    assert Geometric(0.99)(0.5) == pytest.approx(0.9)


def test_piecewise_holds_each_value_up_to_its_boundary() -> None:
    schedule = Piecewise((0.5, 0.75), (0.1, 0.01, 0.001))
    assert [schedule(p) for p in (0, 0.49, 0.5, 0.74, 0.75, 1)] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@given(count=st.integers(1, 2000), data=st.data())
def test_table_gives_the_kth_value_at_the_kth_stretch(count: int, data: st.DataObject) -> None:
    table = Table(tuple(map(float, range(count))))
    number = data.draw(st.integers(0, count - 1))
    assert table(number / count) == number
    assert table((number + 0.5) / count) == number
    assert table(1.0) == count - 1


def test_table_of_49() -> None:
    table = Table(tuple(map(float, range(49))))
    assert [table(number / 49) for number in range(49)] == list(range(49))  # 1 / 49 * 49 is just below 1


def test_warm_up_leads_to_the_beginning_of_the_whole_schedule() -> None:
    schedule = WarmUp(linear(0.0, initial=0.4), fraction=0.2, initial=0.1)
    expected = {0.0: 0.1, 0.1: 0.25, 0.2: 0.4, 0.6: 0.2, 1.0: 0.0}
    assert {p: schedule(p) for p in expected} == pytest.approx(expected)
    assert WarmUp(Constant(0.3), fraction=0.0)(0.0) == 0.3


def test_within_squeezes_and_holds() -> None:
    schedule = Within(linear(0.8), 0.25, 0.75)
    assert [schedule(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0, 0.4, 0.8, 0.8])
    step = Within(linear(0.8), 0.5, 0.5)
    assert [step(0.49), step(0.5)] == [0.0, 0.8]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Exponential(0.1, 0.0), r"positive ends, got 0.1 and 0.0; use Polynomial"),
        (lambda: Piecewise((0.5,), (0.1,)), r"one value more than boundaries, got boundaries \(0.5,\)"),
        (lambda: Piecewise((0.5, 0.2), (0.1, 0.2, 0.3)), "rising boundaries"),
        (lambda: Table(()), "at least one value"),
    ],
)
def test_impossible_schedules(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
