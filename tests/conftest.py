"""What all tests share."""

import sys
from pathlib import Path

import pytest
import torch
from studies import write_study

# Fabric asks torchmetrics for its version, which loads transformers where it is installed: seconds for each worker
sys.modules["torchmetrics"] = None  # type: ignore[assignment]
import lightning_fabric  # noqa: E402, F401

del sys.modules["torchmetrics"]

# the networks here are tiny, and the order of a sum may not depend on the machine
torch.set_num_threads(1)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A small study that nobody trained."""
    return write_study(tmp_path / "study")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are empty: drawing them takes longest."""
    monkeypatch.setattr("prunus.report.drawing.Panel.svg", '<svg viewBox="0 0 9 9"></svg>')


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: what these tests write need not survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
