"""The plot of several studies: accuracy against sparsity, a panel per method and a line per study."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report.accuracy import draw_points, shifts
from prunus.report.across import merged, same_workload
from prunus.report.drawing import Panel, Plot, Space
from prunus.report.palette import Look, halvings, looks, sparsity_ticks
from prunus.report.results import Results
from prunus.report.swatches import swatch

SAME = (
    "Test accuracy, mean ± sample standard deviation over seeds, of each method in each study; the thin line is dense "
    "training in that study. All panels share their scale; a method that fewer studies have than others is left out."
)
OTHER = (
    "Test accuracy less that of dense training with the same seed in the same study, mean ± sample standard deviation "
    "of the pairs. All panels share their scale; a method that fewer studies have than others is left out."
)


def across_plot(studies: Sequence[Results]) -> Plot:
    """A panel per method: accuracy where the studies share their workload, else the distance to dense."""
    table = merged(studies)
    same = same_workload(studies)
    shown = table if same else table.assign(accuracy=table["change"], accuracy_sd=table["change_sd"], n=table["pairs"])
    look = looks([results.study for results in studies])
    sparse = shown[shown["name"] != "dense"]
    shared = sparse.groupby("method")["study"].nunique()
    methods = sorted(shared.index[shared == shared.max()])
    name = "test accuracy, %" if same else "points to dense"
    panels = [across_panel(method, shown, look, name, same) for method in methods]
    keys = {study: swatch(chosen) for study, chosen in look.items()}
    return Plot("side-by-side", "Accuracy against sparsity, by study", SAME if same else OTHER, table, panels, keys)


def across_panel(method: str, table: pd.DataFrame, look: dict[str, Look], name: str, same: bool) -> Panel:
    """One method in every study."""
    sparse = table[table["name"] != "dense"]
    dense = table[table["name"] == "dense"]

    def draw(axes: Axes) -> None:
        axes.set_title(method)
        shift = shifts(halvings(sparse["requested_sparsity"].dropna()), list(look))
        for study, chosen in look.items():
            points = sparse[(sparse["study"] == study) & (sparse["method"] == method)]
            points = points.sort_values("realised_sparsity")
            draw_points(axes, halvings(points["realised_sparsity"]) + shift[study], points, chosen, study)
            for level in dense.loc[(dense["study"] == study) & same, "accuracy"]:
                axes.axhline(100 * level, color=chosen.colour, linewidth=0.8, linestyle=chosen.line)
        sparsity_ticks(axes.xaxis, sorted(set(sparse["requested_sparsity"].dropna())))
        axes.set(xlabel="realised sparsity, %", ylabel=name, ylim=limits(table if same else sparse))
        axes.margins(x=0.08)

    return Panel((3.4, 2.5), draw, Space(left=0.58))


def limits(table: pd.DataFrame) -> tuple[float, float]:
    """The common range of the y-axis, in points."""
    middle, half = 100 * table["accuracy"], 100 * table["accuracy_sd"].fillna(0.0)
    low, high = float(np.nanmin(middle - half)), float(np.nanmax(middle + half))
    return low - 0.06 * (high - low) - 0.1, high + 0.06 * (high - low) + 0.1
