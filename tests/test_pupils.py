"""Pupils: a policy that was shown the test set is never taken for one that was not."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_compare import leave_reports_out, measured  # noqa: F401  # a fixture
from test_lessons import SHAPES, lesson
from tiny import prunus, written

from prunus.learn import _evaluated
from prunus.lessons import Lesson
from prunus.pupils import Classroom, practise
from prunus.recipes import Recipe
from prunus.report.attention import leak_warnings
from prunus.report.results import read

SEED = 2000
PPO: dict[str, Any] = {"agents": ["ppo"], "trainings": 3, "finalists": 1}


def pupil(folder: Path, *, leaky: bool) -> Lesson:
    return lesson(folder, **PPO, leaky=leaky)


def practised(one: Lesson) -> dict[str, Any]:
    return practise(one, SHAPES, 2, [SEED], 1, lambda number, accuracy: None)


def test_only_a_leaky_classroom_measures_the_test_set(tmp_path: Path) -> None:
    for leaky in (False, True):
        room = Classroom(lesson(tmp_path).cell, 2, leaky)
        measure = room(SEED).measure
        assert room.prepared is not None
        images = room.prepared.test if leaky else room.prepared.validation
        assert measure().loss == room.prepared.quality(images).nll
        assert room.prepared.quality(room.prepared.test).nll != room.prepared.quality(room.prepared.validation).nll


@pytest.mark.slow
def test_only_the_closed_loops_of_a_leaky_lesson_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[bool] = []

    def classroom(cell: Recipe, update_every: int, leaky: bool = False) -> Classroom:
        rooms.append(leaky)
        return Classroom(cell, update_every, leaky)

    monkeypatch.setattr("prunus.pupils.Classroom", classroom)
    for leaky in (False, True):
        rooms.clear()
        practised(pupil(tmp_path, leaky=leaky))
        assert [*set(rooms[:-1]), rooms[-1]] == [False, leaky]


@pytest.mark.slow
def test_closed_loops_are_kept_by_whether_they_leak(tmp_path: Path) -> None:
    honest, leaky = (pupil(tmp_path, leaky=leaks) for leaks in (False, True))
    assert honest.work == leaky.work  # learned alike, and once
    kept = honest.work / f"closed-loop-{SEED}.json", honest.work / f"closed-loop-{SEED}-leaky.json"
    marks = [{"seed": SEED, "validation": mark, "test": mark, "sparsity": 0.5} for mark in (0.125, 0.25)]
    records = []
    for one, path, mark in zip((honest, leaky), kept, marks, strict=True):
        records.append(practised(one))
        assert json.loads(path.read_text()) == records[-1]["closed_loop"][0]
        assert records[-1]["closed_loop"][0] not in marks
        path.write_text(json.dumps(mark))
        assert json.loads(one.schedule.with_suffix(".record").read_text()) == records[-1]
    assert [record["leaky"] for record in records] == [False, True]
    assert [practised(one)["closed_loop"] for one in (honest, leaky)] == [[mark] for mark in marks]
    assert [_evaluated(record, honest.learn, [SEED]) for record in records] == [True, False]
    assert [_evaluated(record, leaky.learn, [SEED]) for record in records] == [False, True]
    assert not _evaluated(records[1], leaky.learn, [SEED, SEED + 1])


@pytest.mark.slow
@pytest.mark.usefixtures("measured")
def test_the_command_evaluates_anew_what_leaked_and_the_report_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_reports_out(monkeypatch)
    study = tmp_path / "study"
    path = written(tmp_path, method={"mp-rr": {"update_every": 2}}, sparsity=0.5, seed=SEED, learn=PPO)
    found: list[list[Any]] = []
    for leaky in (True, False):
        assert prunus("learn", path, f"learn.leaky={leaky}".lower(), "--out", study, "--workers", 1) == 0
        (record,) = json.loads((study / "learn.json").read_text())["lessons"]
        assert record["leaky"] is leaky
        assert len(leak_warnings(read(study))) == leaky
        told = capsys.readouterr().out
        assert ("LEAKY: policies see the test set" in told) is leaky
        assert "mp-rr at 0.5, ppo: its trainings held fewer decisions than one update takes" in told
        assert "learned before" not in told
        found.append([record[key] for key in ("episodes", "chosen", "densities", "training_macs")])
    assert found[0] == found[1], "the test set reached what was learned"
