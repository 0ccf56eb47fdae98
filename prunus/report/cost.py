"""The plot of cost: speed in theory beside speed measured, and what training holds in memory."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from prunus.report import wording
from prunus.report.cells import PARTS
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import COLOURS, DENSE, LEVELS, MUTED, Look
from prunus.report.results import Results
from prunus.report.rows import HELD
from prunus.report.swatches import ring, square, swatch
from prunus.report.tables import costs, records

CAPTION = (
    "Left of the line at 1 is slower than dense: the filled dot is training throughput as measured, with the quartiles "
    "of its paired blocks; the hollow dot the speed-up that multiply-accumulates would give, which no dense kernel "
    "pays out. The bars are the bytes that training holds between two steps, counted and not measured: parameters, a "
    "gradient for each, the optimizer's state, and what the method adds (masks at a byte a weight, remembered "
    "gradients). Activations are not in them."
)
MEASURED = Look(COLOURS[0], "o", "-")
COLOUR = dict(zip(HELD, (LEVELS[7], LEVELS[4], LEVELS[1], COLOURS[4]), strict=True))
FACTORS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def cost_plot(results: Results) -> Plot:
    """Per requested sparsity a panel of speeds, then one of memory."""
    table = costs(results)
    sparse = table[table["name"] != "dense"]
    panels = [
        speed_panel(f"speed at {wording.sparsity(float(str(requested)))}, × dense", cells)
        for requested, cells in sparse.groupby("requested_sparsity", sort=False, dropna=False)
    ]
    keys = {"throughput of training, measured": swatch(MEASURED), "in theory": ring(MUTED)} if panels else {}
    if table[HELD].notna().any(axis=None):
        panels.append(memory_panel(table))
        keys |= {title: square(colour) for title, colour in zip(PARTS, COLOUR.values(), strict=True)}
    return Plot("cost", "Time and memory", CAPTION, table, panels, keys)


def speed_panel(title: str, cells: pd.DataFrame) -> Panel:
    """Theory and measurement of each method at one sparsity, on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.axvline(1.0, color=DENSE, linewidth=1)
        for place, row in enumerate(records(cells)):
            draw_speed(axes, place, row)
        columns = ["throughput_low", "throughput_high", "theoretical_speedup"]
        factors = cells[columns].to_numpy(dtype=float)
        low, high = np.nanmin(factors, initial=1.0), np.nanmax(factors, initial=1.0)
        axes.set_xscale("log")
        axes.set_xlim(0.75 * low, 1.35 * high)
        ticks = [factor for factor in FACTORS if 0.75 * low <= factor <= 1.35 * high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        name_methods(axes, list(cells["method"]))

    return bars(cells, draw)


def draw_speed(axes: Axes, place: int, row: dict[str, float]) -> None:
    """One method: a hollow dot for theory, a filled one with its quartiles for the measurement."""
    theory, ratio = row["theoretical_speedup"], row["throughput_ratio"]
    if not math.isnan(theory):
        (dot,) = axes.plot([theory], [place], "o", color=MUTED, markersize=5, markerfacecolor="none")
        dot.set_gid(f"{HOVER}{row['method']}, in theory: {wording.gain(theory)}")
    if math.isnan(ratio):
        return
    axes.plot([row["throughput_low"], row["throughput_high"]], [place, place], color=MEASURED.colour, linewidth=1.4)
    (dot,) = axes.plot([ratio], [place], "o", color=MEASURED.colour, markersize=5, markeredgewidth=0)
    measured = wording.throughput(ratio, row["throughput_low"], row["throughput_high"])
    dot.set_gid(f"{HOVER}{row['method']}, measured: {measured}")


def memory_panel(table: pd.DataFrame) -> Panel:
    """Stacked bars of the bytes that training holds, a bar per method: mean over sparsities."""
    cells = table.groupby(["method"], sort=False)[HELD].mean().reset_index()
    unit, factor = wording.unit(float(cells[HELD].sum(axis=1).max()))

    def draw(axes: Axes) -> None:
        axes.set_title(f"held in training, {unit}")
        left = np.zeros(len(cells))
        for title, (name, colour) in zip(PARTS, COLOUR.items(), strict=True):
            drawn = axes.barh(np.arange(len(cells)), cells[name] / factor, left=left, color=colour, height=0.6)
            for bar, row in zip(drawn, records(cells), strict=True):
                bar.set_gid(f"{HOVER}{row['method']}, {title}: {wording.size(row[name])}")
            left += cells[name].fillna(0.0).to_numpy() / factor
        name_methods(axes, list(cells["method"]))

    return bars(cells, draw)


def name_methods(axes: Axes, methods: list[str]) -> None:
    """A row per method, the first on top."""
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def bars(cells: pd.DataFrame, draw: Callable[[Axes], None]) -> Panel:
    """A panel with a row per method, wide enough for their names."""
    names = 0.065 * max(map(len, cells["method"])) + 0.12
    space = Space(left=names, bottom=0.27, right=0.16)
    return Panel((max(3.4, 2.6 + names), 0.21 * len(cells) + 0.6), draw, space)
