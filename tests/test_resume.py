"""Killed runs go on bit for bit; checkpoints that are spoilt are passed over; a directory belongs to one process."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.plugins import MixedPrecision
from tiny import prunus, tiny, written

from prunus import checkpoints, storage
from prunus.loop import Progress
from prunus.methods import METHODS
from prunus.packing import load_packed
from prunus.prepare import prepare
from prunus.recipes import Recipe
from prunus.runs import train
from prunus.storage import InUseError, alone, write_atomically

Tell = Callable[[Progress], None]
STEPS = 12
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PLUGIN = """
import numpy, random, torch
from torch import nn

class Noise(nn.Module):
    def forward(self, x):
        return x + random.random() * numpy.random.rand() * torch.rand(())

def noisy(input_shape, classes):
    first = [nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), Noise()]
    return nn.Sequential(*first, nn.Linear(16, classes))
"""


class KilledError(BaseException):
    """Stands for SIGKILL: nothing but a process's end catches it."""


def small(**changes: Any) -> Recipe:
    """A run of a few steps with momentum and weight decay."""
    defaults = {"optimizer": {"sgd": {"momentum": 0.9, "weight_decay": 1e-3}}, "steps": STEPS, "evaluations": 4}
    (run,) = tiny(**defaults | changes).runs()
    return run


def silent(progress: Progress) -> None:
    """Nobody listens."""


def kill_at(step: int) -> Tell:
    """Dies when the evaluation of ``step`` is told."""

    def tell(progress: Progress) -> None:
        if progress.step == step and not progress.note:
            raise KilledError

    return tell


def kill(run: Recipe, directory: Path, step: int) -> Path:
    """A run that died at ``step`` with a checkpoint after every step; its directory."""
    with pytest.raises(KilledError):
        train(run, directory, kill_at(step), checkpoint_every=0.0)
    return directory / run.name()


def same(run: Recipe, one: Path, other: Path) -> None:
    """Weights, log and result are those of the other directory, but for the time that they took."""
    homes = (one / run.name(), other / run.name())
    assert len({(home / "model.safetensors").read_bytes() for home in homes}) == 1
    assert len({(home / "metrics.jsonl").read_bytes() for home in homes}) == 1
    first, second = (train(run, directory, silent) | {"train_seconds": 0} for directory in (one, other))
    assert first == second


GIVEN: dict[str, dict[str, Any]] = {"imp": {"dense": 0.5, "cycles": 2, "rewind": 0.25}}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    run = small(method={method: GIVEN.get(method, {})})
    home = kill(run, tmp_path / "killed", 9)
    assert not (home / "result.json").exists()
    notes: list[str] = []
    train(run, tmp_path / "killed", lambda progress: notes.append(progress.note))
    assert notes[0] == "resumed after step 8"  # the checkpoint of step 9 was still to come
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")
    assert not (home / "checkpoints").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"adamw": {"weight_decay": 0.1}}, "learning_rate": {"cosine": {"initial": 0.01, "final": 0.0}}},
        {"optimizer": "nadam", "accumulate": 3, "clip": 0.5},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "precision": "bf16-mixed", "label_smoothing": 0.1},
        {"precision": "64-true", "augmentation": "crop-flip"},
        {"channels_last": True},
        {"method": "dense"},
        {"method": {"dpf": {"update_every": 3}}, "optimizer": "adam", "learning_rate": 0.01},
        {"method": {"snfs": {"update_every": 3}}, "sparsity": 0.5},
        {"method": "str", "optimizer": "adam", "learning_rate": 0.01, "steps": 60},
        {"method": {"one-shot": {"criterion": "saliency", "signal": "loss-gradient"}}, "signal_batches": 2},
    ],
    ids=str,
)
def test_whatever_a_recipe_says_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    run = small(**changes)
    kill(run, tmp_path / "killed", 6 if "steps" not in changes else 30)
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_draws_of_a_network_come_back(tmp_path: Path) -> None:
    plugin = tmp_path / "noisy.py"
    plugin.write_text(PLUGIN)
    run = small(model="noisy", plugins=str(plugin), method="set")
    kill(run, tmp_path / "killed", 6)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_the_scale_of_mixed_precision_comes_back() -> None:
    killed, resumed = prepare(small()), prepare(small())
    for prepared in (killed, resumed):
        prepared.precision = MixedPrecision("16-mixed", "cpu")
    assert killed.precision.scaler is not None
    killed.precision.scaler.load_state_dict(killed.precision.scaler.state_dict() | {"scale": 8.0, "_growth_tracker": 3})
    checkpoints.restore_(resumed, checkpoints.snapshot(killed))
    assert resumed.precision.state_dict() == killed.precision.state_dict()
    assert resumed.precision.state_dict()["scale"] == 8.0


