"""A study whose workers are killed, as processes: on a journal, and on one PostgreSQL server (minutes)."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import postgresql
import pytest
from tiny import written

from prunus.scaling.records import read_cells

RECIPE: dict[str, Any] = {
    "method": ["dense", "snip"],
    "sparsity": 0.5,
    "steps": 300,
    "scaling": {
        "goal": 0.12,
        "batch_sizes": [8, 32, 128],
        "optimizers": ["sgd", "momentum"],
        "trials": 4,
        "repeats": 1,
        "screen": 0,
    },
}
CELLS = 12


def started(recipe: Path, folder: Path, *more: object) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    options = ["--out", folder / "study", "--workers", 1, "--checkpoint-every", 0, *more]
    command = [sys.executable, "-m", "prunus", "scaling", "run", recipe, *options]
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(list(map(str, command)), stdout=said, stderr=said)


def measured(folder: Path) -> dict[str, Any]:
    """The cells of a study, without how long they took."""
    found = {
        path.parent.name: json.loads(path.read_text()) for path in (folder / "study" / "cells").glob("*/cell.json")
    }
    return {name: {**record, "seconds": 0} for name, record in found.items()}


def wait_for(folder: Path, cells: int, seconds: float = 240.0) -> None:
    """Until so many cells are done."""
    end = time.monotonic() + seconds
    while len(list((folder / "study").glob("cells/*/cell.json"))) < cells:
        assert time.monotonic() < end, (folder / "said.txt").read_text()
        time.sleep(0.02)


def killed_thrice(folder: Path) -> dict[str, Any]:
    """What comes of a study that was killed in the middle of three cells."""
    recipe = written(folder, **RECIPE)
    for cells in (1, 4, 7):
        process = started(recipe, folder)
        wait_for(folder, cells)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert started(recipe, folder).wait(timeout=300) == 0, (folder / "said.txt").read_text()
    return measured(folder)


@pytest.mark.slow
def test_a_study_killed_thrice_measures_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert started(written(whole, **RECIPE), whole).wait(timeout=300) == 0, (whole / "said.txt").read_text()
    expected = measured(whole)
    assert len(expected) == CELLS
    assert killed_thrice(killed) == expected


@pytest.mark.slow
def test_of_two_workers_on_postgresql_one_is_killed_and_no_cell_is_lost_or_counted_twice(tmp_path: Path) -> None:
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: initdb is neither on the PATH nor in /usr/lib/postgresql")
    recipe = written(tmp_path, **RECIPE)
    with postgresql.server(programs) as address:
        url = address.format("postgres")
        workers = [started(recipe, tmp_path, "--storage", url) for _ in range(2)]
        wait_for(tmp_path, 3)
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        assert workers[1].wait(timeout=500) == 0, (tmp_path / "said.txt").read_text()
        states = postgresql.ask(url, "SELECT state, count(*) FROM trials GROUP BY state")
    assert len(read_cells(tmp_path / "study")) == CELLS
    counts = {str(state): int(count) for state, count in states}
    assert counts.pop("FAIL", 0) <= 1
    assert counts == {"COMPLETE": CELLS}
