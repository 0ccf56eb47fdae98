"""The figures over training time: validation accuracy per sparsity, and sparsity per method."""

import math

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunus.report import wording
from prunus.report.cells import sparse_methods
from prunus.report.palette import DENSE, Look, halvings, handles, looks, sparsity_ticks, usual_ticks
from prunus.report.results import IDENTITY, Results
from prunus.report.tables import curve_means, reference


def learning_data(results: Results) -> pd.DataFrame:
    """What the learning curves show: a row per run and logged step."""
    return results.curves[[*IDENTITY, "step", "epoch", "learning_rate", "loss", "accuracy", "nll"]]


def sparsity_data(results: Results) -> pd.DataFrame:
    """What the sparsity curves show: a row per run and logged step."""
    return results.curves[[*IDENTITY, "step", "epoch", "realised_sparsity"]]


def grid(panels: int, height: float, *, common: bool) -> tuple[Figure, list[Axes]]:
    """A figure of this many panels of this height in inches, near a square; with ``common`` they share the y-axis."""
    columns = max(1, panels if panels <= 3 else math.ceil(panels**0.5))
    rows = max(1, math.ceil(panels / columns))
    figure = Figure(figsize=(3.0 * columns + 1.6, height * rows + 0.3))
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=common, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_axis_off()
    # the last panel of a column names the axis, although the row below has an empty place there
    for panel in axes[max(0, panels - columns) : panels]:
        panel.xaxis.set_tick_params(labelbottom=True)
        panel.set_xlabel("epoch")
    return figure, axes[:panels]


def learning_figure(results: Results) -> Figure:
    """Validation accuracy over epochs, a panel per requested sparsity: means over seeds, seeds thin, dense in each."""
    sparse = results.curves[results.curves["method"].isin(sparse_methods(results))]
    dense = results.curves[results.curves["method"] == reference(results.runs)]
    look = looks(sparse_methods(results))
    groups = list(sparse.groupby("requested_sparsity", sort=False, dropna=False))
    figure, panels = grid(len(groups), 2.5, common=False)
    for panel, (requested, curves) in zip(panels, groups, strict=True):
        panel.set_title(f"{wording.sparsity(float(str(requested)))} sparsity", loc="left")
        draw(panel, dense, Look(DENSE, "", "-"))
        for method, runs in curves.groupby("method"):
            draw(panel, runs, look[str(method)])
        panel.set_ylim(settled(pd.concat([dense, curves])))
    name_rows(panels, "validation accuracy, %")
    figure.legend(handles=handles({"dense": Look(DENSE, "", "-")} | bare(look)), loc="outside right upper")
    return figure


def name_rows(panels: list[Axes], name: str) -> None:
    """Names the y-axis of the first panel in every row."""
    for panel in panels:
        place = panel.get_subplotspec()
        if place is not None and place.is_first_col():
            panel.set_ylabel(name)


def bare(look: dict[str, Look]) -> dict[str, Look]:
    """The looks without markers, for lines of many points."""
    return {method: Look(colour, "", line) for method, (colour, _, line) in look.items()}


def settled(curves: pd.DataFrame) -> tuple[float, float]:
    """Limits in % that cut off the steep start: around the accuracies after the first fifth of the steps."""
    late = 100 * curves.loc[curves["step"] > 0.2 * curves["step"].max(), "accuracy"]
    least, most = float(late.min()), float(late.max())
    space = 0.08 * (most - least) + 0.2
    return max(0.0, least - space), min(100.5, most + space)


def draw(panel: Axes, runs: pd.DataFrame, look: Look) -> None:
    """The accuracy of one method: every seed thin, the mean over it."""
    for _, run in runs.groupby("run"):
        panel.plot(run["epoch"], 100 * run["accuracy"], color=look.colour, linewidth=0.5, alpha=0.5)
    mean = curve_means(runs, "accuracy")
    panel.plot(mean["epoch"], 100 * mean["mean"], color=look.colour, linestyle=look.line, linewidth=1.3)


def sparsity_figure(results: Results) -> Figure:
    """Realised sparsity over epochs, a panel per method, a line per requested sparsity, labelled at its end."""
    methods = sparse_methods(results)
    curves = results.curves[results.curves["method"].isin(methods)]
    levels = list(curves["requested_sparsity"].sort_values().drop_duplicates())
    figure, panels = grid(len(methods), 2.3, common=True)
    for panel, method in zip(panels, methods, strict=True):
        panel.set_title(method, loc="left")
        for index, level in enumerate(levels):
            colour = colormaps["viridis"](0.75 * index / max(1, len(levels) - 1))
            chosen = curves["requested_sparsity"].isna() if math.isnan(level) else curves["requested_sparsity"] == level
            draw_level(panel, curves[chosen & (curves["method"] == method)], wording.sparsity(level), colour)
    name_rows(panels, "realised sparsity, %")
    for panel in panels[:1]:
        highest = float(curves["realised_sparsity"].max())
        sparsity_ticks(panel.yaxis, usual_ticks(highest))
        panel.set_ylim(-0.15, float(halvings(highest)) + 0.3)
    return figure


def draw_level(panel: Axes, runs: pd.DataFrame, name: str, colour: tuple[float, float, float, float]) -> None:
    """One method's sparsity at one request: every seed thin, the mean over it, the request named at the end."""
    if runs.empty:
        return
    for _, run in runs.groupby("run"):
        panel.plot(run["epoch"], halvings(run["realised_sparsity"]), color=colour, linewidth=0.5, alpha=0.5)
    mean = curve_means(runs, "realised_sparsity")
    heights = halvings(mean["mean"])
    panel.plot(mean["epoch"], heights, color=colour, linewidth=1.3)
    end = (float(mean["epoch"].iloc[-1]), float(heights[-1]))
    panel.annotate(name, end, xytext=(3, 0), textcoords="offset points", va="center", color=colour, fontsize=8)
