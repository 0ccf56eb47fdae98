"""How figures look: a colour-blind safe colour, marker and line per method, and one axis for sparsities."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType
from numpy.typing import ArrayLike, NDArray

Line = Literal["-", "--", "-.", ":"]

# Okabe and Ito's palette without black, which is dense, and yellow, which vanishes on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# seven markers against six colours: 42 methods differ before a pair repeats
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Line, ...] = ("-", "--", "-.", ":")
DENSE = "#444444"
STYLE: dict[RcKeyType, object] = {
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
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


def handles(chosen: dict[str, Look]) -> list[Line2D]:
    """The legend's entries of these looks."""
    return [
        Line2D([], [], color=colour, marker=marker, linestyle=line, markersize=4, label=method)
        for method, (colour, marker, line) in chosen.items()
    ]
