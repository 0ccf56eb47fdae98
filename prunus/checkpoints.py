"""Checkpoints: all that a run needs to go on bit for bit, the newest two of them kept.

A file's name ends in the digest of its content, so that one cut off or spoilt is known before it is read.
"""

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from prunus import ranks
from prunus.prepare import Prepared
from prunus.storage import sync_directory, write_with

FORMAT = "prunus-checkpoint/1"
KEPT = 2  # the newest, and the one before it in case the newest is spoilt
DIGEST = 16  # hexadecimal digits


def snapshot(prepared: Prepared) -> dict[str, Any]:
    """The state of model, optimizer, method, loop, data, precision and random generators; for ``weights_only=True``."""
    return {
        "format": FORMAT,
        "model": prepared.model.state_dict(),
        "optimizer": prepared.training.optimizer.state_dict(),
        "sparsifier": prepared.sparsifier.state_dict() if prepared.sparsifier else None,
        "training": prepared.training.state_dict(),
        "stream": prepared.stream.state_dict(),
        "precision": prepared.precision.state_dict(),
        "evidence": prepared.evidence.passes,
        "generators": _generators(prepared.device),
        "threads": torch.get_num_threads(),
        "packing": prepared.packing.state_dict() if prepared.packing else None,
    }


def restore_(prepared: Prepared, state: dict[str, Any]) -> None:
    """Bring a freshly prepared run to the moment of `snapshot`."""
    if ranks.world_size() > 1:
        _settle_(prepared)
    prepared.model.load_state_dict(state["model"])
    prepared.training.optimizer.load_state_dict(state["optimizer"])
    if prepared.sparsifier is not None:
        prepared.sparsifier.load_state_dict(state["sparsifier"])
    prepared.training.load_state_dict(state["training"])
    prepared.stream.load_state_dict(state["stream"])
    prepared.precision.load_state_dict(state["precision"])
    prepared.evidence.passes = state["evidence"]
    if prepared.packing is not None and (known := state.get("packing")):  # none of one process, nor in older files
        prepared.packing.load_state_dict(known)
    _set_generators_(state["generators"], prepared.device)
    torch.set_num_threads(state["threads"])  # which share a sum among them, and its last bits follow


def _settle_(prepared: Prepared) -> None:
    """One backward pass for nothing, since DDP makes its buckets anew after the first: sums would have another order.

    What it changes is restored after it.
    """
    training = prepared.training
    inputs, targets = next(iter(prepared.evidence.make()))
    training.backward(training.loss(training.model(inputs), targets))


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``state`` as the newest checkpoint in ``folder`` and drop all but it and the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    partial_path = folder / "checkpoint.partial"
    write_with(partial_path, lambda file: write(file, state))
    partial_path.replace(folder / f"{step:010}-{_digest(partial_path)}.pt")
    sync_directory(folder)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def write(file: BinaryIO, state: dict[str, Any]) -> None:
    """Write ``state`` to ``file``. Raises OSError where the disk refuses it."""
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch notices that bytes are missing and hides why
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(folder: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole checkpoint in ``folder``, None where there is none; ``note`` hears of each that is not whole."""
    for path in _newest_first(folder):
        if path.stem.rpartition("-")[2] == _digest(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(
                    f"{path} must be of format {FORMAT!r}, got {state['format']!r} of another prunus; go on with that "
                    f"one, or remove {folder} to begin anew"
                )
            return state
        note(f"checkpoint {path} is cut off or spoilt (its digest is not the one in its name); using the one before it")
    return None


def remove(folder: Path) -> None:
    """Drop all checkpoints, once the run has its result."""
    shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST]


def _generators(device: torch.device) -> dict[str, Any]:
    # no draw of ours uses these; dropout, and whatever a plug-in does, may
    numpy_state: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in numpy_state],
    }


def _set_generators_(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
