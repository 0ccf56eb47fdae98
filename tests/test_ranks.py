"""Several ranks train one run: as one process would, with one voice, and to a common end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from tiny import prunus, read_lines, tiny, written

from prunus import ranks
from prunus.compare import default_workers
from prunus.loop import Progress
from prunus.packing import load_packed
from prunus.prepare import prepare
from prunus.recipes import read
from prunus.runs import train

ROOT = Path(__file__).parents[1]
PLUGIN = """
import os, signal
from torch import nn

class Mishap(nn.Module):
    forwards = 0

    def forward(self, x):
        self.forwards += self.training
        rank = os.environ.get("RANK")
        killed = rank == os.environ.get("KILL_RANK", "0")
        if killed and self.training and self.forwards == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        spoilt = rank == "1" and self.training and self.forwards == int(os.environ.get("SPOIL_AT", 0))
        return x * float("nan") if spoilt else x

def fragile(input_shape, classes):
    first = [nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), Mishap()]
    return nn.Sequential(*first, nn.Linear(16, classes))
"""
Job = dict[str, Any]


def on_two_ranks(*jobs: Job) -> list[Job]:
    """How each job ended on both."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, forked.__file__, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found: list[Job] = json.loads(done.stdout)
    return found


def command(*arguments: object, **environment: object) -> Job:
    """A job of the command line."""
    return {
        "command": [str(argument) for argument in arguments],
        "environment": {name: str(value) for name, value in environment.items()},
    }


def home(path: Path, out: Path) -> Path:
    """Where the run of a recipe file lies."""
    (run,) = read(path).runs()
    return out / run.name()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_packed(folder / "model.safetensors")[0]


def fragile(directory: Path, **changes: Any) -> Path:
    """A recipe with BatchNorm, dropout, and a mishap on demand."""
    directory.mkdir()
    (directory / "fragile.py").write_text(PLUGIN)
    optimizer = {"sgd": {"momentum": 0.9, "weight_decay": 1e-3}}
    own = {"model": "fragile", "plugins": str(directory / "fragile.py"), "optimizer": optimizer}
    return written(directory, **own | {"steps": 12, "evaluations": 4} | changes)


def one_line(job: Job) -> str:
    """What rank 0 said when it failed; the other was let go, or ended by torchrun, without a word."""
    assert job["codes"][0] in (1, 2)
    assert job["codes"][1] in (0, -15)
    assert job["err"][1] == ""
    (line,) = job["err"][0].splitlines()
    assert line.startswith("prunus: ")
    return str(line)


@pytest.mark.slow
def test_two_ranks_train_a_run(tmp_path: Path) -> None:
    plain, broken = written(tmp_path, steps=60), fragile(tmp_path / "broken")
    spoilt = fragile(tmp_path / "spoilt", method="dense")
    rigl = fragile(tmp_path / "rigl", method={"rigl": {"update_every": 2}}, recalibrate=3, batch_size=30)
    again = command("train", broken, "--out", tmp_path / "killed", "--checkpoint-every", 0)
    trained, odd, nan, killed, resumed, whole, finished, both = on_two_ranks(
        command("train", plain, "--out", tmp_path / "two"),
        command("train", plain, "batch_size=33", "--out", tmp_path),
        command("train", spoilt, "--out", tmp_path, SPOIL_AT=12),
        again | {"environment": {"KILL_AT": "8"}},
        again,
        command("train", broken, "--out", tmp_path / "whole"),
        again,
        {"quality": str(rigl)},
    )
    assert (trained["codes"], trained["err"]) == ([0, 0], ["", ""])
    assert trained["out"][1] == ""  # rank 0 alone speaks
    assert prunus("train", plain, "--out", tmp_path / "one") == 0
    same_as_one_process(plain, tmp_path)
    assert "must be divisible by their number, got 33 for 2; the nearest below is 32" in one_line(odd)
    assert "the loss became nan in the 50 steps before step 12" in one_line(nan)
    assert killed["codes"] == [-9, -15]
    assert resumed["codes"] == whole["codes"] == finished["codes"] == [0, 0]
    assert "resumed after step 7" in resumed["out"][0]
    assert "resumed" not in finished["out"][0]
    for file in ("model.safetensors", "metrics.jsonl"):
        assert len({(home(broken, tmp_path / out) / file).read_bytes() for out in ("killed", "whole")}) == 1
    first, second = (json.loads(said) for said in both["out"])
    assert first == second
    assert first["trained"] != first["recalibrated"]
    assert first["trained"].count("n=360") == 1
    assert first["shares"] == [15, 180]


