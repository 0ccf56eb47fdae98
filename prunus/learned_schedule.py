"""Learned schedules: a density for every layer and decision, as a plan and as a file; nobody has to learn to replay."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod
from pathlib import Path

from prunus import __version__
from prunus.budgets import Shapes
from prunus.masks import active_count
from prunus.schedule_file import Densities, Json, member, read_document, runs, table, unrolled, write_document

DIGITS = 6  # of a density in a file
MASK_INIT = {"rp-rr": "random", "mp-rr": "magnitude"}
UNSAID = ""
INTERPOLATIONS = ("previous", "linear")


@dataclass(frozen=True)
class LearnedLayer:
    """A layer that a schedule was learned on, and the bounds of its density."""

    name: str
    shape: tuple[int, ...]
    lowest: float = 0.0
    highest: float = 1.0


@dataclass(frozen=True)
class LearnedSchedule:
    """Densities by layer, one for each of K decisions: a plan, at any horizon and on other networks.

    Progress p takes number ``min(K - 1, floor(K * p))``, or, where ``interp`` is "linear", what lies between two. A
    layer is found by its name without ".weight", whatever its shape, else by its role: the first or last layer of the
    network, any other convolution ("conv") or linear layer. ``by_role`` holds the means of the layers of a role. With
    ``strict`` a layer of another name is an error, as is in any case one whose role nothing is known for.

    >>> LearnedSchedule({"conv1": (0.255, 0.5)})({"conv1.weight": (32, 3, 3, 3)}, 0.0)
    {'conv1.weight': 220}
    """

    density: Densities
    by_role: Densities = field(default_factory=dict)
    layers: tuple[LearnedLayer, ...] = ()
    method: str = ""
    mask_init: str = UNSAID
    delta_t: int = 100
    interp: str = "previous"
    created_by: str = ""
    provenance: dict[str, Json] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        columns = dict(chain(self.density.items(), ((f"role {role}", c) for role, c in self.by_role.items())))
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1 or not self.density or 0 in lengths:
            found = ", ".join(f"{name} {len(column)}" for name, column in columns.items()) or "none"
            raise ValueError(f"every layer and role must hold one density a decision, at least one, found {found}")
        if self.interp not in INTERPOLATIONS:
            raise ValueError(f"interp must be one of {', '.join(INTERPOLATIONS)}, found {self.interp!r}")
        if self.mask_init not in (UNSAID, *MASK_INIT.values()):
            raise ValueError(f"mask_init must be random or magnitude, found {self.mask_init!r}")
        if self.layers and (differing := self.density.keys() ^ {layer.name for layer in self.layers}):
            raise ValueError(f"layers and density must name the same layers, {min(differing)!r} is in one of them")
        for layer in self.layers:
            _check_bounds(layer, self.density[layer.name])

    @classmethod
    def of(
        cls,
        densities: Sequence[Sequence[float]],
        shapes: Shapes,
        *,
        bounds: Mapping[str, tuple[float, float]],
        method: str,
        delta_t: int,
        provenance: dict[str, Json],
    ) -> "LearnedSchedule":
        """The schedule of a table with a row for each decision and a column for each layer of ``shapes``, in order.

        Densities are rounded to six decimals. ``bounds`` holds the lowest and the highest density of each layer.
        """
        if any(len(row) != len(shapes) for row in densities):
            raise ValueError(
                f"every row must hold {len(shapes)} densities, one a layer, found {list(map(len, densities))}"
            )
        layers = tuple(LearnedLayer(_short(name), tuple(shape), *bounds[name]) for name, shape in shapes.items())
        columns = {
            layer.name: tuple(round(float(row[number]), DIGITS) for row in densities)
            for number, layer in enumerate(layers)
        }
        means = _means(columns, layers)
        return cls(columns, means, layers, method, MASK_INIT[method], delta_t, "previous", _author(), provenance)

    @classmethod
    def read(cls, path: str | Path, *, strict: bool = False) -> "LearnedSchedule":
        """The schedule in a file: JSON ``density-schedule/1``, or CSV, which knows no roles and no origin.

        Raises ValueError, in one line, for a file that is none.
        """
        where = str(path)
        try:
            document = read_document(Path(path))
            if Path(path).suffix == ".csv":
                return cls(table(document, "density", where), strict=strict)
            return replace(cls._of_document(document, where), strict=strict)
        except ValueError as error:
            raise error if str(error).startswith(where) else ValueError(f"{where}: {error}") from None

    @classmethod
    def _of_document(cls, document: Mapping[str, Json], where: str) -> "LearnedSchedule":
        columns = (unrolled if "segments" in document else table)(
            document, "segments" if "segments" in document else "density", where
        )
        updates = member(document, "num_updates", int, where)
        if differing := [name for name, column in columns.items() if len(column) != updates]:
            name = differing[0]
            raise ValueError(f"{where}: {name} must hold num_updates = {updates} densities, found {len(columns[name])}")
        default = member(document, "default", dict, where)
        return cls(
            columns,
            table(default, "by_role", f"{where}: default"),
            tuple(_layer(one, f"{where}: layers") for one in member(document, "layers", list, where)),
            member(document, "method", str, where),
            member(document, "mask_init", str, where),
            member(document, "delta_t", int, where),
            member(document, "interp", str, where),
            member({"created_by": ""} | dict(document), "created_by", str, where),
            member(document, "provenance", dict, where),
        )

    def write(self, path: str | Path, *, segments: bool = False) -> None:
        """Write the schedule whole or not at all; to a ``.csv`` goes the table alone.

        With ``segments`` equal densities in succession are one ``[first, end, density]``.
        """
        document: dict[str, Json] = {
            "created_by": self.created_by,
            "method": self.method,
            "mask_init": self.mask_init,
            "delta_t": self.delta_t,
            "num_updates": len(next(iter(self.density.values()))),
            "interp": self.interp,
            "layers": [_written(layer) for layer in self.layers],
            "segments" if segments else "density": _lists(self.density, runs if segments else list),
            "default": {"by_role": _lists(self.by_role, list)},
            "provenance": self.provenance,
        }
        write_document(Path(path), document)

    def compacted(self, tolerance: float = 0.005) -> "LearnedSchedule":
        """The schedule in steps: stretches whose densities differ by at most twice the tolerance hold their middle."""
        columns = {name: _steps(column, tolerance) for name, column in self.density.items()}
        return replace(self, density=columns, by_role=_means(columns, self.layers))

    def __call__(self, shapes: Shapes, progress: float) -> dict[str, int]:
        roles = _roles(shapes)
        columns = {name: self._column(name, roles[name]) for name in shapes}
        return {name: active_count(prod(shape), self._at(columns[name], progress)) for name, shape in shapes.items()}

    def _column(self, name: str, role: str) -> tuple[float, ...]:
        for known in (name, _short(name)):
            if known in self.density:
                return self.density[known]
        if self.strict or role not in self.by_role:
            held = self.density if self.strict else [*self.density, *(f"role {known}" for known in self.by_role)]
            remedy = "read it without strict, and layers go by their role" if self.strict else "give it a schedule"
            raise ValueError(
                f"the learned schedule must hold layer {name!r} (role {role}), it holds {', '.join(held)}; {remedy}"
            )
        return self.by_role[role]

    def _at(self, column: tuple[float, ...], progress: float) -> float:
        place = round(len(column) * min(max(progress, 0.0), 1.0), 9)  # 1 / 49 * 49 is just below 1
        number = min(len(column) - 1, math.floor(place))
        if self.interp == "previous" or number == len(column) - 1:
            return column[number]
        share = place - number
        return column[number] * (1.0 - share) + column[number + 1] * share


def _short(name: str) -> str:
    """A layer's name, of the name of its weight."""
    return name.removesuffix(".weight")


