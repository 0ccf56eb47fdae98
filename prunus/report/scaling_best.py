"""The plots of what the search found: the best settings over the batch size, and how many trials it took."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import INK, Look
from prunus.report.scaling_axes import SPACE, batch_axis, doubling_axis, sparsity_looks
from prunus.report.scaling_results import ScalingResults
from prunus.report.swatches import swatch
from prunus.scaling.best_of import best_of
from prunus.scaling.metaparameters import effective_rate
from prunus.scaling.records import place
from prunus.scaling.trials import Cell, Trial, steps_to_result

QUANTITIES = ("learning rate", "1 - momentum", "effective rate")
BEST = (
    "The best setting of each search over the batch size, dashed the rates that grow with the batch size and dotted "
    "with its square root, both from the first point of the lowest sparsity. The best of few trials jumps: a search "
    "of N points knows the rate no closer than they lie apart."
)
BEST_OF = (
    "What fewer trials would have found, exact over all draws without replacement: the steps of the best of n over "
    "those of the best of all, where one meets the goal, and the chance that none does; geometric means and means "
    "over the batch sizes. The budget was enough where both are level at its end."
)
RACED = (
    " These cells raced: trials that would have met the goal later were stopped and count as not met, so the "
    "chance is an upper bound and says how many settings were as fast as the best."
)


def best_plot(results: ScalingResults) -> Plot:
    """Figure 6: a panel per optimizer and quantity, a line per sparsity."""
    data = best_rows(results)
    look = sparsity_looks(results)
    panels = [
        best_panel(f"{optimizer}: {quantity}", rows, quantity, look, results.batch_sizes)
        for optimizer in results.optimizers
        for quantity in QUANTITIES
        if quantity in data and len(rows := data[data["optimizer"] == optimizer].dropna(subset=quantity))
    ]
    keys = {wording.sparsity(sparsity): swatch(chosen) for sparsity, chosen in look.items()}
    keys |= {"linear": swatch(Look(INK, "", "--")), "square root": swatch(Look(INK, "", ":"))}
    return Plot("scaling-best", "The best settings", BEST, data, panels, keys)


def best_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per search that met the goal: the tuned rate, the distance of the momentum to 1, the effective rate."""
    rows = []
    for cell in results.searches:
        winner = steps_to_result(cell)
        if winner and "learning_rate" in winner.metaparameters:
            rows.append({**place(cell)._asdict(), **quantities(winner)})
    return pd.DataFrame(rows)


def quantities(winner: Trial) -> dict[str, float]:
    """The effective rate only where a momentum was tuned, for an untuned one is not in the trial."""
    found = {"learning rate": winner.metaparameters["learning_rate"]}
    if "momentum" not in winner.metaparameters:
        return found
    return {
        **found,
        "1 - momentum": 1.0 - winner.metaparameters["momentum"],
        "effective rate": effective_rate(winner.metaparameters),
    }


def best_panel(title: str, rows: pd.DataFrame, quantity: str, look: dict[float, Look], batches: Sequence[int]) -> Panel:
    """One quantity of one optimizer."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        batch_axis(axes, batches)
        if quantity != "1 - momentum":
            draw_heuristics(axes, rows.sort_values(["sparsity", "batch_size"], kind="stable"), quantity)
        for sparsity, chosen in look.items():
            own = rows[rows["sparsity"] == sparsity].groupby("batch_size")[quantity].apply(geometric_mean)
            style = f"{chosen.marker}{chosen.line}"
            (drawn,) = axes.plot(own.index, own, style, color=chosen.colour, markersize=4.5, linewidth=1.1)
            drawn.set_gid(f"{HOVER}{wording.sparsity(sparsity)}: {', '.join(f'{value:.3g}' for value in own)}")
        doubling_axis(axes)

    return Panel((3.4, 2.4), draw, SPACE)


def geometric_mean(values: "pd.Series[float]") -> float:
    """Of rates, which differ by factors."""
    return float(np.exp(np.log(values).mean()))


def draw_heuristics(axes: Axes, rows: pd.DataFrame, quantity: str) -> None:
    """The linear and the square-root rule from the first point on."""
    first = rows.iloc[0]
    batches = np.array(sorted(set(rows["batch_size"])), dtype=float)
    for exponent, line in ((1.0, "--"), (0.5, ":")):
        rates = first[quantity] * (batches / first["batch_size"]) ** exponent
        axes.plot(batches, rates, line, color=INK, linewidth=0.9)


def best_of_plot(results: ScalingResults) -> Plot:
    """How the budget of trials saturates: two panels per optimizer, a line per sparsity."""
    data, look = best_of_rows(results), sparsity_looks(results)
    panels = []
    for optimizer in results.optimizers:
        rows = data[data["optimizer"] == optimizer]
        if not results.raced:
            panels.append(best_of_panel(f"{optimizer}: steps over the best of all", rows, "steps", look))
        panels.append(best_of_panel(f"{optimizer}: chance that none arrives", rows, "unreached", look))
    keys = {wording.sparsity(sparsity): swatch(chosen) for sparsity, chosen in look.items()}
    caption = BEST_OF + RACED * results.raced
    return Plot("scaling-best-of", "The best of fewer trials", caption, data, panels, keys)


def best_of_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per curve and number of trials, over its searches that met the goal."""
    rows = [row for cell in results.searches if steps_to_result(cell) for row in fewer_trials(cell)]
    columns = ["optimizer", "sparsity", "trials", "log_steps", "unreached"]
    means = pd.DataFrame(rows, columns=columns).groupby(columns[:3], sort=False).mean().reset_index()
    return means.assign(steps=np.exp(means["log_steps"].astype(float))).drop(columns="log_steps")


def fewer_trials(cell: Cell) -> Iterator[dict[str, Any]]:
    """The best of 1, 2, 4, … and of all trials of a cell."""
    total, best = len(cell.trials), steps_to_result(cell)
    assert best is not None
    for count in sorted({total, *(1 << power for power in range(total.bit_length()))}):
        found = best_of(cell, count)
        assert found.mean is not None
        log_steps = float(np.log(found.mean / best.steps))
        row = {"trials": count, "log_steps": log_steps, "unreached": found.unreached}
        yield {"optimizer": cell.optimizer, "sparsity": cell.sparsity, **row}


def best_of_panel(title: str, rows: pd.DataFrame, value: str, look: dict[float, Look]) -> Panel:
    """One optimizer."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        batch_axis(axes, sorted(set(rows["trials"])))
        for sparsity, chosen in look.items():
            own = rows[rows["sparsity"] == sparsity]
            style = f"{chosen.marker}{chosen.line}"
            (drawn,) = axes.plot(own["trials"], own[value], style, color=chosen.colour, markersize=4, linewidth=1.1)
            drawn.set_gid(f"{HOVER}{wording.sparsity(sparsity)}: {', '.join(f'{one:.3g}' for one in own[value])}")
        axes.set_xlabel("trials")
        if value == "unreached":
            axes.set_ylim(-0.03, 1.03)

    return Panel((3.4, 2.4), draw, SPACE)
