"""The plot of layers: heat maps of layers by methods, their sparsity and the weights they keep, per sparsity."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from prunus.report import wording
from prunus.report.cells import sparse_methods
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import halvings
from prunus.report.results import Results
from prunus.report.tables import layer_means

CAPTION = (
    "Each layer at the end, mean over seeds, from the input down: first its sparsity in %, coloured by how often the "
    "kept part was halved, then the weights that survive, coloured by their order of magnitude. × marks a layer that "
    "collapsed to one weight in some run."
)
COLOURS = colormaps["viridis_r"]
Values = NDArray[np.float64]


def layers_plot(results: Results) -> Plot:
    """For each requested sparsity the mean sparsity of every layer and the weights it keeps."""
    methods = sparse_methods(results)
    data = layer_means(results)
    means = data[data["method"].isin(methods)]
    layers = list(means.drop_duplicates("position").sort_values("position")["layer"])
    panels = []
    for requested, cells in means.groupby("requested_sparsity", sort=False, dropna=False):
        at = f"at {wording.sparsity(float(str(requested)))}"
        sparsity, kept = (grid(cells, value, methods, layers) for value in ("realised_sparsity", "kept"))
        marks = np.where(grid(cells, "collapsed", methods, layers) > 0, " ×", "")
        panels += [
            heat_map(f"sparsity {at}, %", halvings(sparsity), texts(sparsity, percentage, marks), methods, layers),
            heat_map(f"weights kept {at}", magnitude(kept), texts(kept, wording.count, marks), methods, layers),
        ]
    return Plot("layers", "Layers", CAPTION, data, panels)


def grid(cells: pd.DataFrame, value: str, methods: list[str], layers: list[str]) -> Values:
    """The values, a row per layer and a column per method; NaN where a method has no run."""
    table = cells.pivot(index="layer", columns="method", values=value).reindex(index=layers, columns=methods)
    return table.to_numpy(dtype=np.float64)


def magnitude(kept: Values) -> Values:
    """The decimal logarithm, of at least one weight."""
    return np.asarray(np.log10(np.maximum(kept, 1.0)), dtype=np.float64)


def percentage(sparsity: float) -> str:
    """A layer's sparsity in % without the sign."""
    return wording.zeros(sparsity, 1)


def texts(values: Values, text: Callable[[float], str], marks: "NDArray[np.str_]") -> list[list[str]]:
    """What the cells say; nothing where the method has no run."""
    return [
        ["" if math.isnan(value) else text(value) + mark for value, mark in zip(row, marked, strict=True)]
        for row, marked in zip(values, marks, strict=True)
    ]


def heat_map(title: str, heights: Values, text: list[list[str]], methods: list[str], layers: list[str]) -> Panel:
    """A column per method, a row per layer, every cell with its number."""
    names = max((len(layer) for layer in layers), default=0)
    longest = max((len(method) for method in methods), default=0)
    scale = Normalize(0.0, max(1e-9, float(np.nanmax(heights, initial=0.0))))

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.set_xticks(np.arange(len(methods)) + 0.5, methods, rotation=90)
        axes.set_yticks(np.arange(len(layers)) + 0.5, layers)
        axes.set_xlim(0, len(methods))
        axes.set_ylim(len(layers), 0)
        axes.xaxis.tick_top()
        axes.tick_params(labeltop=True, length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for row, layer in enumerate(layers):
            for column, method in enumerate(methods):
                if text[row][column]:
                    about = f"{HOVER}{method}, {layer}: {text[row][column]}"
                    cell(axes, row, column, COLOURS(scale(heights[row, column])), text[row][column], about)

    space = Space(left=0.064 * names + 0.12, bottom=0.04, right=0.04, top=0.064 * longest + 0.36)
    width = 0.43 * max(len(methods), 4) + space.left + space.right
    return Panel((width, 0.23 * len(layers) + space.bottom + space.top), draw, space)


def cell(axes: Axes, row: int, column: int, colour: tuple[float, float, float, float], text: str, about: str) -> None:
    """A square of this colour with its number in white or black, whichever stands out."""
    axes.add_patch(Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, color=colour, linewidth=0, gid=about))
    red, green, blue, _ = colour
    ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
    axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", color=ink, fontsize=7)
