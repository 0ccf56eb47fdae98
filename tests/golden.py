"""The golden numbers of ``golden/*.json``; each file names its source."""

import json
from pathlib import Path
from typing import Any


def golden(name: str) -> dict[str, Any]:
    """The numbers of one file."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    return found
