"""The multiply-accumulates of training, counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from prunus.loop import Progress
from prunus.operations import Operations
from prunus.runs import train

HALF = {"a": torch.tensor([True, False])}
ALL = {"a": torch.tensor([True, True])}


def silent(progress: Progress) -> None:
    """Nobody listens."""


def test_masks_that_jump_cost_what_they_were_until_then() -> None:
    operations = Operations(100, {"a": 60})
    operations.count_(ALL, 0, jumped=False)
    operations.count_(HALF, 10, jumped=True)
    operations.count_(HALF, 30, jumped=False)
    assert operations.forward == 10 * 100 + 20 * 70
    assert operations.training(5, dense_gradients=0, extra=0) == 5 * 3 * 2400
    assert operations.training(5, dense_gradients=30, extra=0) == 5 * (2 * 2400 + 3000)
    assert operations.training(5, dense_gradients=15, extra=4) == 5 * (2 * 2400 + 2700) + 3 * 4 * 100
    assert operations.dense(5) == 5 * 3 * 3000


def test_masks_that_move_are_on_a_line_between_two_counts() -> None:
    operations = Operations(100, {"a": 60})
    operations.count_(ALL, 0, jumped=False)
    operations.count_(HALF, 10, jumped=False)
    assert operations.forward == 10 * 85


WEIGHTS = 64 * 16 + 16 * 10


@pytest.mark.parametrize("evaluations", [1, 20])
@pytest.mark.parametrize(
    ("method", "kept", "dense"),
    [
        ("dense", [1.0] * 20, 20),
        ("magnitude", [0.1] * 20, 0),
        ("gsm", [1.0] * 20, 20),
        ({"one-shot": {"at": 0.25}}, [1.0] * 5 + [0.1] * 15, 0),
        ({"bimp": {"dense": 0.5, "cycles": 1}}, [1.0] * 10 + [0.1] * 10, 0),
        ("dnw", [0.1] * 20, 20),
        ({"snip": {}}, [0.1] * 20, 0),
    ],
    ids=str,
)
def test_a_run_counts_its_steps_however_often_it_is_evaluated(
    method: Any, kept: list[float], dense: int, evaluations: int, tmp_path: Path
) -> None:
    run = next(tiny(method=method, steps=20, evaluations=evaluations, signal_batches=2).runs())
    result = train(run, tmp_path, silent)
    forward = sum(kept)
    of_weights = forward + dense / 20 * (20 - forward)
    passes = 2 if "snip" in run.method else 0
    expected = 32 * WEIGHTS * (2 * forward + of_weights + 3 * passes)
    assert result["training_macs"] == pytest.approx(expected, rel=5e-3)
    assert result["training_macs_dense"] == 32 * WEIGHTS * 3 * 20
