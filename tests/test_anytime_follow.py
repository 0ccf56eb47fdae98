"""A folder is followed by a process that is killed, fed by a second one and read by a third."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from megabatches import MOMENTUM, SPARSITY
from tiny import written

from prunus.anytime.follow import CURRENT, RECORDS
from prunus.data import load
from prunus.packing import load_packed

MEGABATCHES = 6
DIGITS = load("digits")
FEEDER = """
import shutil, sys, time
from pathlib import Path

made, inbox = map(Path, sys.argv[1:])

def renamed(name):
    shutil.copy(made / name, inbox / f"{name}.writing")
    (inbox / f"{name}.writing").rename(inbox / name)

renamed("0.npz")
time.sleep(1.0)
renamed("cut.npz")
renamed("1.npz")
slow = (made / "2.npz").read_bytes()
with (inbox / "2.npz").open("wb") as file:  # in place, piece by piece
    for begin in range(0, len(slow), len(slow) // 8 + 1):
        file.write(slow[begin : begin + len(slow) // 8 + 1])
        file.flush()
        time.sleep(0.3)
while not (inbox.parent / "killed" / "taken" / "000000.safetensors").exists():
    time.sleep(0.1)
renamed("0.npz")  # again, after it was taken
renamed("eleven.npz")
for name in ("3.npz", "4.npz", "5.npz"):
    time.sleep(1.5)
    renamed(name)
"""
READER = """
import sys, time
from pathlib import Path
from prunus.packing import load_packed

path, loaded = Path(sys.argv[1]), 0
while not Path(sys.argv[2]).exists():
    if path.exists():
        state, metadata = load_packed(path)
        assert state["linear1.weight"].shape == (16, 64)
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
        assert 1 <= int(metadata["megabatch"]) <= 6
        loaded += 1
    time.sleep(0.005)
print(loaded)
"""


def make(folder: Path) -> None:
    """Files of megabatches, one that is cut off and one with a class too many."""
    folder.mkdir()
    for number in range(MEGABATCHES):
        part = slice(100 * number, 100 * number + 100)
        images, labels = DIGITS.train.images[part].numpy(), DIGITS.train.labels[part].numpy()
        np.savez_compressed(folder / f"{number}.npz", inputs=images, targets=labels)
    (folder / "cut.npz").write_bytes((folder / "3.npz").read_bytes()[:1000])
    np.savez_compressed(folder / "eleven.npz", inputs=images, targets=labels + 10)


def follower(recipe: Path, inbox: Path, home: Path) -> subprocess.Popen[bytes]:
    """The command, its words in a file."""
    stop = ["--megabatches", str(MEGABATCHES), "--idle", "60", "--checkpoint-every", "0"]
    command = [sys.executable, "-m", "prunus", "anytime", str(recipe), "--follow", str(inbox), "--out", str(home)]
    with home.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([*command, *stop], stdout=log, stderr=log)


def wait_for(process: subprocess.Popen[bytes], sign: Path, seconds: float) -> bool:
    """Whether ``sign`` appeared, or the process ended, within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if sign.exists() or process.poll() is not None:
            return True
        time.sleep(0.002)
    return False


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, which nothing can catch."""
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_again_and_again_it_publishes_what_an_undisturbed_follower_does(tmp_path: Path) -> None:
    make(tmp_path / "made")
    anytime = {"horizon": MEGABATCHES, "replay": {"reservoir": 150}}
    changes = {"method": "snip", "sparsity": SPARSITY, "optimizer": MOMENTUM, "steps": 60, "evaluations": 6}
    recipe = written(tmp_path, anytime=anytime, **changes)
    inbox, home, chance = tmp_path / "in", tmp_path / "killed", random.Random(0)
    inbox.mkdir()
    feeder = subprocess.Popen([sys.executable, "-c", FEEDER, tmp_path / "made", inbox])
    stop = tmp_path / "stop"
    reading = [sys.executable, "-c", READER, home / CURRENT, stop]
    with subprocess.Popen(reading, stdout=subprocess.PIPE, text=True) as reader:
        signs = [
            home / "taken" / "000000.safetensors",  # between taking and training
            home / "checkpoints" / "0000-0",  # amid the first megabatch
            home / CURRENT,  # after it
            home / "taken" / "000002.safetensors",
            home / "checkpoints" / "0002-0",
            home / "checkpoints" / "0003-0",
        ]
        kills = 0
        for sign in signs:
            process = follower(recipe, inbox, home)
            assert wait_for(process, sign, 120)
            time.sleep(chance.uniform(0.0, 0.05))
            kills += process.poll() is None
            kill(process)
        assert follower(recipe, inbox, home).wait(timeout=300) == 0, home.with_suffix(".log").read_text()
        assert feeder.wait(timeout=60) == 0
        assert kills == len(signs)
        stop.touch()
        loaded, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
    assert int(loaded) > 20

    ledger = [name for name, _ in json.loads((home / "ledger.json").read_text())]
    assert sorted(ledger) == [f"{number}.npz" for number in range(MEGABATCHES)]
    aside = {path.name.partition("-")[2] for path in (home / "set-aside").iterdir()}
    assert aside == {name + end for name in ("cut.npz", "eleven.npz") for end in ("", ".reason.txt")}
    assert not list(inbox.iterdir())
    assert not list(home.rglob("*.partial"))

    (tmp_path / "calm").mkdir()
    for number, name in enumerate(ledger):  # in the order in which they happened to be taken
        shutil.copy(tmp_path / "made" / name, tmp_path / "calm" / f"{number}.npz")
    assert follower(recipe, tmp_path / "calm", tmp_path / "whole").wait(timeout=300) == 0
    ours, theirs = (tmp_path / place for place in ("killed", "whole"))
    assert (ours / CURRENT).read_bytes() == (theirs / CURRENT).read_bytes()
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    records, others = (without_seconds(json.loads((place / RECORDS).read_text())) for place in (ours, theirs))
    assert records == others
    assert [record["examples"] for record in records] == [100] * MEGABATCHES
    state, metadata = load_packed(ours / CURRENT)
    kept = sum(int(state[name].count_nonzero()) for name in ("linear1.weight", "linear2.weight"))
    assert 1 - kept / (64 * 16 + 16 * 10) == pytest.approx(SPARSITY, abs=0.001)
    assert metadata["megabatch"] == str(MEGABATCHES)


def without_seconds(records: list[dict[str, object]]) -> list[dict[str, object]]:
    """The records without how long things took."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if not str(key).endswith("seconds")}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return [plain(record) for record in records]  # type: ignore[misc]
