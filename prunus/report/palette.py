"""How figures look: a colour-blind safe colour, marker and line per method, and one axis for sparsities."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axis import Axis
from matplotlib.typing import RcKeyType
from numpy.typing import ArrayLike, NDArray

Line = Literal["-", "--", "-.", ":"]

INK, MUTED, GRID, DENSE = "#20242a", "#656b74", "#e2e5e9", "#4a4f57"
# The hues of Okabe and Ito's palette, dark enough to be seen on white; without black, which is dense.
COLOURS = ("#00528c", "#c44c00", "#00805d", "#b0508f", "#946200", "#2792d6")
# Nearly viridis: on white the sparser is darker, on black it is lighter. Never quite viridis, whose own colours, those
# of heat maps, stay as they are on black.
LEVELS = ("#287d8f", "#2e6f8f", "#355f8e", "#3c4f8b", "#433e86", "#472a7b", "#48176a", "#440155")
ON_DARK: Mapping[str, str] = {
    **{INK: "#e6e8eb", MUTED: "#a0a7b1", GRID: "#31363e", DENSE: "#c3c9d1"},
    **dict(zip(COLOURS, ("#5c9eeb", "#ff8a4c", "#35c99b", "#ec9ccb", "#e8b64a", "#a5dfff"), strict=True)),
    **dict(
        zip(
            LEVELS,
            ("#21918c", "#1fa187", "#2db27d", "#4ac16d", "#73d056", "#a0da39", "#d0e11c", "#fde725"),
            strict=True,
        )
    ),
}
# seven markers against six colours: 42 methods differ before a pair repeats
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Line, ...] = ("-", "--", "-.", ":")
STYLE: dict[RcKeyType, object] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.labelsize": 8.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "prunus",
}
TICKS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 0.99999, 0.999999)


class Look(NamedTuple):
    """How one method is drawn."""

    colour: str
    marker: str
    line: Line


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look per method, by its place in ``methods``; the same list gives the same looks in every figure."""
    return {method: Look(COLOURS[i % 6], MARKERS[i % 7], LINES[i // 6 % 4]) for i, method in enumerate(methods)}


def levels(count: int) -> list[str]:
    """This many colours in order, far apart; beyond eight, neighbours share one."""
    return [LEVELS[round(7 * place / max(1, count - 1))] for place in range(count)]


def halvings(sparsity: ArrayLike) -> NDArray[np.float64]:
    """How often the kept part was halved, -log2(1 - sparsity): spreads 90, 95 and 98 % as training feels them."""
    # a floor, because a learned threshold may empty a layer
    kept = np.maximum(1 - np.asarray(sparsity, dtype=np.float64), 1e-7)
    return np.negative(np.log2(kept))


def sparsity_ticks(axis: Axis, sparsities: Sequence[float]) -> None:
    """Labels an axis in ``halvings`` by these sparsities."""
    axis.set_ticks([float(place) for place in halvings(sparsities)], [f"{100 * value:.6g}" for value in sparsities])


def usual_ticks(highest: float) -> list[float]:
    """The usual sparsities up to the first that is at least ``highest``."""
    return [tick for tick, below in zip(TICKS, (-1.0, *TICKS), strict=False) if below < highest]
