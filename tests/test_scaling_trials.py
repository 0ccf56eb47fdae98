"""Trials and cells: the winner, other goals, fewer trials, and a way through JSON."""

import json
import random
from dataclasses import replace

import pytest
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.scaling.best_of import best_of
from prunus.scaling.goals import at_goal
from prunus.scaling.trials import Cell, Outcomes, Trial, by_curve, goal_count, of_plain, outcomes, steps_to_result

EVERY = 10


def cell(*trials: Trial, goal: int = 100, raced: bool = False) -> Cell:
    return Cell("sgd", 0.9, 64, 0, goal, trials, raced)


def ran(number: int, wrong: list[int], goal: int, *, stop: int | None = None) -> Trial:
    """The trial of a stored future: ``wrong`` at each evaluation, until it meets the goal or ``stop`` evaluations."""
    met = next((place for place, count in enumerate(wrong) if count <= goal), None)
    end = len(wrong) if stop is None else stop
    complete = met is not None and met < end
    seen = met + 1 if met is not None and complete else end
    curve = tuple(((place + 1) * EVERY, count) for place, count in enumerate(wrong[:seen]))
    return Trial(number, {"learning_rate": 0.1}, "complete" if complete else "incomplete", *ends(seen), curve)


def ends(evaluations: int) -> tuple[int, int]:
    return evaluations * EVERY, max(0, evaluations - 1) * EVERY


def raced(futures: list[list[int]], goal: int) -> Cell:
    first = min((place for wrong in futures for place, count in enumerate(wrong) if count <= goal), default=None)
    stop = len(futures[0]) if first is None else first + 1
    return cell(*(ran(n, wrong, goal, stop=stop) for n, wrong in enumerate(futures)), goal=goal, raced=True)


def paper(futures: list[list[int]], goal: int) -> Cell:
    return cell(*(ran(n, wrong, goal) for n, wrong in enumerate(futures)), goal=goal)


FUTURES = st.integers(1, 8).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 20), min_size=length, max_size=length), min_size=1, max_size=5)
)


def given_trials() -> tuple[Cell, dict[str, object]]:
    expected = golden("scaling")["steps_to_result_reducer"]
    trials = [
        Trial(number, {"learning_rate": trial["lr"]}, trial["status"], max(trial["steps"], 0), 0)
        for number, trial in enumerate(expected["trials"])
    ]
    return cell(*trials), expected


def test_winner_is_the_first_of_the_fewest_steps() -> None:
    found, expected = given_trials()
    winner = steps_to_result(found)
    assert winner is not None
    assert (winner.steps, winner.number) == (expected["K_star"], expected["best_index"])
    assert steps_to_result(replace(found, trials=found.trials[::-1])) == winner
    assert outcomes(found) == Outcomes(expected["n_complete"], expected["n_incomplete"], expected["n_infeasible"])


def test_best_of_fewer_trials() -> None:
    found, expected = given_trials()
    for row in expected["best_of_n"]:  # type: ignore[attr-defined]
        best = best_of(found, row["n"])
        assert best.unreached == pytest.approx(row["prob_unreached"], rel=1e-10)
        assert best.mean == pytest.approx(row["mean_given_reached"], rel=1e-10)
        assert best.median == row["median"]


def test_best_of_agrees_with_draws() -> None:
    found, _ = given_trials()
    generator, drawn = random.Random(0), []
    for _ in range(4000):
        winner = steps_to_result(replace(found, trials=tuple(generator.sample(found.trials, 3))))
        drawn.append(None if winner is None else winner.steps)
    reached = [steps for steps in drawn if steps is not None]
    best = best_of(found, 3)
    assert best.unreached == pytest.approx(drawn.count(None) / len(drawn), abs=0.01)
    assert best.mean == pytest.approx(sum(reached) / len(reached), rel=0.02)


def test_best_of_nothing_and_of_too_many() -> None:
    never = cell(Trial(0, {}, "incomplete", 100, 90), Trial(1, {}, "infeasible", 20, 10))
    assert (best_of(never, 2).unreached, best_of(never, 2).mean, best_of(never, 2).median) == (1.0, None, None)
    assert steps_to_result(never) is None
    with pytest.raises(ValueError, match="1 to the cell's 2 trials, got 3"):
        best_of(never, 3)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 100_000), wrong=st.integers(0, 100_000))
