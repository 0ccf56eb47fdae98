"""Learned schedules: exact counts, on any horizon and network; files that travel bit for bit and fail in one line."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import prunus

from prunus.cadence import Decisions
from prunus.learned_schedule import LearnedSchedule
from prunus.masks import active_count
from prunus.recipes import parse
from prunus.tables import Builder, RecipeError

SHAPES = {
    "conv1.weight": (16, 3, 3, 3),
    "conv2.weight": (32, 16, 3, 3),
    "conv3.weight": (32, 32, 3, 3),
    "linear1.weight": (64, 512),
    "linear2.weight": (10, 64),
}
BOUNDS = dict.fromkeys(SHAPES, (0.0, 1.0))
# the smallest document of the format, as others may write it
MINIMAL: dict[str, Any] = {
    "format": "density-schedule/1",
    "method": "mp-rr",
    "mask_init": "magnitude",
    "delta_t": 100,
    "num_updates": 4,
    "rounding": "half_up",
    "min_active": 1,
    "regrow_init": "zero",
    "x": "update_fraction",
    "interp": "previous",
    "layers": [{"name": "conv1", "shape": [32, 3, 3, 3], "numel": 864, "min_d": 0.01, "max_d": 0.5}],
    "density": {"conv1": [0.255, 0.5, 0.5, 0.43]},
    "default": {"by_role": {"conv": [0.255, 0.5, 0.5, 0.43]}},
    "provenance": {"episodes": 50, "search_cost": 100, "leaky": False},
}

density = st.floats(0, 1)
rows = st.integers(1, 12).flatmap(lambda k: st.lists(st.lists(density, min_size=5, max_size=5), min_size=k, max_size=k))
examples = settings(deadline=None, max_examples=40)


def schedule(densities: list[list[float]]) -> LearnedSchedule:
    provenance = {"episodes": 3, "seeds": [0, 1], "val_acc": 0.6180339887498949, "git": None}
    return LearnedSchedule.of(densities, SHAPES, bounds=BOUNDS, method="mp-rr", delta_t=50, provenance=provenance)


def replayed(plan: LearnedSchedule, decisions: int, steps: int = 3) -> list[dict[str, int]]:
    cadence = Decisions(steps)
    due = (progress for clock in range(steps * decisions) for progress in cadence(clock, steps * decisions))
    return [plan(SHAPES, progress) for progress in due]


@examples
@given(rows=rows)
def test_a_replay_has_the_counts_of_the_table(rows: list[list[float]]) -> None:
    expected = [
        {name: active_count(math.prod(SHAPES[name]), round(one, 6)) for name, one in zip(SHAPES, row, strict=True)}
        for row in rows
    ]
    assert replayed(schedule(rows), len(rows)) == expected
    assert replayed(replace(schedule(rows), interp="linear"), len(rows)) == expected


@pytest.mark.parametrize("count", [*range(1, 120), 351, 391, 1000])
def test_every_decision_is_found_at_its_progress(count: int) -> None:
    plan = LearnedSchedule({"a": tuple(number / count for number in range(count))})
    found = [plan({"a": (10**6,)}, progress)["a"] for k in range(count) for progress in Decisions(1)(k, count)]
    assert found == [active_count(10**6, number / count) for number in range(count)]


def test_another_horizon_stretches_the_table() -> None:
    plan = LearnedSchedule({"a": (0.1, 0.2, 0.3, 0.4)})
    shape = {"a.weight": (100,)}

    def counts(decisions: int) -> list[int]:
        return [plan(shape, p)["a.weight"] for k in range(decisions) for p in Decisions(1)(k, decisions)]

    assert counts(8) == [10, 10, 20, 20, 30, 30, 40, 40]
    assert counts(2) == [10, 40]
    half_way = [replace(plan, interp="linear")(shape, k / 8)["a.weight"] for k in range(8)]
    assert half_way == [10, 15, 20, 25, 30, 35, 40, 40]


def test_the_minimal_document() -> None:
    plan = read(MINIMAL)
    assert [plan({"conv1.weight": (32, 3, 3, 3)}, k / 4)["conv1.weight"] for k in range(4)] == [220, 432, 432, 372]
    assert plan.provenance["search_cost"] == 100
    assert plan.layers[0].highest == 0.5


def read(document: object, where: Path | None = None) -> LearnedSchedule:
    path = (where or Path(TEMPORARY)) / "learned.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return LearnedSchedule.read(path)


TEMPORARY = ""


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TEMPORARY", str(tmp_path))


@settings(deadline=None, max_examples=25)
@given(rows=rows, segments=st.booleans())
def test_a_file_round_trip_is_bit_equal(rows: list[list[float]], segments: bool) -> None:
    first, second = Path(TEMPORARY) / "first.json", Path(TEMPORARY) / "second.json"
    written = schedule(rows)
    written.write(first, segments=segments)
    assert LearnedSchedule.read(first) == written
    LearnedSchedule.read(first).write(second, segments=segments)
    assert first.read_bytes() == second.read_bytes()
    assert ("segments" in json.loads(first.read_text())) is segments
    table = first.with_suffix(".csv")
    written.write(table)
    assert LearnedSchedule.read(table).density == written.density


def test_roles_are_means_and_serve_layers_of_other_names() -> None:
    plan = schedule([[0.1, 0.2, 0.3, 0.4, 0.5]])
    assert plan.by_role == {"first": (0.1,), "conv": (0.25,), "linear": (0.4,), "last": (0.5,)}
    other = {"stem.weight": (8, 1, 5, 5), "conv2.weight": (4, 10), "body.weight": (4, 5, 5, 1), "head.weight": (10, 20)}
    assert plan(other, 0.0) == {"stem.weight": 20, "conv2.weight": 8, "body.weight": 25, "head.weight": 100}
    with pytest.raises(
        ValueError, match=r"must hold layer 'stem.weight' \(role first\), it holds conv1, .*without strict"
    ):
        replace(plan, strict=True)(other, 0.0)
    with pytest.raises(ValueError, match=r"must hold layer 'fc' \(role last\), it holds a, role first; give it"):
        LearnedSchedule({"a": (0.5,)}, {"first": (0.5,)})({"a": (4, 4), "fc": (4, 4)}, 0.0)


def test_compacting_makes_steps_within_the_tolerance() -> None:
    drift = [[0.3 + 0.0002 * k, 0.5 if k < 20 else 0.2, 0.9, 0.1, 0.5] for k in range(100)]
    plan = schedule(drift)
    steps = plan.compacted()
    assert [len(set(column)) for column in steps.density.values()] == [2, 2, 1, 1, 1]
    for name, column in plan.density.items():
        assert all(abs(a - b) <= 0.005 + 1e-6 for a, b in zip(column, steps.density[name], strict=True))
    assert plan.compacted(0.0).density == plan.density
    assert steps.by_role["last"] == plan.by_role["last"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "density-schedule/2"}, r"format must be 'density-schedule/1', found 'density-schedule/2'"),
        ({"rounding": "floor"}, r"rounding must be 'half_up', found 'floor'"),
        ({"density": {"conv1": [0.2, 0.5, 0.5, 1.2]}}, r"density.conv1 must hold densities in \[0, 1\], found 1.2"),
        ({"density": {"conv1": [0.2, 0.5, 0.5, None]}}, r"density.conv1 must hold densities in \[0, 1\], found None"),
        ({"density": {"conv1": [0.2, 0.5, 0.5, float("nan")]}}, r"must hold finite numbers, found NaN"),
        ({"density": {"conv1": [0.2, 0.5, 0.5, 0.8]}}, r"conv1 must lie in its bounds \[0.01, 0.5\], found 0.8"),
        ({"density": {"conv1": [0.2, 0.5]}}, r"conv1 must hold num_updates = 4 densities, found 2"),
        ({"density": {"conv1": 0.5}}, r"density: conv1 must be a list, found 0.5"),
        ({"density": {"conv2": [0.2] * 4}}, r"must name the same layers, 'conv1' is in one of them"),
        ({"density": {}, "layers": []}, r"one density a decision, at least one, found role conv 4"),
        ({"num_updates": 0, "density": {"conv1": []}, "default": {"by_role": {}}}, r"at least one, found conv1 0"),
        (
            {"default": {"by_role": {"conv": [0.5]}}},
            r"one density a decision, at least one, found conv1 4, role conv 1",
        ),
        ({"num_updates": "4"}, r"num_updates must be a whole number, found '4'"),
        ({"mask_init": "erk"}, r"mask_init must be random or magnitude, found 'erk'"),
        ({"interp": "cubic"}, r"interp must be one of previous, linear, found 'cubic'"),
        ({"layers": [{"name": "conv1"}]}, r"layers must hold 'shape', found name"),
        ({"layers": [MINIMAL["layers"][0] | {"numel": 3}]}, r"conv1 must have a shape of numel whole numbers"),
        (
            {"layers": [MINIMAL["layers"][0] | {"max_d": 0.0}]},
            r"conv1 needs 0 <= min_d <= max_d <= 1, found 0.01 and 0",
        ),
        ({"segments": {"conv1": [[0, 3, 0.5]]}}, r"conv1 must hold num_updates = 4 densities, found 3"),
        ({"segments": {"conv1": [[0, 3, 0.5], [2, 4, 0.1]]}}, r"where the last one ended, at 3; found \[2, 4, 0.1\]"),
    ],
    ids=str,
)
def test_a_malformed_document_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(MINIMAL | change)
    assert "\n" not in str(error.value)
    assert "learned.json" in str(error.value)


@pytest.mark.parametrize("key", sorted(MINIMAL))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        read({name: value for name, value in MINIMAL.items() if name != key})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "", "must hold text that reads as json"),
        ("a.json", "[]", "must hold a mapping, found list"),
        ("a.csv", "", r"must begin with the columns update and one for each layer, found \[\]"),
        ("a.csv", "update,a\n", "at least one, found a 0"),
        ("a.csv", "update,a\n0,0.5\n2,0.5\n", "row 1 must hold 1 and 1 densities"),
        ("a.csv", "update,a\n0,0.5,0.5\n", "row 0 must hold 0 and 1 densities"),
        ("a.csv", "update,a\n0,half\n", r"a must hold densities in \[0, 1\], found 'half'"),
        ("a.csv", "update,a\n0,nan\n", r"a must hold densities in \[0, 1\], found nan"),
    ],
)
def test_a_file_that_is_none_is_one_clear_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        LearnedSchedule.read(tmp_path / name)
    with pytest.raises(ValueError, match="must be a schedule file, found none"):
        LearnedSchedule.read(tmp_path / f"other-{name}")
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must hold text that reads as"):
        LearnedSchedule.read(tmp_path / name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedule([]),
        lambda: schedule([[0.5] * 4]),
        lambda: LearnedSchedule({"a": (0.5,), "b": (0.5, 0.5)}),
        lambda: LearnedSchedule.of(
            [[0.9] * 5], SHAPES, bounds=dict.fromkeys(SHAPES, (0.01, 0.5)), method="mp-rr", delta_t=1, provenance={}
        ),
    ],
)
def test_an_impossible_table_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must (hold|lie)"):
        make()


RECIPE: dict[str, Any] = {
    "data": "digits",
    "model": {"mlp": {"widths": [8]}},
    "sparsity": 0.5,
    "steps": 4,
    "validation": 0.5,
}


def test_a_run_is_named_by_what_its_schedule_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    recipe = parse(RECIPE | {"method": {"mp-rr": {"schedule": str(path), "update_every": 1}}})
    strict = parse(RECIPE | {"method": {"mp-rr": {"schedule": {"learned": {"path": str(path)}}, "update_every": 1}}})
    without = recipe.name(), strict.name()
    path.write_text("{}")
    first = recipe.name(), strict.name()
    path.write_text("{ }")
    second = recipe.name(), strict.name()
    assert len({*without, *first, *second}) == 6


def test_a_recipe_reads_the_file_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    with pytest.raises(RecipeError, match=r"method.mp-rr: .*learned.json must be a schedule file, found none"):
        Builder({"sparsity": 0.5}).build("method", {"mp-rr": {"schedule": str(path)}})
    path.write_text(json.dumps(MINIMAL))
    for spec in (str(path), {"learned": {"path": str(path)}}):
        method = Builder({"sparsity": 0.5}).build("method", {"mp-rr": {"schedule": spec}})
        assert method.update.plan == LearnedSchedule.read(path)
    strict = Builder({"sparsity": 0.5}).build(
        "method", {"mp-rr": {"schedule": {"learned": {"path": str(path), "strict": True}}}}
    )
    assert strict.update.plan.strict


def replay(directory: Path, train: Callable[[list[str]], None]) -> None:
    """A schedule of another network, replayed on the two linear layers of a recipe's."""
    plan = schedule([[0.1, 0.1, 0.1, 0.2, 0.9], [0.1, 0.1, 0.1, 0.5, 0.6]])
    plan.write(directory / "learned.json")
    (directory / "recipe.yaml").write_text(json.dumps(RECIPE | {"method": {"mp-rr": {"update_every": 2}}}))
    file = directory / "learned.json"
    train(["train", str(directory / "recipe.yaml"), f"method.mp_rr.schedule={file}", "--out", str(directory / "run")])
    result = json.loads(next((directory / "run").rglob("result.json")).read_text())
    kept = active_count(8 * 64, 0.5) + active_count(80, 0.6)
    assert result["realised_sparsity"] == pytest.approx(1 - kept / (8 * 64 + 80), abs=1e-6)


def test_train_replays_a_file(tmp_path: Path) -> None:
    def train(arguments: list[str]) -> None:
        assert prunus(*arguments) == 0

    replay(tmp_path, train)


BLOCKED = """
import sys
for name in ("gymnasium", "stable_baselines3", "optuna"):
    sys.modules[name] = None  # an import of it fails
from prunus.cli import main
main()
"""


@pytest.mark.slow  # a new process imports torch
def test_a_replay_needs_nobody_who_learned(tmp_path: Path) -> None:
    def train(arguments: list[str]) -> None:
        done = subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr

    replay(tmp_path, train)
