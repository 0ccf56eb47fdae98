"""Quasi-random points: in bounds, distinct, and the same whatever their number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.points import Choices, Range, points

SPACE = {"learning_rate": Range(1e-4, 1.0, log=True), "decay": Range(-1, 3), "schedule": Choices(("llr", "allr", 3))}


@given(count=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_points_are_distinct_in_bounds_and_the_same_for_any_count(count: int, seed: int) -> None:
    drawn = points(SPACE, count, seed)
    assert len({tuple(point.values()) for point in drawn}) == len(drawn) == count
    for point in drawn:
        assert list(point) == list(SPACE)
        assert 1e-4 <= point["learning_rate"] <= 1
        assert -1 <= point["decay"] <= 3
        assert point["schedule"] in ("llr", "allr", 3)
    assert drawn == points(SPACE, 200, seed)[:count]


def test_points_fill_the_space_evenly() -> None:
    drawn = points(SPACE, 64, seed=0)
    # of a Sobol sequence's first 2^m points, each 2^m-th of an axis holds one
    assert [sum(10**-d <= point["learning_rate"] < 10 ** (1 - d) for point in drawn) for d in range(1, 5)] == [16] * 4
    assert sorted(int((point["decay"] + 1) * 16) for point in drawn) == list(range(64))
    assert {name: sum(point["schedule"] == name for point in drawn) for name in ("llr", "allr")} == {
        "llr": pytest.approx(21, abs=1),
        "allr": pytest.approx(21, abs=1),
    }


def test_seeds_differ_and_a_space_may_be_empty() -> None:
    assert points(SPACE, 4, seed=0) != points(SPACE, 4, seed=1)
    assert points({}, 3, seed=0) == [{}, {}, {}]


@given(low=st.floats(1e-300, 1e300), factor=st.floats(1.001, 1e6), fraction=st.floats(0, 1, exclude_max=True))
def test_rounding_leaves_no_range(low: float, factor: float, fraction: float) -> None:
    for log in (False, True):
        assert low <= Range(low, low * factor, log=log)(fraction) <= low * factor


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (1, 1, False, "finite low < high, got 1 to 1"),
        (2, 1, False, "finite low < high, got 2 to 1"),
        (0, float("inf"), False, "finite low < high, got 0 to inf"),
        (float("nan"), 1, False, "finite low < high, got nan to 1"),
        (0, 1, True, "logarithmic range must be above 0, got 0"),
    ],
)
def test_bad_bounds(low: float, high: float, log: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range(low, high, log)


@pytest.mark.parametrize("values", [(), ("sgd", "sgd")])
def test_bad_choices(values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="one or more different values"):
        Choices(values)
