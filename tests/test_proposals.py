"""Proposals: functions of what was told alone, inside their ranges."""

from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.points import Range
from prunus.proposals import Propose, Told, by_optuna, evenly

SPACE = {"second": Range(0.01, 0.5), "first": Range(0.1, 0.2)}


def worth(point: dict[str, float]) -> float:
    return 1.0 - abs(point["second"] - 0.4) - abs(point["first"] - 0.12)


def searched(
    propose: Propose, trainings: int, at_once: int, seed: int = 0
) -> list[tuple[dict[str, float], float | None]]:
    told: list[tuple[dict[str, float], float | None]] = []
    while len(told) < trainings:
        told += [(point, worth(point)) for point in propose(SPACE, told, at_once, seed)]
    return told


def test_an_even_search_does_not_depend_on_how_many_are_asked_at_once() -> None:
    assert searched(evenly, 12, 1) == searched(evenly, 12, 4)
    assert searched(evenly, 12, 1) != searched(evenly, 12, 1, seed=1)


def test_a_search_by_optuna_is_a_function_of_what_was_told() -> None:
    told = searched(by_optuna, 16, 4)
    assert by_optuna(SPACE, told, 4, 0) == by_optuna(SPACE, list(told), 4, 0)
    assert len({tuple(point.values()) for point, _ in told}) == 16


def test_a_search_by_optuna_learns_from_what_it_was_told() -> None:
    late = [value for _, value in searched(by_optuna, 40, 4)[-12:] if value is not None]
    even = [value for _, value in searched(evenly, 40, 4)[-12:] if value is not None]
    assert sum(late) / 12 > sum(even) / 12 + 0.05


@settings(deadline=None, max_examples=10)
@given(count=st.integers(1, 5), diverged=st.booleans())
def test_points_lie_in_their_ranges_whatever_was_told(count: int, diverged: bool) -> None:
    told: Told = [({"second": 0.2, "first": 0.15}, None if diverged else 0.5)]
    for propose in (evenly, by_optuna):
        proposed = propose(SPACE, told, count, 3)
        assert len(proposed) == count
        assert all(one.low <= point[name] <= one.high for point in proposed for name, one in SPACE.items())
