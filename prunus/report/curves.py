"""The plots over training time: validation accuracy per sparsity, and sparsity per method."""

import math

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.cells import sparse_methods, sparse_variants
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import DENSE, Look, halvings, levels, looks, sparsity_ticks, usual_ticks
from prunus.report.results import Results
from prunus.report.rows import IDENTITY
from prunus.report.swatches import swatch
from prunus.report.tables import curve_means, reference, told_apart

WIDTH, HEIGHT = 3.4, 2.4
LEARNING_CAPTION = (
    "Validation accuracy while training; thick the mean, thin the seeds. Every panel has its own scale and cuts off "
    "the steep start, and of what follows the lowest twentieth."
)
SPARSITY_CAPTION = (
    "Realised sparsity while training, a line for each requested one; thick the mean, thin the seeds. The axis goes by "
    "how often the kept part is halved."
)


def learning_plot(results: Results) -> Plot:
    """Validation accuracy over epochs, a panel per requested sparsity and budget, with dense training in each.

    Thick are means over seeds, thin the seeds. Dense training from which the runs began is another time: not in it.
    """
    data = results.curves[[*IDENTITY, "step", "epoch", "learning_rate", "loss", "accuracy", "nll"]]
    sparse = told_apart(data[data["method"].isin(sparse_methods(results))], results)
    dense = data[data["method"] == reference(results.runs)]
    look = bare(looks(sparse_variants(results)))
    begun = results.runs.set_index("run")["pretraining"].notna()
    panels = []
    for (requested, budget), curves in sparse.groupby(["requested_sparsity", "budget"], sort=False, dropna=False):
        at = wording.sparsity(float(str(requested))) + (f", {budget}" if budget else "")
        beside = dense.iloc[:0] if curves["run"].map(begun).all() else dense
        shown = curves.drop(columns="method").rename(columns={"variant": "method"})
        panels.append(learning_panel(f"validation accuracy, %, at {at}", beside, shown, look))
    keys = {method: swatch(chosen) for method, chosen in ({"dense": Look(DENSE, "", "-")} | look).items()}
    return Plot("learning-curves", "Learning curves", LEARNING_CAPTION, data, panels, keys)


def learning_panel(title: str, dense: pd.DataFrame, curves: pd.DataFrame, look: dict[str, Look]) -> Panel:
    """The methods at one requested sparsity."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.set_xlabel("epoch")
        draw_accuracy(axes, "dense", dense, Look(DENSE, "", "-"))
        for method, runs in curves.groupby("method"):
            draw_accuracy(axes, str(method), runs, look[str(method)])
        axes.set_ylim(settled(pd.concat([dense, curves])))

    return Panel((4.6, 3.1), draw)


def bare(look: dict[str, Look]) -> dict[str, Look]:
    """The looks without markers, for lines of many points."""
    return {method: Look(colour, "", line) for method, (colour, _, line) in look.items()}


def settled(curves: pd.DataFrame) -> tuple[float, float]:
    """Limits in %: around the accuracies after the first fifth of the steps, but for the lowest twentieth of them."""
    late = 100 * curves.loc[curves["step"] > 0.2 * curves["step"].max(), "accuracy"]
    least, most = float(late.quantile(0.05)), float(late.max())
    space = 0.08 * (most - least) + 0.2
    return max(0.0, least - space), min(100.5, most + space)


def draw_accuracy(axes: Axes, method: str, runs: pd.DataFrame, look: Look) -> None:
    """The accuracy of one method: every seed thin, the mean over it."""
    if runs.empty:
        return
    for _, run in runs.groupby("run"):
        axes.plot(run["epoch"], 100 * run["accuracy"], color=look.colour, linewidth=0.5, alpha=0.25)
    mean = curve_means(runs, "accuracy")
    (line,) = axes.plot(mean["epoch"], 100 * mean["mean"], color=look.colour, linestyle=look.line, linewidth=1.4)
    line.set_gid(f"{HOVER}{method}")


def sparsity_plot(results: Results) -> Plot:
    """Realised sparsity over epochs, a panel per method, a line per requested sparsity, labelled at its end."""
    data = results.curves[[*IDENTITY, "step", "epoch", "realised_sparsity"]]
    methods = sparse_methods(results)
    curves = data[data["method"].isin(methods)]
    highest = float(curves["realised_sparsity"].max()) if len(curves) else 0.0
    colours = by_level(curves["requested_sparsity"])
    panels = [sparsity_panel(method, curves[curves["method"] == method], colours, highest) for method in methods]
    return Plot("sparsity", "Sparsity over training", SPARSITY_CAPTION, data, panels)


def by_level(requested: "pd.Series[float]") -> dict[float, str]:
    """A colour for each requested sparsity, ascending; -1 is the one left open."""
    found = sorted(set(requested.fillna(-1.0)))
    return dict(zip(found, levels(len(found)), strict=True))


def sparsity_panel(method: str, curves: pd.DataFrame, colours: dict[float, str], highest: float) -> Panel:
    """One method."""

    def draw(axes: Axes) -> None:
        axes.set_title(method)
        axes.set_xlabel("epoch")
        axes.set_ylabel("realised sparsity, %")
        for level, colour in colours.items():
            draw_level(axes, curves[curves["requested_sparsity"].fillna(-1.0) == level], level, colour)
        sparsity_ticks(axes.yaxis, usual_ticks(highest))
        axes.set_ylim(-0.15, float(halvings(highest)) + 0.3)

    return Panel((WIDTH, HEIGHT), draw, Space(left=0.58, right=0.42))


def draw_level(axes: Axes, runs: pd.DataFrame, level: float, colour: str) -> None:
    """One method's sparsity at one request: every seed thin, the mean over it, the request named at the end."""
    if runs.empty:
        return
    for _, run in runs.groupby("run"):
        axes.plot(run["epoch"], halvings(run["realised_sparsity"]), color=colour, linewidth=0.5, alpha=0.4)
    mean = curve_means(runs, "realised_sparsity")
    heights = halvings(mean["mean"])
    axes.plot(mean["epoch"], heights, color=colour, linewidth=1.4)
    end = (float(mean["epoch"].iloc[-1]), float(heights[-1]))
    name = wording.sparsity(math.nan if level < 0 else level)
    axes.annotate(name, end, xytext=(3, 0), textcoords="offset points", va="center", color=colour, fontsize=8)