def test_a_resumed_run_takes_as_many_threads_as_it_began_with(tmp_path: Path) -> None:
    run = small(model={"mlp": {"widths": [256]}}, batch_size=256)
    kill(run, tmp_path / "killed", 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        result = train(run, tmp_path / "killed", silent)
        assert torch.get_num_threads() == threads + 1  # another run takes what it is given
    finally:
        torch.set_num_threads(threads)
    assert result["threads"] == threads
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_a_checkpoint_of_another_prunus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT", "prunus-checkpoint/0")
    kill(small(), tmp_path, 6)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format 'prunus-checkpoint/1', got 'prunus-checkpoint/0' of another"):
        train(small(), tmp_path, silent)


def test_a_log_that_was_lost_begins_the_run_anew(tmp_path: Path) -> None:
    (kill(small(), tmp_path / "killed", 6) / "metrics.jsonl").unlink()
    notes: list[str] = []
    train(small(), tmp_path / "killed", lambda progress: notes.append(progress.note))
    assert notes[0].startswith("metrics.jsonl is shorter than the checkpoint says")
    train(small(), tmp_path / "whole", silent)
    same(small(), tmp_path / "killed", tmp_path / "whole")


def test_a_run_killed_again_and_again(tmp_path: Path) -> None:
    run = small(method="rigl")
    for step in (3, 3, 6, 12):
        kill(run, tmp_path / "killed", step)
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_two_checkpoints_are_kept_with_masks_at_a_bit_a_weight(tmp_path: Path) -> None:
    home = kill(small(), tmp_path, 6)
    older, newer = sorted((home / "checkpoints").iterdir())
    assert [path.name.partition("-")[0] for path in (older, newer)] == ["0000000004", "0000000005"]
    state = torch.load(newer, weights_only=True)
    assert state["sparsifier"]["clock"] == state["training"]["taken"] == state["stream"]["batches"] == 5
    masks = state["sparsifier"]["method"]["masks"]
    assert {name: (mask.dtype, mask.numel()) for name, mask in masks.items()} == {
        "linear1.weight": (torch.uint8, 64 * 16 // 8),
        "linear2.weight": (torch.uint8, 16 * 10 // 8),
    }


@pytest.mark.parametrize("spoil", ["cut", "flipped", "empty"])
def test_a_spoilt_checkpoint_is_named_and_the_one_before_it_used(spoil: str, tmp_path: Path) -> None:
    run = small()
    newest = sorted((kill(run, tmp_path / "killed", 6) / "checkpoints").iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[spoil])
    notes: list[str] = []
    train(run, tmp_path / "killed", lambda progress: notes.append(progress.note))
    assert notes[0].startswith(f"checkpoint {newest} is cut off or spoilt")
    assert notes[1] == "resumed after step 4"
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_with_every_checkpoint_spoilt_a_run_begins_anew(tmp_path: Path) -> None:
    run = small()
    for path in (kill(run, tmp_path / "killed", 6) / "checkpoints").iterdir():
        path.write_bytes(b"")
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_checkpoints_come_by_the_clock_and_never_after_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoints, "save", lambda folder, step, state: saved.append(step))
    train(small(), tmp_path / "a", silent, checkpoint_every=0.0)
    assert saved == list(range(1, STEPS))
    train(small(), tmp_path / "b", silent, checkpoint_every=3600.0)
    assert saved == list(range(1, STEPS))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == {"result.json": "old"}


def test_a_run_that_another_process_trains_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    home = tmp_path / small().name()
    home.mkdir()
    with holding(home):
        with pytest.raises(InUseError, match="must belong to one process at a time"):
            train(small(), tmp_path, silent)
        assert prunus("train", written(tmp_path, **small().resolved()), "--out", tmp_path) == 2
        assert "another is at work in it" in capsys.readouterr().err
    assert train(small(), tmp_path, silent)["steps"] == STEPS  # the lock of the dead is free


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """A process holds the lock of ``directory``, and is killed in the end."""
    code = (
        "import sys, time, pathlib; from prunus.storage import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.kill()


def test_a_directory_is_held_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    with alone(tmp_path), pytest.raises(InUseError), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


@pytest.mark.slow
def test_killed_at_random_moments_every_method_ends_the_same() -> None:
    command = [sys.executable, str(BENCHMARKS / "kill_and_resume.py"), "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == [*METHODS, "all"]


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, method=["dense", "gmp", "rigl", "dpf"], seed=[0, 1], steps=150, evaluations=10)
    command = [sys.executable, "-m", "prunus.cli", "compare", str(path), "--workers", "2", "--checkpoint-every", "0"]
    began = time.monotonic()
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    span, chance = time.monotonic() - began, random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.4, 0.9) * span)
        process.kill()  # the study alone: its workers must end by themselves
        process.wait()
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    whole = {home.name for home in (tmp_path / "whole" / "runs").iterdir()}
    assert whole == {home.name for home in (tmp_path / "killed" / "runs").iterdir()}
    for name in whole:
        for file in ("model.safetensors", "metrics.jsonl"):
            one, other = (tmp_path / study / "runs" / name / file for study in ("whole", "killed"))
            assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.rglob("runs/**/*.partial"))


def test_weights_of_a_finished_run_are_those_that_were_tested(tmp_path: Path) -> None:
    run = small(method="dpf")
    result = train(run, tmp_path, silent)
    state, _ = load_packed(tmp_path / run.name() / "model.safetensors")
    prepared = prepare(small(method="dense"))
    prepared.model.load_state_dict(state)
    assert prepared.quality(prepared.test).accuracy == result["test"]["accuracy"]
