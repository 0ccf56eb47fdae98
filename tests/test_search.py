"""The search for each method's own settings: equal cost, the same points, steering, and what it leaves."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny import prunus, tiny, written

from prunus.points import Range
from prunus.recipes import Recipe
from prunus.search import Lane, Steering, cells, choose, lanes, settled, try_
from prunus.settings import Search
from prunus.training import NonFiniteLossError

SEARCH: dict[str, Any] = {
    "trainings": 6,
    "steering": 3,
    "space": {
        "learning_rate": {"low": 0.01, "high": 1.0},
        "optimizer.sgd.momentum": {"each": [0.0, 0.9]},
        "method.gmp.until": {"low": 0.5, "high": 0.9},
    },
    "steer": {"STR": {"initial": {"low": -9.0, "high": -1.0}}},
}
STUDY: dict[str, Any] = {
    "method": {"dense": {}, "gmp": {"update_every": 2}, "str": {"decay": 0.1}},
    "sparsity": [0.5, 0.9],
    "seed": [0, 1],
    "search": SEARCH,
}


def study(**changes: Any) -> tuple[Recipe, Search]:
    recipe = tiny(**STUDY | changes)
    assert recipe.search is not None
    return recipe, recipe.search


def fake(sparsity: Callable[[Recipe], float] = lambda run: run.sparsity[0]) -> Callable[[Recipe], Mapping[str, Any]]:
    """A training whose validation accuracy is best at a rate of 0.1."""

    def train(run: Recipe) -> Mapping[str, Any]:
        assert isinstance(run.learning_rate, float)
        accuracy = 1 - abs(math.log10(run.learning_rate / 0.1)) / 10
        return {"validation": {"accuracy": accuracy}, "realised_sparsity": sparsity(run)}

    return train


def test_cells_are_methods_at_sparsities_with_the_seed_of_the_search() -> None:
    found = cells(*study())
    assert [(*cell.method, cell.sparsity[0], cell.seed) for cell in found] == [
        ("dense", 0.0, (1000,)),
        ("gmp", 0.5, (1000,)),
        ("gmp", 0.9, (1000,)),
        ("str", 0.5, (1000,)),
        ("str", 0.9, (1000,)),
    ]


def of(method: str, planned: list[Lane]) -> list[dict[str, Any]]:
    """The points of a method at 90 %."""
    chosen = [lane for lane in planned if method in lane.cell.method and lane.cell.sparsity in ((0.9,), (0.0,))]
    return [dict(values) for lane in chosen for values in lane.points]


def test_every_method_has_the_same_points_and_no_more_trainings() -> None:
    planned = lanes(*study())
    dense, gmp, steered = (of(name, planned) for name in ("dense", "gmp", "str"))
    assert len(dense) == len(gmp) == len(steered) == 6
    assert dense[0] == gmp[0] == steered[0] == {}
    assert dense == steered
    for one, other in zip(gmp[1:], dense[1:], strict=True):
        assert {key: one[key] for key in other} == other
        assert set(one) - set(other) == {"method.gmp.until"}
    assert len({repr(values) for values in gmp}) == 6
    assert sum("str" in lane.cell.method for lane in planned) == 2  # a lane a sparsity: its points follow each other


def test_what_is_shared_and_what_is_a_methods_own_vary_independently() -> None:
    space = {"learning_rate": {"low": 0.01, "high": 1.0}, "method.gmp.until": {"low": 0.5, "high": 0.9}}
    recipe, search = study(search={"trainings": 33, "space": space}, method="gmp", sparsity=0.9)
    tried = of("gmp", lanes(recipe, search))[1:]
    halves = [(one["learning_rate"] < 0.1, one["method.gmp.until"] < 0.7) for one in tried]
    assert min(halves.count((one, other)) for one in (True, False) for other in (True, False)) >= 6  # of 32


def test_points_that_come_to_the_same_are_tried_once() -> None:
    recipe, search = study(search={"trainings": 8, "space": {"method.gmp.until": {"each": [0.5, 0.9]}}})
    assert [len(of(name, lanes(recipe, search))) for name in ("dense", "gmp", "str")] == [1, 3, 1]


def test_what_is_chosen_has_the_best_validation_accuracy_and_reaches_every_seed(tmp_path: Path) -> None:
    recipe, search = study(method={"dense": {}, "gmp": {"update_every": 2}}, sparsity=0.9)
    planned = lanes(recipe, search)
    best = [try_(lane, tmp_path, fake()) for lane in planned if "gmp" in lane.cell.method]
    for lane in planned[: len(planned) - len(best)]:
        try_(lane, tmp_path, fake())
    _, chosen = choose(planned, tmp_path)
    assert chosen["validation_accuracy"] == max(accuracy for accuracy in best if accuracy is not None)
    assert (chosen["trainings"], len(chosen["points"])) == (6, 6)
    other = chosen | {"chosen": {"learning_rate": 0.25, "method.gmp.until": 0.6}}
    first, second, *runs = settled(recipe, search, [other])
    assert (first.learning_rate, second.learning_rate) == (0.1, 0.1)
    assert [run.learning_rate for run in runs] == [0.25, 0.25]
    assert [run.seed for run in runs] == [(0,), (1,)]
    assert all(run.search is None for run in runs)


def test_a_point_that_diverged_is_not_chosen(tmp_path: Path) -> None:
    recipe, search = study(method="gmp", sparsity=0.9)

    def train(run: Recipe) -> Mapping[str, Any]:
        if run.learning_rate != 0.1:
            raise NonFiniteLossError("the loss became nan")
        return fake()(run)

    planned = lanes(recipe, search)
    assert [try_(lane, tmp_path, train) is None for lane in planned] == [False, *[True] * 5]
    assert choose(planned, tmp_path)[0]["chosen"] == {}


def initial(run: Recipe) -> float:
    """What STR's threshold begins at."""
    return float(run.method["str"]["initial"])


