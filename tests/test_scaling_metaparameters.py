"""The study's points: both Sobol variants, the maps of the metaparameters, and ranges that were too narrow."""

import pytest
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from prunus.scaling.metaparameters import (
    LINEAR_DECAY,
    SGD,
    WITH_MOMENTUM,
    FromOne,
    Logarithmic,
    Space,
    Whole,
    at_edges,
    effective_rate,
    setting,
)
from prunus.scaling.sobol import Variant, sobol

EXPECTED = golden("scaling")["sobol_metaparameters"]
TUNED = {
    "lr_only_first8": SGD,
    "lr_momentum_first8": WITH_MOMENTUM,
    "lr_momentum_decaysteps_endfactor_first8": LINEAR_DECAY,
}


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_golden_points(dimensions: int) -> None:
    first = [list(sobol(number, dimensions)) for number in range(1, 9)]
    assert first == EXPECTED["unit_first8"][str(dimensions)]
    assert list(sobol(100, dimensions)) == EXPECTED["unit_last_of_100"][str(dimensions)]


def test_joe_kuo_is_that_of_scipy() -> None:
    theirs = qmc.Sobol(10, scramble=False, bits=30).random_base2(7)
    assert [sobol(number, 10, "joe-kuo") for number in range(128)] == [tuple(row) for row in theirs.tolist()]


def test_variants_differ_from_the_third_dimension_on() -> None:
    pairs = [(sobol(number, 10), sobol(number, 10, "joe-kuo")) for number in range(1, 65)]
    assert all(one[:2] == other[:2] for one, other in pairs)
    assert all(any(one[axis] != other[axis] for one, other in pairs) for axis in range(2, 10))


@pytest.mark.parametrize("variant", ["bratley-fox", "joe-kuo"])
@pytest.mark.parametrize("power", [3, 6])
def test_each_axis_is_filled_evenly(variant: Variant, power: int) -> None:
    rows = [sobol(number, 10, variant) for number in range(2**power)]
    for axis in range(10):
        assert sorted(int(row[axis] * 2**power) for row in rows) == list(range(2**power))


def test_too_many_dimensions() -> None:
    with pytest.raises(ValueError, match="1 to 10 dimensions, got 11"):
        sobol(1, 11)


@pytest.mark.parametrize("name", TUNED)
def test_golden_settings(name: str) -> None:
    for number, expected in enumerate(EXPECTED[name]):
        found = list(setting(TUNED[name], number).values())
        assert found == pytest.approx(expected if isinstance(expected, list) else [expected], rel=1e-10)


def test_steps_are_whole() -> None:
    found = setting(LINEAR_DECAY, 7)
    assert found["decay_steps"] == 39375
    assert isinstance(found["decay_steps"], int)


RANGES = [Logarithmic(1e-4, 1.0), FromOne(0.9, 0.9999), Whole(30_000, 60_000)]


@pytest.mark.parametrize("metaparameter", RANGES, ids=lambda value: type(value).__name__)
@settings(max_examples=50, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_ranges_hold_their_numbers_and_know_where_they_lie(
    metaparameter: Logarithmic | FromOne | Whole, fraction: float
) -> None:
    value = metaparameter(fraction)
    assert metaparameter.low * (1 - 1e-12) <= value <= metaparameter.high * (1 + 1e-12)
    assert metaparameter.fraction(value) == pytest.approx(fraction, abs=1e-4)


def test_edges_say_which_side_to_widen() -> None:
    found = at_edges(WITH_MOMENTUM, {"learning_rate": 0.9, "momentum": 0.99})
    assert [(edge.name, edge.side, edge.value) for edge in found] == [("learning_rate", "high", 0.9)]
    widened = found[0].widened
    assert isinstance(widened, Logarithmic)
    assert (widened.low, widened.high) == pytest.approx((1e-4, 10))
    assert at_edges(WITH_MOMENTUM, {"learning_rate": 0.01, "momentum": 0.99}) == ()


@pytest.mark.parametrize(
    ("value", "side", "low", "high"),
    [(0.9002, "low", 1 - 0.1 * 10**0.75, 0.9999), (0.99989, "high", 0.9, 1 - 10**-4.75)],
)
def test_edges_of_momentum_go_by_its_value(value: float, side: str, low: float, high: float) -> None:
    (edge,) = at_edges({"momentum": FromOne(0.9, 0.9999)}, {"momentum": value})
    widened = edge.widened
    assert edge.side == side
    assert isinstance(widened, FromOne)
    assert (widened.low, widened.high) == pytest.approx((low, high), rel=1e-9)


def test_own_space() -> None:
    space: Space = {"decay": Whole(0, 10), "rate": Logarithmic(1, 100)}
    assert setting(space, 0) == {"decay": 5, "rate": pytest.approx(10)}
    (edge,) = at_edges(space, {"decay": 0, "rate": 10})
    assert edge.widened == Whole(-2, 10)


def test_effective_rate() -> None:
    assert effective_rate({"learning_rate": 0.1, "momentum": 0.9}) == pytest.approx(1)
    assert effective_rate({"learning_rate": 0.1}) == 0.1


@pytest.mark.parametrize("build", [lambda: Logarithmic(0, 1), lambda: FromOne(0.9, 1.0), lambda: Whole(2, 2)])
def test_bad_ranges(build: object) -> None:
    with pytest.raises(ValueError, match="a range must have"):
        build()  # type: ignore[operator]
