"""The reliability diagrams: accuracy against confidence, a panel per method."""

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.cells import sparse_methods
from prunus.report.curves import by_level
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import DENSE, GRID, MUTED
from prunus.report.results import Results
from prunus.report.tables import records, reference, reliability, summarise

LEAST = 20  # predictions in a bin below which chance decides where it lies
CAPTION = (
    "Reliability diagrams on the test set: of the predictions made with this confidence, how many were right. On the "
    "diagonal a network knows how sure it may be; below it, it is too sure. A dot is one of 15 bins of equal width, "
    "pooled over seeds, its area the share of examples in it; bins of fewer than 20 are not joined. ECE, the expected "
    "calibration error in points, is the mean distance from the diagonal over examples, ± sd over seeds. Dense is grey."
)


def calibration_plot(results: Results) -> Plot:
    """A panel per method, a line for each requested sparsity."""
    bins = reliability(results)
    dense = bins[bins["method"] == reference(results.runs)]
    errors = summarise(results)
    colours = by_level(errors.loc[errors["name"] != "dense", "requested_sparsity"])
    least = float(bins["confidence"].min()) if len(bins) else 0.0
    methods = sparse_methods(results) or list(dense["method"].unique())
    panels = [
        calibration_panel(
            method, bins[bins["method"] == method], dense, errors[errors["method"] == method], colours, least
        )
        for method in methods
        if method in set(bins["method"])
    ]
    return Plot("calibration", "Calibration", CAPTION, bins, panels)


def calibration_panel(
    method: str, bins: pd.DataFrame, dense: pd.DataFrame, errors: pd.DataFrame, colours: dict[float, str], least: float
) -> Panel:
    """One method."""

    def draw(axes: Axes) -> None:
        axes.set_title(method)
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8, linestyle="--")
        draw_bins(axes, "dense", dense, DENSE)
        for level, colour in colours.items():
            chosen = bins[bins["requested_sparsity"].fillna(-1.0) == level]
            draw_bins(axes, method, chosen, colour)
        write_errors(axes, errors, colours)
        low = max(0.0, 100 * least - 5)
        axes.set(xlim=(low, 102), ylim=(max(0.0, low - 10), 103), xlabel="confidence, %", ylabel="accuracy, %")
        axes.grid(color=GRID)

    return Panel((2.5, 2.5), draw, Space(left=0.52))


def draw_bins(axes: Axes, method: str, bins: pd.DataFrame, colour: str) -> None:
    """The bins of one method at one sparsity, joined by a line."""
    joined = bins[bins["n"] >= LEAST]
    axes.plot(100 * joined["confidence"], 100 * joined["accuracy"], color=colour, linewidth=1)
    for row in records(bins):
        width = (5 + 90 * row["n"] / bins["n"].sum()) ** 0.5
        place = (100 * row["confidence"], 100 * row["accuracy"])
        (dot,) = axes.plot(*place, "o", color=colour, markersize=width, markeredgewidth=0)
        dot.set_gid(
            f"{HOVER}{method} at {wording.sparsity(row['requested_sparsity'])}: of {row['n']:,} predictions with "
            f"confidence {wording.percent(row['confidence'], 1)} % were right {wording.percent(row['accuracy'], 1)} %"
        )


def write_errors(axes: Axes, errors: pd.DataFrame, colours: dict[float, str]) -> None:
    """The calibration error at each sparsity, in its line's colour, in the corner below the diagonal."""
    for place, row in enumerate(reversed(records(errors))):
        colour = colours.get(-1.0 if pd.isna(row["requested_sparsity"]) else row["requested_sparsity"], DENSE)
        error = wording.spread(100 * row["calibration_error"], 100 * row["calibration_error_sd"], row["n"], 1)
        text = f"{wording.sparsity(row['requested_sparsity'])}: ECE {error}"
        axes.text(0.98, 0.04 + 0.085 * place, text, transform=axes.transAxes, ha="right", color=colour, fontsize=8)
