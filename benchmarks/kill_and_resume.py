"""Kill trainings at random moments, resume them, and compare what comes out with a training that nobody disturbed.

    python benchmarks/kill_and_resume.py [--kills 12] [--seed 0]

Every method trains a small network (convolution, BatchNorm, dropout; crop and flip, clipping, accumulation) on the
embedded digits, writing a checkpoint after every step so that many kills fall into the writing of one. SIGKILL comes
after a random time; the same call goes on from there, is killed again, and so on until it ends. Final weights and the
log must equal those of the undisturbed run byte for byte.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from prunus.methods import METHODS
from prunus.prepare import prepare
from prunus.recipes import Recipe, parse
from prunus.runs import train

WRITTEN = ("model.safetensors", "metrics.jsonl")


def small(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network with batch statistics and draws of its own, so that both must come back."""
    convolutions = [nn.Conv2d(input_shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 64, 16), nn.ReLU(), nn.Linear(16, classes))


def recipe(method: str) -> Recipe:
    """A run of ``method``."""
    study = {
        "data": "digits",
        "model": "small",
        "plugins": [__file__],
        "method": {method: {"dense": 0.5, "cycles": 2} if method == "imp" else {}},
        "steps": 40,
        "batch_size": 32,
        "accumulate": 2,
        "clip": 1.0,
        "augmentation": "crop-flip",
        "optimizer": {"sgd": {"momentum": 0.9, "weight_decay": 5e-4}},
        "learning_rate": {"cosine": {"initial": 0.1, "final": 0.0}},
        "evaluations": 8,
    }
    (run,) = parse(study).runs()
    return run


class Tally(NamedTuple):
    """What happened to one method: kills, those that left a file half written, runs that ended, and how many differ."""

    kills: int
    half_written: int
    runs: int
    differing: int


def torment(method: str, kills: int, chance: random.Random, folder: Path) -> Tally:
    """Kill trainings of ``method`` until ``kills`` have hit, and compare each one that ends."""
    run = recipe(method)
    span, wanted = undisturbed(run, folder / "undisturbed")
    hits = half_written = runs = differing = 0
    while hits < kills:
        directory = folder / str(runs)
        left = partial_files(directory)
        while killed(run, directory, chance.uniform(0.0, 0.6 * span)):
            hits += 1
            half_written += bool(partial_files(directory) - left)
            left = partial_files(directory)
        runs += 1
        differing += contents(run, directory) != wanted
    return Tally(hits, half_written, runs, differing)


def partial_files(directory: Path) -> set[Path]:
    """Files that a killed training was writing; each has the number of its process in its name."""
    return set(directory.rglob("*.partial"))


def undisturbed(run: Recipe, directory: Path) -> tuple[float, list[bytes]]:
    """Seconds that a whole training takes, and what it writes."""
    began = time.monotonic()
    child = start(run, directory)
    assert os.waitpid(child, 0)[1] == 0, "the undisturbed training failed"
    return time.monotonic() - began, contents(run, directory)


def killed(run: Recipe, directory: Path, delay: float) -> bool:
    """Whether a training was still at work when SIGKILL came after ``delay`` seconds."""
    child = start(run, directory)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, "a resumed training failed"
    return os.WIFSIGNALED(status)


def start(run: Recipe, directory: Path) -> int:
    """The process number of a training in a process of its own."""
    child = os.fork()  # torch is loaded already, which a fresh interpreter would take seconds for
    if child:
        return child
    try:
        train(run, directory, lambda progress: None, checkpoint_every=0.0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def contents(run: Recipe, directory: Path) -> list[bytes]:
    """The final weights and the log."""
    return [(directory / run.name() / name).read_bytes() for name in WRITTEN]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a method; 1 where a resumed training differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="of each method, at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    prepare(recipe("gmp"))  # so that each training finds all modules loaded
    chance = random.Random(options.seed)
    print(f"torch {torch.__version__}\n{'method':<12}kills  half-written  runs ended  differing")
    tallies = []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            tally = torment(method, options.kills, chance, Path(folder))
        print(f"{method:<12}{tally.kills:5}{tally.half_written:14}{tally.runs:12}{tally.differing:11}", flush=True)
        tallies.append(tally)
    kills, half_written, runs, differing = (sum(column) for column in zip(*tallies, strict=True))
    print(f"{'all':<12}{kills:5}{half_written:14}{runs:12}{differing:11}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
