"""What goes wrong from outside: each gives one line with the remedy, and loses nothing already written."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import prunus, tiny, written

from prunus import checkpoints, storage
from prunus.loop import Progress
from prunus.recipes import Recipe
from prunus.report.writing import save
from prunus.runs import train

Capture = pytest.CaptureFixture[str]
NO_SPACE = 28


def line(capsys: Capture) -> str:
    """The one line on the error stream."""
    (only,) = capsys.readouterr().err.splitlines()
    assert only.startswith("prunus: ")
    return only


def run() -> Recipe:
    (only,) = tiny().runs()
    return only


@pytest.mark.parametrize("file", ["recipe.yaml", "checkpoint", "model.safetensors", "result.json"])
def test_a_full_disk_loses_nothing(file: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_with = storage.write_with

    def full(path: Path, write: Callable[[Any], object]) -> None:
        if path.name.startswith(file):
            raise OSError(NO_SPACE, os.strerror(NO_SPACE), str(path))
        write_with(path, write)

    for module in ("prunus.storage", "prunus.checkpoints", "prunus.tensor_file"):
        monkeypatch.setattr(f"{module}.write_with", full)
    path = written(tmp_path)
    assert prunus("train", path, "--out", tmp_path, "--checkpoint-every", 0) == 2
    assert "the disk is full" in (said := line(capsys))
    assert "free some space and give the same command again" in said
    monkeypatch.undo()
    assert prunus("train", path, "--out", tmp_path) == 0
    train(run(), tmp_path / "whole", lambda progress: None)
    weights = {(tmp_path / place / run().name() / "model.safetensors").read_bytes() for place in (".", "whole")}
    assert len(weights) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_checkpoint_on_a_full_disk_is_an_error_of_the_disk() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        checkpoints.write(full, {"weight": torch.zeros(1000)})


@pytest.mark.parametrize("spoil", ["cut", "wrong"])
def test_a_data_file_that_is_not_the_published_one_is_named_with_its_checksum(
    spoil: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte").write_bytes(b"\0" * (10 if spoil == "cut" else 47_040_016))
    assert prunus("train", written(tmp_path, data="mnist")) == 2
    said = line(capsys)
    assert "train-images-idx3-ubyte" in said
    assert "md5" in said


def test_a_study_that_another_process_runs_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    study = tmp_path / "study"
    study.mkdir()
    with storage.alone(study):
        assert prunus("compare", written(tmp_path), "--out", study) == 2
    assert "must belong to one process at a time, and another is at work in it" in line(capsys)


def study_process(tmp_path: Path, steps: int = 20_000) -> "subprocess.Popen[str]":
    """A study of long runs in two workers, in a process group of its own."""
    path = written(tmp_path, method=["dense", "gmp"], steps=steps, evaluations=steps // 10)
    command = [sys.executable, "-m", "prunus.cli", "compare", str(path), "--out", str(tmp_path / "study")]
    return subprocess.Popen(
        [*command, "--workers", "2", "--checkpoint-every", "0.2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_checkpoints(tmp_path: Path, count: int) -> None:
    """Until ``count`` runs have one."""
    deadline = time.monotonic() + 120
    while len({path.parent for path in tmp_path.rglob("checkpoints/*.pt")}) < count:
        assert time.monotonic() < deadline, "no run wrote a checkpoint"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_interrupt_ends_a_study_with_one_line(tmp_path: Path) -> None:
    with study_process(tmp_path) as process:
        wait_for_checkpoints(tmp_path, 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the study and its workers
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["prunus: interrupted; the same command goes on from the last checkpoint of each run"]
    assert len({path.parent for path in tmp_path.rglob("checkpoints/*.pt")}) == 2


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train, not the one that tracks what they share."""
    return sorted(psutil.Process(process.pid).children(), key=lambda child: child.memory_info().rss)[-2:]


@pytest.mark.slow
def test_the_run_of_a_worker_that_is_killed_is_finished_by_another(tmp_path: Path) -> None:
    with study_process(tmp_path, steps=4_000) as process:
        wait_for_checkpoints(tmp_path, 2)
        workers_of(process)[0].kill()
        _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    assert len(list(tmp_path.glob("study/runs/*/result.json"))) == 2


@pytest.mark.slow
def test_workers_that_are_all_killed_end_a_study_with_one_line(tmp_path: Path) -> None:
    with study_process(tmp_path) as process:
        wait_for_checkpoints(tmp_path, 2)
        for worker in workers_of(process):
            worker.kill()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    (only,) = said.splitlines()
    assert "a worker must live until its runs are done, and all were killed" in only


@pytest.mark.slow
def test_workers_end_with_a_study_that_is_killed(tmp_path: Path) -> None:
    with study_process(tmp_path) as process:
        wait_for_checkpoints(tmp_path, 2)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


@pytest.mark.slow
def test_an_interrupt_while_workers_start_is_one_line_too(tmp_path: Path) -> None:
    with study_process(tmp_path) as process:
        deadline = time.monotonic() + 120
        while not psutil.Process(process.pid).children():
            assert time.monotonic() < deadline, "no worker was started"
            time.sleep(0.1)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["prunus: interrupted; the same command goes on from the last checkpoint of each run"]


def test_a_plugin_that_changes_while_a_study_runs_ends_it(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text("STRENGTH = 1\n")

    def changing(*arguments: Any, **options: Any) -> dict[str, Any]:
        plugin.write_text("STRENGTH = 2\n")
        return train(*arguments, **options)

    monkeypatch.setattr("prunus.study.train", changing)
    path = written(tmp_path, method=["dense", "gmp"])
    assert prunus("compare", path, "--plugin", plugin, "--workers", 1, "--out", tmp_path / "study") == 2
    assert "must stay as it is while the study runs, and one has changed" in line(capsys)


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = save(tmp_path / "report.html", "old")

    def full(descriptor: int) -> None:
        raise OSError(NO_SPACE, os.strerror(NO_SPACE))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(page, "new")
    assert page.read_text() == "old"


def test_a_ranking_that_meets_nan_is_a_run_that_failed(tmp_path: Path, capsys: Capture) -> None:
    assert prunus("train", written(tmp_path, learning_rate=1e30, steps=40), "--out", tmp_path) == 1
    assert "NaN" in (said := line(capsys)) or "the loss became" in said


def test_news_of_a_resumed_run_is_shown(tmp_path: Path, capsys: Capture) -> None:
    class KilledError(BaseException):
        """Nothing catches it."""

    def killed(progress: Progress) -> None:
        if progress.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(run(), tmp_path, killed, checkpoint_every=0.0)
    assert prunus("train", written(tmp_path), "--out", tmp_path) == 0
    assert "resumed after step 3" in capsys.readouterr().out
