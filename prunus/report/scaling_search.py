"""The plots of the search: every trial by its metaparameters, and how it ended."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import COLOURS, INK, MUTED
from prunus.report.scaling_axes import SPACE
from prunus.report.scaling_results import ScalingResults
from prunus.report.swatches import mark
from prunus.scaling.records import place
from prunus.scaling.trials import Cell, Status, Trial, steps_to_result

TRIALS = (
    "A panel per batch size, a mark per setting that was tried, on logarithmic axes: learning rate against 1 - "
    "momentum, with lines of the same effective rate, learning rate / (1 - momentum), a decade apart; where there is "
    "no momentum to tune, learning rate against the steps to the goal, those that did not meet it at the top."
)
RACED = " A cell ended where the first trial met its goal, so the others stay incomplete: they were stopped."
MARKS: dict[Status, tuple[str, str]] = {
    "complete": ("o", COLOURS[0]),
    "incomplete": ("^", COLOURS[1]),
    "infeasible": ("X", INK),
}
STAR = COLOURS[4]


def trial_plots(results: ScalingResults) -> dict[str, Plot]:
    """Figure 5: a plot per optimizer and sparsity, by a title."""
    found: dict[str, Plot] = {}
    for optimizer, sparsity in results.curves:
        at = f"{optimizer} at {wording.sparsity(sparsity)}"
        cells = [cell for cell in results.searches if (cell.optimizer, cell.sparsity) == (optimizer, sparsity)]
        panels = [trial_panel(cell, len({one.seed for one in cells}) > 1) for cell in cells]
        name = re.sub(r"[^\w.-]+", "-", f"scaling-trials-{optimizer}-{100 * sparsity:g}")
        caption = TRIALS + RACED * results.raced
        found[f"{at}: {sum(len(cell.trials) for cell in cells)} trials"] = Plot(
            name, f"Trials of {at}", caption, trial_rows(cells), panels, trial_keys()
        )
    return found


def trial_keys() -> dict[str, str]:
    """The keys to the outcomes of trials."""
    keys = {str(status): mark(*look, hollow=status != "complete") for status, look in MARKS.items()}
    return {**keys, "best": mark("*", STAR)}


def trial_panel(cell: Cell, several: bool) -> Panel:
    """The trials of one cell; of ``several`` seeds, with its own in the title."""

    def draw(axes: Axes) -> None:
        axes.set_title(f"batch {cell.batch_size}" + f", seed {cell.seed}" * several, pad=12)
        first = next(iter(cell.trials[0].metaparameters))
        with_momentum = {"learning_rate", "momentum"} <= cell.trials[0].metaparameters.keys()
        name = "learning_rate" if with_momentum else first
        axes.set_xscale("log")
        axes.set_yscale("log", base=10 if with_momentum else 2)
        heights = distances(cell) if with_momentum else arrivals(cell)
        for status in MARKS:
            draw_trials(axes, [one for one in cell.trials if one.status == status], name, heights)
        draw_best(axes, steps_to_result(cell), name, heights)
        axes.set_xlabel(name.rpartition(".")[2].replace("_", " "))
        if with_momentum:
            axes.set_ylabel("1 - momentum")
            draw_contours(axes)
        else:
            axes.set_ylabel("steps to the goal")
            name_rail(axes, cell)
        axes.minorticks_off()

    return Panel((2.5, 2.4), draw, SPACE._replace(right=0.28, top=0.4))


def distances(cell: Cell) -> dict[int, float]:
    """1 - m by trial."""
    return {trial.number: 1.0 - trial.metaparameters["momentum"] for trial in cell.trials}


def arrivals(cell: Cell) -> dict[int, float]:
    """The steps to the goal by trial; of those that did not meet it twice the most."""
    return {one.number: one.steps if one.status == "complete" else rail(cell) for one in cell.trials}


def rail(cell: Cell) -> float:
    """Where trials are drawn that did not meet the goal: above those that did."""
    met = [trial.steps for trial in cell.trials if trial.status == "complete"]
    return 2.0 * max(met) if met else 2.0 * max(trial.steps for trial in cell.trials)


def name_rail(axes: Axes, cell: Cell) -> None:
    """Ticks at the steps of trials that met the goal, and the name of the rail."""
    met = sorted({trial.steps for trial in cell.trials if trial.status == "complete"})
    ticks = dict.fromkeys([met[0], met[-1]]) if met else {}
    axes.yaxis.set_ticks([*ticks, rail(cell)], [*(f"{tick:,}" for tick in ticks), "not met"])
    axes.set_ylim((min([*ticks, rail(cell)])) / 1.5, rail(cell) * 1.5)


def draw_trials(axes: Axes, trials: Sequence[Trial], name: str, heights: dict[int, float]) -> None:
    """The trials of one outcome."""
    if not trials:
        return
    marker, colour = MARKS[trials[0].status]
    face = colour if trials[0].status == "complete" else "none"
    places = [trial.metaparameters[name] for trial in trials]
    ups = [heights[trial.number] for trial in trials]
    (drawn,) = axes.plot(places, ups, marker, color=colour, markerfacecolor=face, markersize=5)
    drawn.set_gid(f"{HOVER}{len(trials)} {trials[0].status}")


def draw_best(axes: Axes, best: Trial | None, name: str, heights: dict[int, float]) -> None:
    """A star at the winner, with its setting under the mouse."""
    if best is None:
        return
    (drawn,) = axes.plot(best.metaparameters[name], heights[best.number], "*", color=STAR, markersize=11)
    said = ", ".join(f"{key} {value:.4g}" for key, value in best.metaparameters.items())
    drawn.set_gid(f"{HOVER}best: {best.steps} steps, {said}")


def draw_contours(axes: Axes) -> None:
    """Lines of the same effective rate, one a decade, with their rates at the top or on the right."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    least, most = math.ceil(math.log10(left / high)), math.floor(math.log10(right / low))
    for power in range(least, most + 1):
        rates = np.array([max(left, low * 10.0**power), min(right, high * 10.0**power)])
        axes.plot(rates, rates / 10.0**power, color=MUTED, linewidth=0.5, alpha=0.5, zorder=0.5)
        name_contour(axes, power, (rates[1], rates[1] / 10.0**power), at_top=rates[1] < right)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def name_contour(axes: Axes, power: int, end: tuple[float, float], *, at_top: bool) -> None:
    """The effective rate at the end of its line, above the axes or to their right."""
    away, side = ((0, 2), "center") if at_top else ((2, 0), "left")
    style: dict[str, Any] = {"fontsize": 6, "color": MUTED, "ha": side, "va": "bottom"}
    axes.annotate(f"{10.0**power:g}", end, away, textcoords="offset points", **style)


def trial_rows(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per trial: its outcome, and its setting."""
    return pd.DataFrame(
        [
            {
                **place(cell)._asdict(),
                "trial": trial.number,
                "status": trial.status,
                "steps": trial.steps,
                "best": trial == steps_to_result(cell),
                **trial.metaparameters,
            }
            for cell in cells
            for trial in cell.trials
        ]
    )
