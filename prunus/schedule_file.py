"""Files of learned schedules: JSON ``density-schedule/1`` and a CSV of the densities alone; json and csv are enough.

A document is the JSON object; what stands in a CSV is a document with ``density`` and nothing else.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from prunus.storage import write_atomically

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Densities = dict[str, tuple[float, ...]]

FORMAT = "density-schedule/1"
FIXED: dict[str, Json] = {
    "format": FORMAT,
    "rounding": "half_up",
    "min_active": 1,
    "regrow_init": "zero",
    "x": "update_fraction",
}
Kind = TypeVar("Kind", dict[str, Json], list[Json], str, int, float)
KINDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "a string", int: "a whole number", float: "a number"}
REMEDY = "export the schedule again"


def read_document(path: Path) -> dict[str, Json]:
    """The document in a file. Raises ValueError, in one line, for a file that is none."""
    if not path.is_file():
        raise ValueError(f"{path} must be a schedule file, found none; give the path of a .json or .csv")
    try:
        text = path.read_text()
        document: Json = (
            _columns(text, str(path)) if path.suffix == ".csv" else json.loads(text, parse_constant=_refuse)
        )
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must hold text that reads as {path.suffix[1:]}, got: {error}; {REMEDY}") from None
    if path.suffix == ".csv":
        return {"density": document}
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a mapping, found {type(document).__name__}; {REMEDY}")
    for key, expected in FIXED.items():
        if (found := document.get(key)) != expected:
            raise ValueError(f"{path}: {key} must be {expected!r}, found {found!r}; {REMEDY} in format {FORMAT}")
    return document


def write_document(path: Path, document: Mapping[str, Json]) -> None:
    """Write a document whole or not at all: as JSON, or, where ``path`` ends in .csv, its densities alone."""
    if path.suffix == ".csv":
        write_atomically(path, _rows(table(document, "density", str(path))))
        return
    write_atomically(path, json.dumps(FIXED | dict(document), allow_nan=False, indent=1) + "\n")


def member(values: Mapping[str, Json], key: str, kind: type[Kind], where: str) -> Kind:
    """What stands under ``key``. Raises ValueError where nothing does, or something of another kind."""
    if key not in values:
        raise ValueError(f"{where} must hold {key!r}, found {', '.join(values) or 'nothing'}; {REMEDY}")
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{where}: {key} must be {KINDS[kind]}, found {value!r}; {REMEDY}")
    return value  # type: ignore[return-value]


def table(values: Mapping[str, Json], key: str, where: str) -> Densities:
    """Lists of densities by name, under ``key``."""
    lists, place = member(values, key, dict, where), f"{where}: {key}"
    return {name: tuple(_density(one, f"{place}.{name}") for one in member(lists, name, list, place)) for name in lists}


def runs(column: Sequence[float]) -> list[Json]:
    """A column of densities as stretches ``[first, end, density]`` of equal ones, ``end`` not included."""
    found: list[Json] = []
    start = 0
    for density, equal in groupby(column):
        end = start + len(list(equal))
        found.append([start, end, density])
        start = end
    return found


def unrolled(values: Mapping[str, Json], key: str, where: str) -> Densities:
    """The columns that stretches ``[first, end, density]`` by name stand for, under ``key``."""
    lists, place = member(values, key, dict, where), f"{where}: {key}"
    return {name: tuple(_unroll(member(lists, name, list, place), f"{place}.{name}")) for name in lists}


def _unroll(stretches: list[Json], where: str) -> list[float]:
    column: list[float] = []
    for stretch in stretches:
        match stretch:
            case [int(first), int(end), int() | float() as density] if len(column) == first < end:
                column += [_density(density, where)] * (end - first)
            case _:
                raise ValueError(
                    f"{where} must hold stretches [first, end, density], each beginning where the last one ended, at "
                    f"{len(column)}; found {stretch!r}; {REMEDY}"
                )
    return column


def _density(value: Json, where: str) -> float:
    # not a number and infinity are outside as well
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{where} must hold densities in [0, 1], found {value!r}; {REMEDY}")
    return float(value)


def _refuse(constant: str) -> Json:
    raise ValueError(f"a schedule must hold finite numbers, found {constant}; {REMEDY}")


def _columns(text: str, where: str) -> dict[str, Json]:
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if header[:1] != ["update"] or len(header) < 2 or len(set(header)) < len(header):
        raise ValueError(f"{where} must begin with the columns update and one for each layer, found {header}; {REMEDY}")
    for number, row in enumerate(rows):
        if len(row) != len(header) or row[0] != str(number):
            raise ValueError(f"{where}: row {number} must hold {number} and {len(header) - 1} densities, found {row}")
    return {name: [_number(row[place]) for row in rows] for place, name in enumerate(header) if place}


def _number(text: str) -> Json:
    try:
        return float(text)
    except ValueError:
        return text  # whoever reads it as a density says what is wrong


def _rows(columns: Densities) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["update", *columns])
    writer.writerows([number, *row] for number, row in enumerate(zip(*columns.values(), strict=True)))
    return text.getvalue()
