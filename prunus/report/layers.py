"""The figure of per-layer sparsity: a heat map of layers by methods for every requested sparsity."""

import math

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from prunus.report import wording
from prunus.report.cells import sparse_methods
from prunus.report.palette import halvings, sparsity_ticks
from prunus.report.results import Results
from prunus.report.tables import layer_means

MOST_COLUMNS = 24
DECADES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
COLOURS = colormaps["viridis_r"]


def layers_figure(results: Results) -> Figure:
    """Mean sparsity of every layer, colour by how often the kept part was halved; × marks a layer that collapsed."""
    methods = sparse_methods(results)
    means = layer_means(results)
    means = means[means["method"].isin(methods)]
    groups = list(means.groupby("requested_sparsity", sort=False, dropna=False))
    layers = list(means.drop_duplicates("position").sort_values("position")["layer"])
    columns = max(1, min(len(groups), MOST_COLUMNS // max(1, len(methods))))
    rows = max(1, math.ceil(len(groups) / columns))
    figure = Figure(figsize=(0.46 * len(methods) * columns + 2.6, (0.22 * len(layers) + 1.1) * rows))
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    scale = Normalize(0.0, float(halvings(means["realised_sparsity"].max())) if len(means) else 1.0)
    for panel, (requested, cells) in zip(panels, groups, strict=False):
        panel.set_title(wording.sparsity(float(str(requested))))
        draw(panel, cells, methods, layers, scale)
    for spare in panels[len(groups) :]:
        spare.set_axis_off()
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=panels[:columns], label="sparsity, %")
    sparsity_ticks(bar.ax.yaxis, [tick for tick in DECADES if scale(halvings(tick)) <= 1])
    return figure


def draw(panel: Axes, cells: pd.DataFrame, methods: list[str], layers: list[str], scale: Normalize) -> None:
    """One heat map: a column per method, a row per layer from the input down, every cell with its number."""
    table = cells.pivot(index="layer", columns="method", values="realised_sparsity").reindex(layers)
    values = table.reindex(columns=methods).to_numpy(dtype=np.float64)
    heights = halvings(values)
    panel.pcolormesh(np.ma.masked_invalid(heights), cmap=COLOURS, norm=scale, edgecolors="white", linewidth=0.8)
    panel.set_xticks(np.arange(len(methods)) + 0.5, methods, rotation=90)
    panel.set_yticks(np.arange(len(layers)) + 0.5, layers)
    panel.set_ylim(len(layers), 0)
    panel.xaxis.tick_top()
    panel.xaxis.set_tick_params(labeltop=True, length=0)
    panel.yaxis.set_tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    collapsed = set(cells.loc[cells["collapsed"] > 0, ["layer", "method"]].itertuples(index=False, name=None))
    for row, layer in enumerate(layers):
        for column, method in enumerate(methods):
            text = cell_text(values[row, column], (layer, method) in collapsed)
            colour = "white" if scale(heights[row, column]) > 0.55 else "black"
            panel.text(column + 0.5, row + 0.52, text, ha="center", va="center", color=colour, fontsize=7)


def cell_text(sparsity: float, collapsed: bool) -> str:
    """A cell's number in %; nothing where the method has no run."""
    return "" if math.isnan(sparsity) else wording.zeros(sparsity, 1) + (" ×" if collapsed else "")