def same_as_one_process(path: Path, directory: Path) -> None:
    """The run in ``one`` and that in ``two`` differ by rounding alone."""
    one, two = home(path, directory / "one"), home(path, directory / "two")
    assert (one / "masks.safetensors").read_bytes() == (two / "masks.safetensors").read_bytes()
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, rtol=0, atol=1e-6)
    alone, together = (read_lines(folder / "metrics.jsonl") for folder in (one, two))
    assert [line["accuracy"] for line in alone] == [line["accuracy"] for line in together]
    assert [line["loss"] for line in alone] == pytest.approx([line["loss"] for line in together], rel=1e-5)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert [result["world_size"] for result in results] == [1, 2]
    assert results[0]["test"]["accuracy"] == results[1]["test"]["accuracy"]
    assert results[0]["training_macs"] == results[1]["training_macs"]


def test_workers_are_refused_under_torchrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks, "together", lambda call: None)
    assert default_workers(tiny()) == 1
    assert prunus("compare", written(tmp_path), "--workers", 2, "--out", tmp_path / "study") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--workers must be 1 under torchrun, whose ranks train each run together, got 2" in line
    assert prunus("compare", written(tmp_path), "--storage", "postgresql://x", "--out", tmp_path / "study") == 2
    assert "--storage is for machines that train runs of their own" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_what_a_scheduler_left_in_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "8")
    monkeypatch.setenv("RANK", "3")
    assert (ranks.world_size(), ranks.rank(), ranks.leads()) == (1, 0, True)
    assert len(next(prepare(tiny()).stream)[1]) == 32


METHODS: dict[str, dict[str, Any]] = {
    "rigl": {"method": {"rigl": {"update_every": 4}}},
    "dpf": {"method": {"dpf": {"update_every": 4}}},
    "str": {"method": {"str": {"initial": -4.0}}, "optimizer": "adam", "learning_rate": 0.01},
    "gsm": {"method": "gsm"},
    "bimp": {"method": {"bimp": {"cycles": 2}}, "recalibrate": 2},
    "imp": {"method": {"imp": {"cycles": 2, "dense": 0.5, "rewind": 0.25}}},
    "snip": {"method": "snip", "signal_batches": 2},
    "grasp": {"method": "grasp"},
    "accumulated": {"method": "gmp", "accumulate": 2, "clip": 0.5},
    "double": {"method": "set", "precision": "64-true"},
    "half": {"method": "set", "precision": "bf16-mixed"},
}


@pytest.mark.slow
def test_every_carrier_trains_on_two_ranks(tmp_path: Path) -> None:
    paths = [fragile(tmp_path / name, **changes) for name, changes in METHODS.items()]
    trainings = [command("train", path, "--out", tmp_path) for path in paths]
    for job in on_two_ranks(*trainings, *({"quality": str(path)} for path in paths)):
        assert (job["codes"], job["err"]) == ([0, 0], ["", ""]), job
        if "quality" in job:
            assert len({*job["out"]}) == 1
    masks = {(home(path, tmp_path) / "masks.safetensors").read_bytes() for path in paths}
    assert len(masks) == len(paths) - 1  # set draws the same under every precision


@pytest.mark.slow
def test_packed_gradients_change_nothing_but_the_bytes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": {"rigl": {"update_every": 5}}, "steps": 40}
    paths = {way: fragile(tmp_path / str(way), gradients=way, **changes) for way in ("packed", "dense", None)}
    again = command("train", paths[None], "--out", tmp_path / "killed", "--checkpoint-every", 0)
    ended = on_two_ranks(
        *(command("train", path, "--out", tmp_path) for path in paths.values()),
        again | {"environment": {"KILL_AT": "17"}},
        again,
    )
    assert [job["codes"] for job in ended] == [*3 * [[0, 0]], [-9, -15], [0, 0]], ended
    homes = [*(home(path, tmp_path) for path in paths.values()), home(paths[None], tmp_path / "killed")]
    first, *rest = (weights(place) for place in homes)
    assert all(torch.equal(first[name], other[name]) for other in rest for name in first)
    packed, dense, chosen, resumed = (json.loads((place / "result.json").read_text())["gradients"] for place in homes)
    others = 16 + 2 * 16 + 10  # biases and BatchNorm
    whole = 64 * 16 + 16 * 10 + others
    updates = 6  # after the first, until three quarters of training
    assert dense == {"bytes_dense": 4 * whole, "bytes_sent": 4 * whole, "trials": []}
    assert packed["bytes_sent"] == 4 * ((40 - updates) * (118 + others) + updates * whole) / 40
    assert packed["trials"] == []
    for one in (chosen, resumed):
        assert packed["bytes_sent"] < one["bytes_sent"] < one["bytes_dense"] == 4 * whole
        assert [trial["kept"] for trial in one["trials"]] == [pytest.approx(0.1, abs=0.01)]


