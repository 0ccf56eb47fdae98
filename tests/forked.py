"""The command line on two ranks that share this process's imports, as torchrun would start them; jobs come as JSON."""

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from prunus import ranks
from prunus.cli import main
from prunus.data import load
from prunus.masks import masks_hash
from prunus.prepare import prepare
from prunus.recipes import read

RANKS = 2
PATIENCE = 60.0  # seconds


def quality(path: str) -> int:
    """Prints what this rank has after training, and the sizes of its shares of a batch and of the test images."""
    ranks.start_()
    (recipe,) = read(Path(path)).runs()
    prepared = prepare(recipe, watched=True)
    prepared.training.run()
    assert prepared.sparsifier is not None
    prepared.sparsifier.finalize()
    said: dict[str, object] = {"masks": masks_hash(prepared.sparsifier.masks)}
    said["trained"] = str(prepared.quality(prepared.test))
    if recipe.recalibrate:
        prepared.watch.recalibrate_()
    said["statistics"] = [float(buffer.double().sum()) for buffer in prepared.model.buffers()]
    said["recalibrated"] = str(prepared.quality(prepared.test))
    said["shares"] = [len(next(prepared.stream)[1]), len(prepared.test)]
    print(json.dumps(said))
    return 0


def rank(number: int, port: int, job: dict[str, Any]) -> None:
    """One rank; it does not return."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)} | job.get("environment", {})
    os.dup2(os.open(f"{number}.out", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)
    os.dup2(os.open(f"{number}.err", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    code = 1
    try:
        code = quality(job["quality"]) if "quality" in job else main(job["command"])
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(job: dict[str, Any]) -> dict[str, Any]:
    """What the ranks said and how they ended: when one fails the others are ended, as torchrun does it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    running = {}
    for number in range(RANKS):
        if (process := os.fork()) == 0:
            rank(number, port, job)
        running[process] = number
    codes: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
        hung = time.monotonic() > deadline
        if hung or (process and status):
            for other in running:
                os.kill(other, signal.SIGKILL if hung else signal.SIGTERM)
        time.sleep(0.01)
    texts = {end: [Path(f"{number}.{end}").read_text() for number in range(RANKS)] for end in ("out", "err")}
    return job | {"codes": [codes[number] for number in range(RANKS)], **texts}


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    jobs = json.loads(sys.argv[1])
    for module in ("torch._dynamo", "prunus.check", "prunus.compare", "prunus.display"):
        import_module(module)  # here once, and not in each rank
    load("digits")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps([launch(job) for job in jobs]))
