"""What training holds in memory, counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from prunus.outcome import forget_peak_, peak_bytes
from prunus.runs import train

PARAMETERS = 4 * (64 * 16 + 16 + 16 * 10 + 10)
MASKS = 64 * 16 + 16 * 10
SGD = {"sgd": {"momentum": 0.9, "weight_decay": 1e-4}}


def held(directory: Path, **changes: Any) -> dict[str, int]:
    """The bytes that the training of a tiny run held."""
    (run,) = tiny(**changes).runs()
    found: dict[str, int] = train(run, directory, lambda progress: None)["training_bytes"]
    return found


def test_dense_holds_weights_gradients_and_momentum(tmp_path: Path) -> None:
    expected = dict.fromkeys(("parameters", "gradients", "optimizer"), PARAMETERS) | {"method": 0}
    assert held(tmp_path, method="dense") == expected


def test_an_optimizer_without_state_holds_none(tmp_path: Path) -> None:
    assert held(tmp_path, method="dense", optimizer={"sgd": {}})["optimizer"] == 0


def test_adam_holds_two_moments(tmp_path: Path) -> None:
    assert held(tmp_path, method="dense", optimizer={"adam": {}})["optimizer"] == pytest.approx(
        2 * PARAMETERS, rel=0.01
    )


@pytest.mark.parametrize(
    ("method", "added"),
    [
        ({"gmp": {"update_every": 2}}, MASKS),
        ({"dpf": {"update_every": 2}}, MASKS),
        ({"gsm": None}, MASKS),
        ({"snfs": {"update_every": 2}}, MASKS + 4 * MASKS),
        ({"str": {"initial": -4.0}}, 0),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_methods_add_a_byte_a_weight_and_what_they_remember(method: dict[str, Any], added: int, tmp_path: Path) -> None:
    assert held(tmp_path, method=method, optimizer=SGD)["method"] == added


def test_thresholds_are_parameters(tmp_path: Path) -> None:
    found = held(tmp_path, method={"str": {"initial": -4.0}}, optimizer=SGD)
    assert found["parameters"] == found["gradients"] == PARAMETERS + 2 * 4


def test_a_cpu_has_no_peak_of_its_own() -> None:
    forget_peak_(torch.device("cpu"))
    assert peak_bytes(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_on_a_gpu_begins_anew() -> None:
    device = torch.device("cuda", 0)
    torch.empty(1 << 22, device=device)
    forget_peak_(device)
    before = peak_bytes(device)
    assert before is not None
    torch.empty(1 << 20, device=device)
    assert peak_bytes(device) == before + (4 << 20)