@pytest.mark.slow
def test_a_study_on_two_ranks_ends_with_a_report(tmp_path: Path) -> None:
    search = {"trainings": 3, "space": {"learning_rate": {"low": 0.01, "high": 1.0}}}
    start = {"epochs": 0.2, "learning_rate": 0.1}
    study = written(tmp_path, method=["imp", "gmp"], steps=None, epochs=0.2, start=start, search=search)
    out = tmp_path / "study"
    compared, again = on_two_ranks(*2 * [command("compare", study, "--out", out)])
    for job in (compared, again):
        assert (job["codes"], job["err"]) == ([0, 0], ["", ""]), job
    assert (out / "report.html").is_file()
    assert len(json.loads((out / "timing.json").read_text())) == 3
    results = [json.loads(path.read_text()) for path in out.rglob("result.json")]
    assert {result["world_size"] for result in results} == {2}
    assert {result["method"] for result in results} == {"dense", "imp", "gmp"}
    assert "Report: " in again["out"][0]


@pytest.mark.slow
def test_a_network_is_retrained_by_torchrun(tmp_path: Path) -> None:
    dense = written(tmp_path, model="resnet8", method="dense", steps=4)
    torchrun("train", dense, "--out", tmp_path)
    options = ("--sparsity", 0.9, "--epochs", 0.1, "--out", tmp_path, "--advise", "--trainings", 2)
    assert "chosen: " in torchrun("retrain", home(dense, tmp_path), *options)
    assert prunus("retrain", home(dense, tmp_path), *options) == 0  # finished: one process finds them


def torchrun(*arguments: object) -> str:
    """What rank 0 prints."""
    done = launched(2, *arguments)
    assert done.stderr == ""
    return done.stdout


def launched(size: int, *arguments: object, restarts: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """The command line under torchrun, which starts all ranks again when one is lost."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"} | changes
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", f"--max-restarts={restarts}"]
    command = [sys.executable, *run, "-m", "prunus", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(("size", "killed"), [(2, "0"), (3, "2")])
def test_a_rank_that_is_killed_comes_back_and_the_run_ends_as_if_undisturbed(
    tmp_path: Path, size: int, killed: str
) -> None:
    changes: dict[str, Any] = {"method": {"rigl": {"update_every": 3}}, "batch_size": 30, "steps": 24}
    path = fragile(tmp_path / "own", gradients="packed", **changes)
    launched(size, "train", path, "--out", tmp_path / "whole")
    disturbed = ("train", path, "--out", tmp_path / "killed", "--checkpoint-every", 0)
    done = launched(size, *disturbed, restarts=1, KILL_AT="15", KILL_RANK=killed)
    assert "Signal 9 (SIGKILL)" in done.stderr or "-9" in done.stderr
    assert "resumed after step 1" in done.stdout
    for file in ("model.safetensors", "masks.safetensors", "metrics.jsonl"):
        assert len({(home(path, tmp_path / out) / file).read_bytes() for out in ("killed", "whole")}) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    path = fragile(tmp_path / "broken", model={"mlp": {"widths": [16]}}, steps=60)
    one, two = tmp_path / "one", tmp_path / "two"
    (run,) = read(path).runs()
    with pytest.raises(KeyboardInterrupt):
        train(run, two, interrupt, checkpoint_every=0.0)
    (resumed,) = on_two_ranks(command("train", path, "--out", two))
    assert "resumed after step 29" in resumed["out"][0]
    assert prunus("train", path, "--out", one) == 0
    same_as_one_process(path, tmp_path)


def interrupt(progress: Progress) -> None:
    if progress.step == 30 and not progress.note:
        raise KeyboardInterrupt
