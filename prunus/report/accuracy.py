"""The plot of test accuracy against sparsity: mean ± sd per method, dense as a band."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from prunus.report import wording
from prunus.report.cells import sparse_variants
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import DENSE, Look, halvings, looks, sparsity_ticks
from prunus.report.results import Results
from prunus.report.swatches import square, swatch
from prunus.report.tables import CELL, budgets, records, reference, summarise, told_apart

LEAST_RANGE = 5.0  # points below which one panel always suffices
COLUMNS = [*CELL, "name", "realised_sparsity", "accuracy", "accuracy_sd", "n"]
CAPTION = (
    "Mean ± sample standard deviation over seeds at the realised sparsity; where some points lie far below, a close-up "
    "of the others beside it. The axis goes by how often the kept part is halved."
)


def accuracy_plot(results: Results) -> Plot:
    """Accuracy at the realised sparsity, for each budget; where few points fall far below, with a close-up."""
    table = summarise(results)[COLUMNS]
    sparse = told_apart(table[table["name"] != "dense"], results)
    dense = table[table["method"] == reference(results.runs)]
    look = looks(sparse_variants(results))
    limits = close_up_limits(table)
    panels = []
    for budget in budgets(results) or [""]:
        points = sparse[sparse["budget"] == budget].drop(columns="method").rename(columns={"variant": "method"})
        after = f" after {budget}" if budget else ""
        panels.append(accuracy_panel(dense, points, look, f"test accuracy, %{after}", None))
        if limits is not None:
            panels.append(accuracy_panel(dense, points, look, f"close-up{after}", limits))
    keys = dense_key(dense) | {method: swatch(chosen) for method, chosen in look.items()}
    return Plot("accuracy", "Test accuracy against sparsity", CAPTION, table, panels, keys)


def dense_key(dense: pd.DataFrame) -> dict[str, str]:
    """The key to the band of dense training."""
    return {"dense" + (", mean ± sd" if row["n"] > 1 else ""): square(DENSE) for row in records(dense)}


def close_up_limits(table: pd.DataFrame) -> tuple[float, float] | None:
    """The limits in % of a close-up of the means near the top, None where none is needed; see ``close_up``."""
    top = 100 * float((table["accuracy"] + table["accuracy_sd"].fillna(0.0)).max())
    floor = close_up(table.loc[table["name"] != "dense", "accuracy"], 100 * float(table["accuracy"].max()))
    return None if floor is None else (floor, top + 0.1 * (top - floor))


def accuracy_panel(
    dense: pd.DataFrame, sparse: pd.DataFrame, look: dict[str, Look], title: str, limits: tuple[float, float] | None
) -> Panel:
    """One panel, with these limits of its y-axis."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        draw_dense(axes, dense)
        draw_methods(axes, sparse, look)
        sparsity_ticks(axes.xaxis, sorted(set(sparse["requested_sparsity"].dropna())))
        axes.set_xlabel("realised sparsity, % (methods shifted sideways a little)")
        axes.margins(x=0.06, y=0.08)
        if limits is not None:
            axes.set_ylim(*limits)

    return Panel((4.6, 3.4), draw)


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


def draw_dense(axes: Axes, dense: pd.DataFrame) -> None:
    """A line at dense accuracy in a band of its sd."""
    for row in records(dense):
        middle, half = 100 * row["accuracy"], 100 * np.nan_to_num(row["accuracy_sd"])
        axes.axhspan(middle - half, middle + half, color=DENSE, alpha=0.16, linewidth=0)
        axes.axhline(middle, color=DENSE, linewidth=1).set_gid(hover("dense", row))


def draw_methods(axes: Axes, sparse: pd.DataFrame, look: dict[str, Look]) -> None:
    """A line with error bars per method, shifted sideways by its place so that none hides another."""
    shift = shifts(halvings(sparse["requested_sparsity"].dropna()), list(look))
    for method, chosen in look.items():
        points = sparse[sparse["method"] == method].sort_values("realised_sparsity")
        places = halvings(points["realised_sparsity"]) + shift[method]
        draw_points(axes, places, points, chosen, method)


def draw_points(axes: Axes, places: NDArray[np.float64], points: pd.DataFrame, look: Look, name: str) -> None:
    """Means with their sd as bars, joined by a line; each says its numbers under the mouse."""
    colour, marker, line = look
    heights, deviations = 100 * points["accuracy"], 100 * points["accuracy_sd"]
    axes.errorbar(
        places, heights, yerr=deviations, color=colour, linestyle=line, linewidth=0.8, elinewidth=1.1, capsize=2.5
    )
    for place, height, row in zip(places, heights, records(points), strict=True):
        (point,) = axes.plot([place], [height], color=colour, marker=marker, markersize=5, markeredgewidth=0)
        point.set_gid(hover(name, row))


def hover(name: str, row: dict[str, Any]) -> str:
    """What a point says under the mouse: 'gmp at 90 %: 97.12 ± 0.30 % (n=3)'."""
    reached = wording.sample(100 * row["accuracy"], 100 * row["accuracy_sd"], int(row["n"]), " %")
    after = f" after {row['budget']}" if row.get("budget") else ""
    return f"{HOVER}{name} at {wording.sparsity(row['requested_sparsity'])}{after}: {reached}"


def shifts(places: NDArray[np.float64], methods: list[str]) -> dict[str, float]:
    """A sideways shift per method, in all at most half the smallest distance between two places of points."""
    width = min(0.5 * float(np.diff(np.unique(places)).min(initial=1.0)), 0.06 * len(methods))
    return {method: ((place + 0.5) / len(methods) - 0.5) * width for place, method in enumerate(methods)}
