"""Cadences: due on the grid inside the window, and exactly on its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.cadence import Every, Once

fraction = st.floats(0, 1)


def updates(cadence: Every | Once, steps: int) -> dict[int, list[float]]:
    due = {clock: list(cadence(clock, steps)) for clock in range(-1, steps + 2)}
    return {clock: progress for clock, progress in due.items() if progress}


@given(every=st.integers(1, 60), ends=st.tuples(fraction, fraction), steps=st.integers(1, 150))
def test_every_runs_on_its_grid_and_on_the_end_of_its_window(every: int, ends: tuple[float, float], steps: int) -> None:
    start, until = sorted(ends)
    first, last = round(start * steps), round(until * steps)
    found = updates(Every(every, start, until), steps)
    assert sorted(found) == sorted({*range(first, last + 1, every), last})
    assert found[last] == [1.0]
    assert all(len(progress) == 1 for progress in found.values())
    if last > first:
        assert found[first] == [0.0]
        assert all(progress == [(clock - first) / (last - first)] for clock, progress in found.items())


def test_window_edges() -> None:
    assert updates(Every(30, until=0.75), 100) == {0: [0.0], 30: [0.4], 60: [0.8], 75: [1.0]}
    assert sorted(updates(Every(25, until=0.75), 100)) == [0, 25, 50, 75]
    assert sorted(updates(Every(40, start=0.25), 100)) == [25, 65, 100]
    assert updates(Every(1000), 100) == {0: [0.0], 100: [1.0]}
    assert updates(Every(10, start=0.5, until=0.5), 100) == {50: [1.0]}


def test_the_first_moment_may_be_left_out() -> None:
    assert updates(Every(30, until=0.75, at_start=False), 100) == {30: [0.4], 60: [0.8], 75: [1.0]}
    assert updates(Every(30, start=0.5, at_start=False), 100) == {80: [0.6], 100: [1.0]}
    assert updates(Every(30, at_start=False, at_end=False), 100) == {30: [0.3], 60: [0.6], 90: [0.9]}
    assert updates(Every(50, until=0.5, at_end=False), 100) == {0: [0.0]}


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_once_does_all_its_rounds_at_one_clock(at: float) -> None:
    assert updates(Once(at), 80) == {round(at * 80): [1.0]}
    assert updates(Once(at, rounds=4), 80) == {round(at * 80): [0.25, 0.5, 0.75, 1.0]}


def test_a_cadence_is_a_value() -> None:
    assert Every(100, until=0.75) == eval(repr(Every(100, until=0.75)))
    assert Once(0.5, rounds=3) == eval(repr(Once(0.5, rounds=3)))


@pytest.mark.parametrize("steps", [0, -5])
def test_every_needs_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"update_every must be at least 1 step, got {steps}"):
        Every(steps)


@pytest.mark.parametrize(("start", "until"), [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (0.0, 75.0)])
def test_a_window_lies_in_training(start: float, until: float) -> None:
    with pytest.raises(ValueError, match=f"0 <= start <= until <= 1, got {start} and {until}"):
        Every(1, start, until)


@pytest.mark.parametrize(("at", "rounds"), [(1.5, 1), (-0.1, 1), (0.5, 0)])
def test_once_lies_in_training(at: float, rounds: int) -> None:
    with pytest.raises(ValueError, match=f"got at={at}, rounds={rounds}"):
        Once(at, rounds)
