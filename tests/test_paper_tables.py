"""The two tables of the retraining paper at their smallest, as a user would run them; and a study on two machines."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tiny import prunus, written

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "retraining"

pytestmark = pytest.mark.slow


def results(study: Path) -> list[dict[str, Any]]:
    """What came of every run of the study."""
    return [json.loads(path.read_text()) for path in sorted(study.glob("runs/*/result.json"))]


def test_the_table_of_schedules(tmp_path: Path) -> None:
    assert prunus("compare", RECIPES / "schedules-tiny.yaml", "seed=0", "--out", tmp_path, "--workers", 2) == 0
    runs = [result for result in results(tmp_path) if result["method"] == "imp"]
    assert len(runs) == 6 * 3 * 3
    by_cell: dict[tuple[int, float], dict[str, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        by_cell[run["steps"], run["sparsity"]][run["arguments"]["schedule"]] = run
    for schedules in by_cell.values():
        # the last quarter of pretraining has one rate, and no retraining is longer
        assert schedules["ft"]["test"] == schedules["lrw"]["test"]
        assert schedules["allr"]["cycles"][0]["peak"] <= schedules["llr"]["cycles"][0]["peak"] == 0.1
        assert len({run["cycles"][0]["drop"] for run in schedules.values()}) == 1
    assert "## Retraining" in (tmp_path / "report.md").read_text()


def test_the_table_of_methods(tmp_path: Path) -> None:
    smaller = ["seed=[0, 1]", "sparsity=0.9", "epochs=4", "search.trainings=3", "search.steering=3"]
    assert prunus("compare", RECIPES / "methods-tiny.yaml", *smaller, "--out", tmp_path, "--workers", 2) == 0
    search = json.loads((tmp_path / "search.json").read_text())
    assert len(search) == 12
    assert {one["trainings"] <= 3 for one in search} == {True}
    runs = results(tmp_path)
    assert len(runs) == 2 * 12
    assert len({run["steps"] for run in runs}) == 1  # one budget
    exact = {run["method"] for run in runs} - {"dense", "str", "dst", "cs"}
    assert all(run["realised_sparsity"] == pytest.approx(0.9, abs=1e-3) for run in runs if run["method"] in exact)
    assert "bimp" in (tmp_path / "report.md").read_text()


def test_two_processes_share_a_study_through_its_storage(tmp_path: Path) -> None:
    path = written(tmp_path, method=["dense", "gmp", "set"], seed=[0, 1, 2], steps=300)
    command = [sys.executable, "-m", "prunus.cli", "compare", str(path), "--out", str(tmp_path / "study")]
    command += ["--workers", "1", "--storage", str(tmp_path / "shared.journal")]
    machines = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert len(results(tmp_path / "study")) == 9
    trained = [output.count("accuracy  ") for output, _ in said]
    assert sum(trained) >= 9
    assert (tmp_path / "study" / "report.html").is_file()
