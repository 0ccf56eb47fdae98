"""The plot of what each pruning took and each retraining brought back: a row per method and cycle."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.cost import bars, name_methods
from prunus.report.cycles import cycle_means
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import COLOURS, DENSE
from prunus.report.results import Results
from prunus.report.tables import records

CAPTION = (
    "Validation accuracy lost since before the first pruning, in points, mean ± sample standard deviation over seeds: "
    "on the left right after a pruning, on the right after the retraining that follows it. The scales differ; left of "
    "0 the network has gained."
)
PANELS = {"lost_pruned": "lost by pruning", "lost_retrained": "lost after retraining"}


def cycles_plot(results: Results) -> Plot:
    """Two panels per requested sparsity."""
    table = cycle_means(results)
    several = bool((table["cycle"] > 1).any())
    names = table["method"] + (", cycle " + table["cycle"].astype(str) if several else "")
    panels = [
        lost_panel(
            f"{title}, at {wording.sparsity(float(str(requested)))}", cells.assign(method=names[cells.index]), value
        )
        for requested, cells in table.groupby("requested_sparsity", sort=False, dropna=False)
        for value, title in PANELS.items()
    ]
    return Plot("pruning-drop", "The drop after pruning and after retraining", CAPTION, table, panels)


def lost_panel(title: str, cells: pd.DataFrame, value: str) -> Panel:
    """What the methods have lost at one requested sparsity and one stage."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.axvline(0.0, color=DENSE, linewidth=1)
        for place, row in enumerate(records(cells)):
            lost, deviation = 100 * row[value], 100 * row[f"{value}_sd"]
            half = np.nan_to_num(deviation)
            axes.plot([lost - half, lost + half], [place, place], color=COLOURS[0], linewidth=1.4)
            (dot,) = axes.plot([lost], [place], "o", color=COLOURS[0], markersize=5, markeredgewidth=0)
            said = wording.spread(lost, deviation, row["n"]) if not math.isnan(lost) else "not finite"
            dot.set_gid(f"{HOVER}{row['method']}: {said} points (n={row['n']})")
        name_methods(axes, list(cells["method"]))

    return bars(cells, draw)
