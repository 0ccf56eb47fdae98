"""``prunus learn`` killed and begun again, and its smallest recipe run as a user would, both as processes (minutes)."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_compare import results
from tiny import prunus, read_lines, written

from prunus.data.files import data_root
from prunus.data.manifest import PUBLISHED
from prunus.learned_schedule import LearnedSchedule

ROOT = Path(__file__).parents[1]
RECIPE: dict[str, Any] = {
    "method": {"mp-rr": {"update_every": 2}},
    "sparsity": 0.5,
    "seed": [2000, 2001],
    "steps": 100,
    # two updates of the policy, 128 decisions each, the first in the middle of episodes
    "learn": {"agents": ["ppo", "random"], "trainings": 8, "finalists": 2},
}
KEPT = Path("learning", "mp-rr", "0.5")
# where to kill: a file that is there, and one that comes later
MOMENTS = {
    "episodes": (f"{KEPT}/ppo-*/agent.pt", f"{KEPT}/ppo-*/final-1000.json"),
    "finals": (f"{KEPT}/ppo-*/final-1000.json", f"{KEPT}/ppo-*/final-1001.json"),
    "closed loops": (f"{KEPT}/ppo-*/closed-loop-2000.json", f"{KEPT}/ppo-*/closed-loop-2001.json"),
    "search": ("learning/runs/*/checkpoints/*.pt", f"{KEPT}/random.json"),
    "runs": ("runs/*/result.json", "timing.json"),
}


def command(folder: Path, workers: int) -> list[str]:
    """Learns in ``folder / 'study'`` when it runs in ``folder``, by a path that is the same for all folders."""
    options = ["--out", "study", "--workers", str(workers), "--checkpoint-every", "0.05"]
    return [sys.executable, "-m", "prunus", "learn", str(written(folder, **RECIPE)), *options]


def ended(folder: Path, workers: int) -> str:
    """What the command says, undisturbed."""
    done = subprocess.run(command(folder, workers), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed(folder: Path, moment: str) -> str:
    """What the command says until it and its workers are killed at once, at a moment."""
    reached, later = MOMENTS[moment]
    study, said = folder / "study", folder / "said.txt"
    with said.open("w") as out:
        process = subprocess.Popen(
            command(folder, workers=2), cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 300
    while not any(study.glob(reached)):
        assert time.monotonic() < deadline, f"{moment}: did not begin within 300 s"
        assert process.poll() is None, f"{moment}: the command ended before, saying {said.read_text()}"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any(study.glob(later)), f"{moment}: killed too late"
    return said.read_text()


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def left(study: Path) -> dict[str, Any]:
    """All that is left of learning and of the comparison, but for times."""
    found: dict[str, Any] = {
        str(path.relative_to(study)): path.read_bytes()
        for pattern in (f"{KEPT}/*.json", f"{KEPT}/*.csv", f"{KEPT}/random-candidates/*", "**/model.safetensors")
        for path in study.glob(pattern)
    }
    for name in ("ppo", "random"):
        found[f"{name}.record"] = timeless([json.loads((study / KEPT / f"{name}.record").read_text())])
    (episodes,) = study.glob(f"{KEPT}/ppo-*/episodes.jsonl")
    found["episodes"] = timeless(read_lines(episodes))
    found["lessons"] = timeless(json.loads((study / "learn.json").read_text())["lessons"])
    return found | {"search": results(study / "learning"), "runs": results(study)}


@pytest.mark.slow
def test_learning_killed_at_every_stage_leaves_what_it_leaves_undisturbed(tmp_path: Path) -> None:
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    whole.mkdir()
    disturbed.mkdir()
    ended(whole, workers=1)
    said = [*(killed(disturbed, moment) for moment in MOMENTS), ended(disturbed, workers=2)]
    expected = left(whole / "study")
    assert {"ppo.record", f"{KEPT}/ppo.json", f"{KEPT}/ppo.csv", f"{KEPT}/random.json"} <= set(expected)
    assert len(expected["episodes"]) == 6
    assert (len(expected["search"]), len(expected["runs"])) == (8, 6)
    assert left(disturbed / "study") == expected
    assert "episode 1 " not in said[1], "the checkpoint of the policy was not gone on from"
    assert "episode 6 " in said[1]
    assert "episode 6 " not in said[2], "a policy that had ended learned again"
    assert "ppo: learned before" in said[4]
    assert "resumed after step" in said[4], "the checkpoint of a training was not gone on from"
    assert not list(disturbed.rglob("runs/**/*.partial"))


@pytest.mark.slow
def test_the_smallest_recipe_of_learning(tmp_path: Path) -> None:
    if "PRUNUS_DATA" not in os.environ:
        pytest.skip("PRUNUS_DATA is not set: it is the folder of CIFAR-10")
    if all(layout.missing(data_root()) for layout in PUBLISHED["cifar10"].layouts):
        pytest.skip("cifar10 is not in $PRUNUS_DATA")
    smaller = ["learn.trainings=4", "learn.finalists=1", "epochs=2", "seed=[2000, 2001]"]
    assert prunus("learn", ROOT / "recipes/schedules/tiny.yaml", *smaller, "--out", tmp_path, "--workers", 1) == 0
    lessons = json.loads((tmp_path / "learn.json").read_text())["lessons"]
    agents = ["ppo", "ppo-paper", "random", "optuna"]
    assert [(one["agent"], one["trainings"], one["leaky"]) for one in lessons] == [(name, 4, False) for name in agents]
    for one in lessons:
        schedule = LearnedSchedule.read(Path(one["schedule"]))
        assert schedule.provenance["search_cost"] == 4
        assert list(schedule.density) == [*("conv1", "conv2", "conv3", "linear1", "linear2")]
    report = (tmp_path / "report.md").read_text()
    assert "Each agent had 4 trainings at each sparsity and method." in report
    for name in agents:
        assert f"| {name} | mp-rr | 4 (1 finalists) |" in report
    with (tmp_path / "schedule-learning.csv").open() as file:
        assert {(row["agent"], row["trainings"]) for row in csv.DictReader(file)} == {(name, "4") for name in agents}
    assert len(results(tmp_path)) == 2 * (1 + 3 + 4)