def tried(tmp_path: Path, sparsity: Callable[[Recipe], float]) -> tuple[dict[str, Any], list[float]]:
    """What was chosen for STR at 90 %, and the knobs of all trainings in order."""
    recipe, search = study(method={"str": {"decay": 0.1}}, sparsity=0.9)
    knobs: list[float] = []

    def counted(run: Recipe) -> Mapping[str, Any]:
        knobs.append(initial(run))
        return fake(sparsity)(run)

    (lane,) = lanes(recipe, search)
    try_(lane, tmp_path, counted)
    (chosen,) = choose([lane], tmp_path)
    return chosen, knobs


def test_steered_points_end_at_the_sparsity_asked_for_and_spend_exactly_their_trainings(tmp_path: Path) -> None:
    chosen, knobs = tried(tmp_path, lambda run: 1 / (1 + math.exp(-(initial(run) + 4.0))))
    assert chosen["trainings"] == len(knobs) == 6
    assert all(point["hit"] for point in chosen["points"])
    assert [point["trainings"] for point in chosen["points"]] == [3, 1, 1, 1]  # where the one before found it
    assert chosen["realised_sparsity"] == pytest.approx(0.9, abs=0.005)
    assert chosen["chosen"]["method.str.initial"] == pytest.approx(-4 + math.log(9), abs=0.1)


def test_a_target_out_of_reach_is_missed_and_said(tmp_path: Path) -> None:
    chosen, knobs = tried(tmp_path, lambda run: 0.2 + 0.001 * initial(run))
    assert len(knobs) == 6
    assert not any(point["hit"] for point in chosen["points"])
    assert chosen["realised_sparsity"] == pytest.approx(0.2, abs=0.01)
    assert chosen["chosen"]["method.str.initial"] == pytest.approx(-1.04)  # the nearest tried: at the end of the range


@given(st.floats(0.02, 0.98), st.floats(0.3, 3.0), st.floats(-2.0, 2.0))
def test_steering_closes_in_on_a_curve_that_rises(target: float, slope: float, shift: float) -> None:
    steering = Steering(Range(1e-4, 1e4, log=True), target)
    misses = []
    assume(abs(math.log(target / (1 - target)) / slope + shift) < 9.0)
    for _ in range(12):
        value = steering.next()
        sparsity = 1 / (1 + math.exp(-slope * (math.log(value) - shift)))
        misses.append(abs(sparsity - target))
        steering.tell(value, sparsity)
    assert min(misses) < 0.005


def test_steering_begins_where_the_recipe_stands() -> None:
    assert Steering(Range(0.01, 1.0, log=True), 0.9, first=0.3).next() == 0.3
    assert Steering(Range(0.01, 1.0, log=True), 0.9, first=3.0).next() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trainings": 0}, r"search.trainings: input should be greater than or equal to 1"),
        (SEARCH | {"space": {"learning_rate": {"low": 1.0, "high": 0.1}}}, r"learning_rate: .* low < high, got 1\.0"),
        (SEARCH | {"space": {"learning_rate": [0.1, 0.2]}}, r"search.space: input should be a valid dictionary"),
        (SEARCH | {"space": {"learning_rate": {"from": 0.1}}}, r"must be \{low: \.\.\., high: \.\.\.\} or \{each"),
        (
            SEARCH | {"space": {"optimizer.sdg.momentum": {"each": [0.9]}}},
            r"optimizer\.sdg\.momentum: no key is called 'sdg'",
        ),
        (
            SEARCH | {"steer": {"str": {"initial": {"each": [1]}}}},
            r"search.steer: input should be a valid num.*\[1\]",
        ),
        (SEARCH | {"steer": {"str": {}}}, r"must name one argument of str, got none"),
        (SEARCH | {"steer": {"srt": {"initial": {"low": -9, "high": -1}}}}, r"no method is called 'srt'; did you mean"),
        (SEARCH | {"steering": 7}, r"steering takes up to 7 trainings a point, and there are 6"),
        (SEARCH | {"space": {"optimizer.sgd.momentun": {"each": [0.9]}}}, r"momentun"),
        (SEARCH | {"seed": 1}, r"search: seed 1 is one of the recipe's; a search needs a seed of its own"),
    ],
)
def test_bad_searches_are_refused_by_check_in_one_line(
    search: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus("check", written(tmp_path, **STUDY | {"search": search})) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_a_study_searches_then_trains_with_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = {"trainings": 2, "space": {"learning_rate": {"low": 0.2, "high": 0.3}}}
    path = written(tmp_path, method=["dense", "magnitude"], seed=[0, 1], search=search)
    assert prunus("compare", path, "--out", tmp_path / "study", "--workers", 1) == 0
    found = json.loads((tmp_path / "study" / "search.json").read_text())
    assert [(one["method"], one["trainings"]) for one in found] == [("dense", 2), ("magnitude", 2)]
    recipes = [json.loads(p.read_text()) for p in tmp_path.glob("study/runs/*/result.json")]
    assert sorted((result["method"], result["seed"]) for result in recipes) == [
        ("dense", 0),
        ("dense", 1),
        ("magnitude", 0),
        ("magnitude", 1),
    ]
    trained = list(tmp_path.glob("study/search/runs/*/result.json"))
    assert {json.loads(one.read_text())["seed"] for one in trained} == {1000}
    assert len(trained) == 4
    before = {one: one.stat().st_mtime_ns for one in trained}
    assert prunus("compare", path, "--out", tmp_path / "study", "--workers", 1) == 0  # nothing is trained again
    assert {one: one.stat().st_mtime_ns for one in trained} == before
    capsys.readouterr()
