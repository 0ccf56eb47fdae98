"""Budgets: ``(shapes, sparsity) -> counts``; how many weights of each layer stay, from shapes alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import floor, prod

from prunus.masks import check_sparsity, keep_count

Shapes = Mapping[str, tuple[int, ...]]
Budget = Callable[[Shapes, float], dict[str, int]]


def uniform_counts(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """The same sparsity in every layer."""
    return {name: keep_count(prod(shape), sparsity) for name, shape in shapes.items()}


def uniform_plus_counts(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Gale et al. 2019: uniform, but the first convolution stays dense and the last linear keeps at least 20 %.

    The other layers bear what these two do not. Raises ValueError where they cannot.
    """
    check_sparsity(sparsity)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    first = next((name for name, shape in shapes.items() if len(shape) > 2), None)
    last = next((name for name, shape in reversed(list(shapes.items())) if len(shape) == 2), None)
    dropped = sum(sizes.values()) - keep_count(sum(sizes.values()), sparsity)
    dense = {first: 0.0} if first else {}
    middle = _spread(sizes, dense, dropped)
    if last and middle > 0.8:
        dense[last] = 0.8
        middle = _spread(sizes, dense, dropped)
    return {name: keep_count(size, dense.get(name, middle)) for name, size in sizes.items()}


@dataclass(frozen=True)
class ErdosRenyi:
    """Density in proportion to sum(shape) / prod(shape), with at most 1; what dense layers leave goes to the others.

    ``kernel=True`` counts the kernel's dimensions (ERK, Evci et al. 2020, Sec. 3.1), False only channels (ER, Mocanu et
    al. 2018, Eq. 3). The weights to keep are ``(1 - sparsity) * n`` as in LAMP's code; ``floor_layers=True`` rounds
    each layer's dropped share down first, as RigL's code does, and keeps up to one weight a layer more.
    """

    kernel: bool = True
    floor_layers: bool = False

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, int]:
        check_sparsity(sparsity)
        sizes = {name: prod(shape) for name, shape in shapes.items()}
        raw = {name: sum(part) / prod(part) for name, part in self._parts(shapes).items()}
        dense: set[str] = set()
        while scale := self._scale(sizes, raw, dense, sparsity):
            highest = max(raw[name] for name in sizes if name not in dense)
            if scale * highest <= 1.0:
                break
            dense |= {name for name in sizes if raw[name] == highest}
        return {name: n if name in dense else keep_count(n, 1.0 - scale * raw[name]) for name, n in sizes.items()}

    def _parts(self, shapes: Shapes) -> Shapes:
        return shapes if self.kernel else {name: shape[:2] for name, shape in shapes.items()}

    def _scale(self, sizes: Mapping[str, int], raw: Mapping[str, float], dense: set[str], sparsity: float) -> float:
        free = [name for name in sizes if name not in dense]
        dropped = sum(floor(sparsity * n) if self.floor_layers else sparsity * n for n in sizes.values())
        kept = sum(sizes.values()) - dropped - sum(sizes[name] for name in dense)
        return kept / sum(raw[name] * sizes[name] for name in free) if free else 0.0


@dataclass(frozen=True)
class LayerTable:
    """Sparsities by glob, the first match counts; layers without a match share what is left, uniformly.

    Below the sparsity of the table itself (under way in a schedule) its entries shrink in proportion. Raises ValueError
    for a glob without a layer and for a sparsity that the other layers cannot bear.
    """

    entries: tuple[tuple[str, float], ...]

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, int]:
        check_sparsity(sparsity)
        sizes = {name: prod(shape) for name, shape in shapes.items()}
        pinned = self._pinned(shapes)
        wanted = sparsity * sum(sizes.values())
        held = sum(value * sizes[name] for name, value in pinned.items())
        if held > wanted:
            pinned = {name: value * wanted / held for name, value in pinned.items()}
        rest = _spread(sizes, pinned, wanted)
        return {name: keep_count(size, pinned.get(name, rest)) for name, size in sizes.items()}

    def _pinned(self, shapes: Shapes) -> dict[str, float]:
        for glob, value in self.entries:
            check_sparsity(value)
            if not any(fnmatchcase(name, glob) for name in shapes):
                raise ValueError(f"layer glob {glob!r} matches none of {', '.join(shapes)}")
        matches = {name: [v for glob, v in self.entries if fnmatchcase(name, glob)] for name in shapes}
        return {name: values[0] for name, values in matches.items() if values}


def fitted(counts: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """The same sum of counts with no layer above its room: what one cannot hold goes to the others by their free room.

    >>> fitted({"a": 5, "b": 5, "c": 5}, {"a": 2, "b": 6, "c": 10})
    {'a': 2, 'b': 6, 'c': 7}
    """
    held = {name: min(count, room[name]) for name, count in counts.items()}
    missing, free = sum(counts.values()) - sum(held.values()), sum(room[name] - held[name] for name in held)
    for name in held:  # each its part of what is left, so that nothing is lost to rounding
        part = floor(missing * (room[name] - held[name]) / free + 0.5) if free else 0
        missing, free = missing - part, free - (room[name] - held[name])
        held[name] += part
    return held


def _spread(sizes: Mapping[str, int], fixed: Mapping[str, float], dropped: float) -> float:
    """The sparsity of the layers that are not fixed when ``dropped`` weights must go in all."""
    rest = sum(size for name, size in sizes.items() if name not in fixed)
    due = max(0.0, dropped - sum(value * sizes[name] for name, value in fixed.items()))
    if rest == 0 and due <= 0.5 * len(sizes):
        return 0.0
    if rest == 0 or due >= rest:
        total = sum(sizes.values())
        raise ValueError(
            f"a sparsity of {dropped / total:.4g} leaves {due:.0f} weights to drop for {rest} in the layers not "
            f"fixed; lower the sparsity or raise that of the fixed layers ({', '.join(fixed)})"
        )
    return due / rest
