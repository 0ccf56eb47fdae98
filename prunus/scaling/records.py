"""The records of a study's cells, as they lie in its directory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunus.scaling.trials import Cell, of_plain

CELLS, RECORD = "cells", "cell.json"


def read_cells(directory: Path) -> list[dict[str, Any]]:
    """The records of a study's cells, those that are done. Raises ValueError where there is none."""
    records = [json.loads(path.read_text()) for path in sorted((directory / CELLS).glob(f"*/{RECORD}"))]
    if not records:
        raise ValueError(f"{directory} must hold cells that are done, and has none; prunus scaling run makes them")
    return records


def cells_with_repeats(records: Sequence[dict[str, Any]]) -> list[Cell]:
    """The searched cells and their repeats, whose seeds tell them apart."""
    return [of_plain(plain) for record in records for plain in (record["cell"], *record["repeats"])]
