"""The plot of test accuracy against the budget of retraining: a line per method, a panel per sparsity."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from prunus.report import wording
from prunus.report.accuracy import close_up_limits, dense_key, draw_dense, draw_points, shifts
from prunus.report.cells import sparse_variants
from prunus.report.drawing import Panel, Plot
from prunus.report.palette import Look, looks
from prunus.report.results import Results
from prunus.report.retraining import lengths, retrained
from prunus.report.swatches import swatch
from prunus.report.tables import reference, summarise

CAPTION = (
    "Mean ± sample standard deviation over seeds against the length of retraining in % of that of the dense training "
    "before it, on a logarithmic axis; where some points lie far below, a close-up of the others beside it. Grey is "
    "the dense training."
)


def retraining_plot(results: Results) -> Plot:
    """A panel per requested sparsity, with a close-up where few points fall far below; none for a single budget."""
    table = retrained(results)
    table = table if table["steps"].nunique() > 1 else table.iloc[:0]
    dense = summarise(results)
    dense = dense[dense["method"] == reference(results.runs)]
    look = {name: chosen for name, chosen in looks(sparse_variants(results)).items() if name in set(table["variant"])}
    ticks = lengths(results)["share"]
    panels = []
    for requested, cells in table.groupby("requested_sparsity", dropna=False):
        title = f"test accuracy, %, at {wording.sparsity(float(str(requested)))}"
        panels.append(budget_panel(title, cells, dense, look, ticks, None))
        limits = close_up_limits(pd.concat([cells.assign(name="sparse"), dense]))
        if limits is not None:
            panels.append(budget_panel("close-up", cells, dense, look, ticks, limits))
    keys = dense_key(dense) | {name: swatch(chosen) for name, chosen in look.items()}
    return Plot("retraining-budget", "Accuracy against the budget of retraining", CAPTION, table, panels, keys)


def budget_panel(
    title: str,
    cells: pd.DataFrame,
    dense: pd.DataFrame,
    look: dict[str, Look],
    ticks: "pd.Series[float]",
    limits: tuple[float, float] | None,
) -> Panel:
    """One requested sparsity."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        draw_dense(axes, dense)
        shift = shifts(np.log2(ticks.to_numpy()), list(look))
        for variant, chosen in look.items():
            points = cells[cells["variant"] == variant].sort_values("share")
            draw_points(axes, np.log2(points["share"].to_numpy()) + shift[variant], points, chosen, variant)
        axes.set_xticks(list(np.log2(ticks)), [f"{100 * share:.3g}" for share in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("retraining, % of dense training (methods shifted sideways a little)")
        axes.margins(x=0.06, y=0.08)
        if limits is not None:
            axes.set_ylim(*limits)

    return Panel((4.6, 3.4), draw)
