"""The figure of test accuracy against sparsity: mean ± sd per method, dense as a band."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prunus.report.cells import sparse_methods
from prunus.report.palette import DENSE, Look, halvings, handles, looks, sparsity_ticks
from prunus.report.results import Results
from prunus.report.tables import CELL, records, reference, summarise

LEAST_RANGE = 5.0  # points below which one panel always suffices
COLUMNS = [*CELL, "name", "realised_sparsity", "accuracy", "accuracy_sd", "n"]


def accuracy_data(results: Results) -> pd.DataFrame:
    """What the figure shows: a row per requested sparsity and method, dense included."""
    return summarise(results)[COLUMNS]


def accuracy_figure(results: Results) -> Figure:
    """Mean ± sd at the realised sparsity; where few points fall far below, a second panel shows those near the top."""
    table = accuracy_data(results)
    sparse = table[table["name"] != "dense"]
    dense = table[table["method"] == reference(results.runs)]
    look = looks(sparse_methods(results))
    floor = close_up(sparse["accuracy"], 100 * float(table["accuracy"].max()))
    figure = Figure(figsize=(7.5 if floor is None else 11.0, 4.2))
    panels = figure.subplots(1, 1 if floor is None else 2, squeeze=False)[0]
    for panel in panels:
        draw_dense(panel, dense)
        draw_methods(panel, sparse, look)
        label_axes(panel, sorted(set(sparse["requested_sparsity"].dropna())))
    panels[0].set_ylabel("test accuracy, %")
    if floor is not None:
        panels[0].set_title("all", loc="left")
        panels[1].set_title("close-up", loc="left")
        panels[1].set_ylim(floor, 100 * (table["accuracy"] + table["accuracy_sd"].fillna(0.0)).max() + 0.1)
    figure.legend(handles=[*band(dense), *handles(look)], loc="outside right upper")
    return figure


def band(dense: pd.DataFrame) -> list[Patch]:
    """The legend's entry for dense."""
    return [
        Patch(color=DENSE, alpha=0.3, label="dense" + (", mean ± sd" if row["n"] > 1 else "")) for row in records(dense)
    ]


def close_up(accuracy: "pd.Series[float]", top: float) -> float | None:
    """The lower limit in % of a second panel on a scale at least three times as fine; None where none is needed.

    It leaves out the worst tenth of the means, the worst quarter or half: as few as give that scale.
    """
    for left_out in (0.1, 0.25, 0.5):
        floor = 100 * float(accuracy.quantile(left_out, interpolation="higher"))
        floor -= 0.1 * (top - floor) + 0.1
        if top - 100 * accuracy.min() > max(3 * (top - floor), LEAST_RANGE):
            return floor
    return None


def draw_dense(panel: Axes, dense: pd.DataFrame) -> None:
    """A line at dense accuracy in a band of its sd."""
    for row in records(dense):
        middle, half = 100 * row["accuracy"], 100 * row["accuracy_sd"]
        panel.axhspan(middle - np.nan_to_num(half), middle + np.nan_to_num(half), color=DENSE, alpha=0.18, linewidth=0)
        panel.axhline(middle, color=DENSE, linewidth=1)


def draw_methods(panel: Axes, sparse: pd.DataFrame, look: dict[str, Look]) -> None:
    """A line with error bars per method, shifted sideways by its place so that none hides another."""
    shift = shifts(sparse["requested_sparsity"], list(look))
    for method, (colour, marker, line) in look.items():
        points = sparse[sparse["method"] == method].sort_values("realised_sparsity")
        bars = panel.errorbar(
            halvings(points["realised_sparsity"]) + shift[method],
            100 * points["accuracy"],
            yerr=100 * points["accuracy_sd"],
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=4.5,
            linewidth=0.7,
            elinewidth=1.2,
            capsize=2.5,
        )
        bars.lines[0].set_markeredgewidth(0)


def shifts(requested: "pd.Series[float]", methods: list[str]) -> dict[str, float]:
    """A sideways shift per method, in all at most half the smallest distance between two requested sparsities."""
    places = np.unique(halvings(requested.dropna()))
    width = min(0.5 * float(np.diff(places).min(initial=1.0)), 0.06 * len(methods))
    return {method: ((place + 0.5) / len(methods) - 0.5) * width for place, method in enumerate(methods)}


def label_axes(panel: Axes, requested: list[float]) -> None:
    """Ticks at the requested sparsities."""
    sparsity_ticks(panel.xaxis, requested)
    panel.set_xlabel("realised sparsity, % (methods shifted sideways a little)")
    panel.margins(x=0.06, y=0.08)
