"""The records of a study's cells, as they lie in its directory."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from prunus.scaling.metaparameters import LINEAR_DECAY, FromOne, Logarithmic, Metaparameter, Space, Whole
from prunus.scaling.trials import Cell, of_plain

CELLS, RECORD, FORMAT = "cells", "cell.json", "prunus-cell/1"
SIGNALS = "signals"  # what probes found before training
STUDY = "cells.json"  # the names of the cells of a study
# how a range is spread that is not one of rates
KINDS: Mapping[str, type[FromOne | Whole]] = {"momentum": FromOne, "decay_steps": Whole}


class Place(NamedTuple):
    """Which cell of a study."""

    optimizer: str
    sparsity: float
    batch_size: int
    seed: int


def place(cell: Cell) -> Place:
    """Where a cell stands in its study."""
    return Place(cell.optimizer, cell.sparsity, cell.batch_size, cell.seed)


def read_cells(directory: Path) -> list[dict[str, Any]]:
    """The records of the cells of the study that was run last in ``directory``, those that are done.

    Raises ValueError where there is none, or one of another format.
    """
    told = directory / STUDY
    names = json.loads(told.read_text(encoding="utf-8"))["cells"] if told.is_file() else None
    paths = sorted((directory / CELLS).glob(f"*/{RECORD}"))
    paths = [path for path in paths if names is None or path.parent.name in names]  # not those of a recipe before
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    if not records:
        raise ValueError(f"{directory} must hold cells that are done, and has none; prunus scaling run makes them")
    for path, record in records.items():
        if record.get("format") != FORMAT:
            raise ValueError(f"{path} must be of format {FORMAT!r}, got {record.get('format')!r}; measure it again")
    return list(records.values())


def planned(recipe: Mapping[str, Any]) -> list[Place]:
    """The cells that a study's resolved recipe stands for; dense has sparsity 0 alone."""
    scaling, names = recipe["scaling"], set(recipe["method"])
    sparsities = [0.0] * ("dense" in names) + list(recipe["sparsity"]) * bool(names - {"dense"})
    found = product(scaling["optimizers"], sparsities, scaling["batch_sizes"], recipe["seed"])
    return [Place(*each) for each in found]


def space(ranges: Mapping[str, Mapping[str, Any] | None]) -> Space:
    """The ranges of an optimizer as a resolved recipe has them; null for those of Lee et al. 2021."""
    return {name: _range(name, bounds) for name, bounds in ranges.items()}


def _range(name: str, bounds: Mapping[str, Any] | None) -> Metaparameter:
    if bounds is None:
        return LINEAR_DECAY[name]
    found: Metaparameter = KINDS.get(name, Logarithmic)(**bounds)
    return found


def cells_with_repeats(records: Sequence[dict[str, Any]]) -> list[Cell]:
    """The searched cells and their repeats, whose seeds tell them apart."""
    return [of_plain(plain) for record in records for plain in (record["cell"], *record["repeats"])]