def test_goal_counts_whole_examples(n: int, wrong: int) -> None:
    wrong = min(wrong, n)
    assert goal_count(wrong / n, n) == wrong


@settings(max_examples=50, deadline=None)
@given(futures=FUTURES, goal=st.integers(0, 20), race=st.booleans())
def test_cell_comes_back_from_json(futures: list[list[int]], goal: int, race: bool) -> None:
    whole = (raced if race else paper)(futures, goal)
    assert of_plain(json.loads(json.dumps(whole.to_plain()))) == whole
    assert at_goal(whole, goal) == whole


@settings(max_examples=50, deadline=None)
@given(futures=FUTURES, goal=st.integers(0, 20), other=st.integers(0, 20), race=st.booleans())
def test_other_goal_has_the_winner_that_its_own_study_would_have(
    futures: list[list[int]], goal: int, other: int, race: bool
) -> None:
    study = raced if race else paper
    again, own = at_goal(study(futures, goal), other), study(futures, other)
    if again is None:
        assert other < goal  # an easier goal is always decided
    else:
        found, expected = steps_to_result(again), steps_to_result(own)
        assert (found and (found.number, found.steps, found.before)) == (
            expected and (expected.number, expected.steps, expected.before)
        )


def test_harder_goal_is_undecided_only_where_a_trial_might_have_met_it_first() -> None:
    slow, fast = [9, 9, 9, 3], [9, 5, 5, 5]
    assert at_goal(raced([slow, fast], 5), 4) is None  # the race ended when the second arrived
    assert (
        at_goal(paper([slow, fast], 5), 4) is None
    )  # the second stopped at 20 and might have gone on to meet it at 30
    both = at_goal(paper([[9, 3], [9, 9, 5]], 5), 4)
    assert both is not None
    assert [trial.status for trial in both.trials] == ["complete", "incomplete"]
    never = at_goal(paper([[9, 9], [9, 9]], 5), 4)
    assert never is not None
    assert steps_to_result(never) is None


def test_goal_that_was_recomputed_knows_what_it_left_out() -> None:
    harder = at_goal(paper([[9, 3], [9, 9, 5]], 5), 4)
    assert harder is not None
    assert harder.raced  # the second stopped at 30, short of the harder goal
    assert at_goal(harder, 2) is None


def test_infeasible_trial_was_not_stopped_early() -> None:
    broke = Trial(1, {}, "infeasible", 10, 0, ((10, 9),))
    again = at_goal(cell(ran(0, [9, 3], 5), broke, goal=5, raced=True), 4)
    assert again is not None
    assert [trial.status for trial in again.trials] == ["complete", "infeasible"]


def test_evaluation_that_was_screened_still_bounds_the_arrival() -> None:
    screened = Trial(0, {}, "complete", 30, 20, ((10, 9), (30, 3)))
    again = at_goal(cell(screened, goal=5), 4)
    assert again is not None
    assert again.trials[0].before == 20
    easier = at_goal(cell(replace(screened, curve=((10, 8), (30, 3))), goal=5), 8)
    assert easier is not None
    assert (easier.trials[0].steps, easier.trials[0].before) == (10, 0)


def test_infeasible_trial_may_have_met_an_easier_goal() -> None:
    broke = Trial(0, {}, "infeasible", 30, 20, ((10, 9), (20, 7)))
    again = at_goal(cell(broke, goal=5), 8)
    assert again is not None
    assert again.trials == (Trial(0, {}, "complete", 20, 10, ((10, 9), (20, 7))),)


def test_curves_are_grouped_and_sorted() -> None:
    cells = [replace(cell(), batch_size=b, seed=s, sparsity=z) for b in (64, 8) for s in (1, 0) for z in (0.9, 0.0)]
    grouped = by_curve(cells)
    assert list(grouped) == [("sgd", 0.0), ("sgd", 0.9)]
    assert [(c.batch_size, c.seed) for c in grouped["sgd", 0.9]] == [(8, 0), (8, 1), (64, 0), (64, 1)]
