"""The plots of streams: what each method reached as the images arrived, and for what cost, with bands over seeds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.accuracy import close_up_limits
from prunus.report.cells import sparse_variants
from prunus.report.curves import HEIGHT, WIDTH, bare
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import DENSE, Look, halvings, looks, sparsity_ticks, usual_ticks
from prunus.report.results import Results
from prunus.report.streams import megabatch_means
from prunus.report.swatches import swatch
from prunus.report.tables import reference, told_apart

CAPTION = (
    "After each megabatch, against the training images that had arrived: mean over seeds, with a band of ± their "
    "sample standard deviation. In the last panel, dotted, the sparsity that was planned for each megabatch, and the "
    "realised; its axis goes by how often the kept part is halved."
)
COST_CAPTION = (
    "The same test accuracies against the multiply-accumulates that training had cost by then, forward and backward, "
    "counted with the sparsity: methods are at equal cost where they stand above each other. A dot is a megabatch."
)
SPACE = Space(left=0.5)
XLABELS = {"images": "images arrived", "training_macs": "multiply-accumulates of training"}


class Group(NamedTuple):
    """The rows of one requested sparsity and budget, dense with them, ``at`` it in words."""

    at: str
    rows: pd.DataFrame


def stream_looks(results: Results) -> dict[str, Look]:
    """A look per variant on a stream: the dense reference as everywhere, other dense learners after the sparse."""
    runs = results.runs[results.runs["run"].isin(results.streams["run"])]
    first = set(runs.loc[runs["method"] == reference(runs), "variant"])
    others = sorted(set(runs.loc[runs["name"] == "dense", "variant"]) - first)
    return dict.fromkeys(first, Look(DENSE, "", "-")) | bare(looks([*sparse_variants(results), *others]))


def groups(results: Results, data: pd.DataFrame) -> Iterator[Group]:
    """The rows of each requested sparsity and budget with those of dense training; ``variant`` tells them apart."""
    names = results.runs[["method", "name"]].drop_duplicates()
    table = told_apart(data, results).merge(names, on="method", how="left")
    dense, sparse = table[table["name"] == "dense"], table[table["name"] != "dense"]
    for (requested, budget), rows in sparse.groupby(["requested_sparsity", "budget"], sort=False, dropna=False):
        at = f"at {wording.sparsity(float(str(requested)))}" + (f", {budget}" if budget else "")
        yield Group(at, pd.concat([dense, rows]))
    if sparse.empty and len(dense):
        yield Group("dense", dense)


def keyed(looks: dict[str, Look]) -> dict[str, str]:
    """The keys to these looks."""
    return {name: swatch(look) for name, look in looks.items()}


def anytime_plot(results: Results) -> Plot:
    """Accuracy, with a close-up where it began far below, cumulative errors, gap and sparsity, for each sparsity."""
    data, look = megabatch_means(results), stream_looks(results)
    panels = [panel for group in groups(results, data) for panel in group_panels(group, look)]
    return Plot("anytime-curves", "As the images arrive", CAPTION, data, panels, keyed(look))


def group_panels(group: Group, look: dict[str, Look]) -> list[Panel]:
    """The panels of one requested sparsity."""
    at, rows = group
    return [
        *accuracy_panels(f"test accuracy, %, {at}", group, look, "images"),
        curve_panel(f"cumulative errors, {at}", rows, look, "images", "cumulative_errors"),
        curve_panel(f"gap, points, {at}", rows, look, "images", "gap"),
        sparsity_panel(f"sparsity, %, {at}", rows, look),
    ]


def accuracy_panels(title: str, group: Group, look: dict[str, Look], against: str) -> list[Panel]:
    """Accuracy, and where it began far below a close-up of the rest."""
    limits = close_up_limits(group.rows.assign(name=""))
    whole = curve_panel(title, group.rows, look, against, "accuracy")
    return [whole, *([curve_panel("close-up", group.rows, look, against, "accuracy", limits)] if limits else [])]


def curve_panel(
    title: str,
    rows: pd.DataFrame,
    look: dict[str, Look],
    against: str,
    value: str,
    limits: tuple[float, float] | None = None,
) -> Panel:
    """A line per method over ``against``, in a band of its sd; against cost with a dot per megabatch."""
    dot = "" if against == "images" else "."

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        if against == "training_macs":
            axes.xaxis.set_major_formatter(lambda place, _: wording.count(place))
        for variant, chosen in look.items():
            draw_band(axes, variant, rows[rows["variant"] == variant], chosen._replace(marker=dot), against, value)
        axes.set_xlabel(XLABELS[against])
        if limits is not None:
            axes.set_ylim(*limits)

    return Panel((WIDTH, HEIGHT), draw, SPACE)


def draw_band(axes: Axes, variant: str, rows: pd.DataFrame, look: Look, against: str, value: str) -> None:
    """The mean of one method in a band of its sd, and what it reached at the end under the mouse."""
    if rows.empty:
        return
    unit, digits = (1, 0) if value == "cumulative_errors" else (100, 2)
    # where training waited there is no gap: the line goes on to the next
    rows = rows.dropna(subset=value)
    middle, half = unit * rows[value], unit * rows[f"{value}_sd"].fillna(0.0)
    axes.fill_between(rows[against], middle - half, middle + half, color=look.colour, alpha=0.14, linewidth=0)
    (line,) = axes.plot(
        rows[against], middle, color=look.colour, linestyle=look.line, marker=look.marker, markersize=4, linewidth=1.2
    )
    last = rows.iloc[-1]
    reached = wording.spread(unit * last[value], unit * last[f"{value}_sd"], int(last["n"]), digits)
    line.set_gid(f"{HOVER}{variant}: {reached} after {last['megabatch']} megabatches (n={last['n']})")


def sparsity_panel(title: str, rows: pd.DataFrame, look: dict[str, Look]) -> Panel:
    """The steps of sparsity: dotted as planned, drawn through as realised."""
    found = rows[["planned_sparsity", "realised_sparsity"]]
    highest = float(np.nanmax(found.to_numpy(dtype=float)))

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        for variant, chosen in look.items():
            draw_steps(axes, variant, rows[rows["variant"] == variant], chosen.colour)
        axes.set_xlabel(XLABELS["images"])
        sparsity_ticks(axes.yaxis, usual_ticks(highest))

    return Panel((WIDTH, HEIGHT), draw, SPACE)


def draw_steps(axes: Axes, variant: str, rows: pd.DataFrame, colour: str) -> None:
    """Each megabatch's sparsity at the images that had arrived, held until the next."""
    planned, realised = halvings(rows["planned_sparsity"]), halvings(rows["realised_sparsity"])
    (line,) = axes.step(rows["images"], realised, where="post", color=colour, marker="o", markersize=2.5, linewidth=1)
    axes.step(rows["images"], planned, ":", where="post", color=colour, linewidth=1.8, alpha=0.7)
    said = ", ".join(f"{wording.percent(value, 1)}" for value in rows["realised_sparsity"])
    line.set_gid(f"{HOVER}{variant}: {said} %")


def anytime_cost_plot(results: Results) -> Plot:
    """Accuracy against the operations of training so far, a panel per requested sparsity and its close-up."""
    data, look = megabatch_means(results), stream_looks(results)
    title = "test accuracy, %, "
    panels = [
        panel
        for group in groups(results, data)
        for panel in accuracy_panels(title + group.at, group, look, "training_macs")
    ]
    return Plot("anytime-cost", "Accuracy at equal cost", COST_CAPTION, data, panels, keyed(look))
