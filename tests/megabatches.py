"""The smallest stream: digits in three megabatches, each trained on for a few steps."""

from pathlib import Path
from typing import Any

from tiny import tiny
from torch import Tensor

from prunus.packing import load_packed
from prunus.recipes import Recipe
from prunus.runs import train
from prunus.start import MASKS, WEIGHTS
from prunus.state_file import read_state

SPARSITY = 0.63364  # 1 - 0.8 ** 4.5
MOMENTUM = {"sgd": {"momentum": 0.9, "weight_decay": 1e-3}}


def stream(anytime: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """The recipe of one run over a stream."""
    defaults = {"method": "snip", "sparsity": SPARSITY, "optimizer": MOMENTUM, "evaluations": 2}
    (run,) = tiny(**defaults | changes, anytime={"megabatches": 3} | (anytime or {})).runs()
    return run


def trained(directory: Path, anytime: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The result of such a run."""
    return train(stream(anytime, **changes), directory, lambda progress: None)


def weights_of(home: Path) -> dict[str, Tensor]:
    """The weights that a run has left."""
    return load_packed(home / WEIGHTS)[0]


def masks_of(home: Path) -> dict[str, Tensor]:
    """The masks that a run has left, at one bit a weight."""
    return read_state(home / MASKS)[0]