def _author() -> str:
    return f"prunus {__version__}"


def _roles(shapes: Shapes) -> dict[str, str]:
    roles = {name: "conv" if len(shape) > 2 else "linear" for name, shape in shapes.items()}
    *_, last = shapes
    return roles | {last: "last"} | {next(iter(shapes)): "first"}


def _means(columns: Densities, layers: Sequence[LearnedLayer]) -> Densities:
    """The mean density of the layers of each role at each decision."""
    members = defaultdict(list)
    for name, role in (_roles({layer.name: layer.shape for layer in layers}) if layers else {}).items():
        members[role].append(columns[name])
    return {
        role: tuple(round(math.fsum(row) / len(row), DIGITS) for row in zip(*held, strict=True))
        for role, held in members.items()
    }


def _steps(column: Sequence[float], tolerance: float) -> tuple[float, ...]:
    stretches: list[list[float]] = []
    for density in column:
        held = [*stretches[-1], density] if stretches else []
        if held and max(held) - min(held) <= 2 * tolerance:
            stretches[-1] = held
        else:
            stretches.append([density])
    return tuple(round((min(held) + max(held)) / 2, DIGITS) for held in stretches for _ in held)


def _check_bounds(layer: LearnedLayer, column: Sequence[float]) -> None:
    if not 0.0 <= layer.lowest <= layer.highest <= 1.0:
        raise ValueError(f"{layer.name} needs 0 <= min_d <= max_d <= 1, found {layer.lowest} and {layer.highest}")
    slack = 10.0**-DIGITS  # the bounds are not rounded
    for density in column:
        if not layer.lowest - slack <= density <= layer.highest + slack:
            raise ValueError(
                f"densities of {layer.name} must lie in its bounds [{layer.lowest}, {layer.highest}], found {density}"
            )


def _written(layer: LearnedLayer) -> dict[str, Json]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "numel": prod(layer.shape),
        "min_d": layer.lowest,
        "max_d": layer.highest,
    }


def _layer(value: Json, where: str) -> LearnedLayer:
    one = member({"layer": value}, "layer", dict, where)
    name, shape = member(one, "name", str, where), member(one, "shape", list, where)
    sides = tuple(side for side in shape if isinstance(side, int))
    if len(sides) < len(shape) or member(one, "numel", int, where) != prod(sides):
        raise ValueError(f"{where}.{name} must have a shape of numel whole numbers, found {shape} and {one['numel']}")
    return LearnedLayer(name, sides, member(one, "min_d", float, where), member(one, "max_d", float, where))


def _lists(columns: Densities, written: Callable[[Sequence[float]], list[Json]]) -> dict[str, Json]:
    return {name: written(column) for name, column in columns.items()}
