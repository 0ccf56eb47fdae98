"""Other goals than the study's, from the curves it stored: whether what was found depends on the goal."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.drawing import Plot
from prunus.report.palette import Look, levels
from prunus.report.scaling_axes import STEPS, Line
from prunus.report.scaling_curves import PERFECT, together
from prunus.report.scaling_results import ScalingResults, mean_steps
from prunus.report.scaling_wording import ratio
from prunus.report.swatches import swatch
from prunus.scaling.findings import paired_steps
from prunus.scaling.goals import at_goal
from prunus.scaling.trials import Cell

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # goals, as factors of the study's number wrong
LEAD = (
    "Steps to other goals, recomputed from the stored curves of the same trials, searches and repeats. A cell whose "
    "curves cannot tell, because trials were stopped before they could have met it, is left out; a race tells of "
    "easier goals alone. Goals are numbers of validation images wrong at most; steps over dense pair seeds and batch "
    "sizes, with 95 % intervals. Evaluations that stopped after a first look are not in the curves, so steps to an "
    "easier goal may be a little high."
)
GOALS = "Mean steps over seeds to each of these goals, of the cells that can tell; points are not fitted."


def goals(results: ScalingResults) -> list[int]:
    """The numbers wrong that are looked at, ascending, the study's own among them."""
    own = results.searches[0].goal
    return sorted({round(own * factor) for factor in FACTORS} - {0})


def told(cells: Sequence[Cell], goal: int) -> list[Cell]:
    """The cells as they would be for ``goal``, of those that can tell."""
    return [again for again in (at_goal(cell, goal) for cell in cells) if again is not None]


def goal_cells(results: ScalingResults) -> pd.DataFrame:
    """A row per curve and goal."""
    return pd.DataFrame(
        [
            goal_text(results, optimizer, sparsity, goal)
            for optimizer, sparsity in sorted(results.curves, key=lambda curve: curve[1])
            for goal in goals(results)
            if told(results.curves[optimizer, sparsity], goal)
        ]
    )


def goal_text(results: ScalingResults, optimizer: str, sparsity: float, goal: int) -> dict[str, str]:
    """One curve at one goal."""
    cells = results.curves[optimizer, sparsity]
    found, dense = told(cells, goal), told(results.curves.get((optimizer, 0.0), ()), goal)
    over = paired_steps(found, dense) if sparsity > 0.0 else None
    missing = "reference" if sparsity == 0.0 else "fewer than two seeds to compare"
    return {
        "requested": wording.sparsity(sparsity),
        "optimizer": optimizer,
        "wrong at most": f"{goal}" + " (the study's)" * (goal == results.searches[0].goal),
        "cells that can tell": f"{len(found)} of {len(cells)}",
        "steps over dense": ratio(over) if over else missing,
    }


def goal_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per curve, goal and batch size that some cell can tell of: the geometric mean of steps, and of how many."""
    rows: list[dict[str, Any]] = []
    for (optimizer, sparsity), cells in results.curves.items():
        for goal in goals(results):
            found = told(cells, goal)
            for batch, steps in mean_steps(found).items():
                row = {"optimizer": optimizer, "sparsity": sparsity, "goal": goal, "batch_size": batch}
                rows.append({**row, "steps": steps, "cells": sum(cell.batch_size == batch for cell in found)})
    return pd.DataFrame(rows)


def goals_plot(results: ScalingResults) -> Plot:
    """A panel per curve, a line per goal."""
    asked = goals(results)
    look = {goal: Look(colour, "o", ":") for goal, colour in zip(asked, levels(len(asked)), strict=True)}
    panels = [
        together(
            f"{optimizer}, {wording.sparsity(sparsity)}",
            [Line(f"{goal} wrong", found, None, look[goal]) for goal in asked if (found := told(cells, goal))],
            results.batch_sizes,
            STEPS,
        )
        for (optimizer, sparsity), cells in results.curves.items()
    ]
    keys = {f"{goal} wrong": swatch(chosen) for goal, chosen in look.items()}
    keys["perfect scaling"] = PERFECT
    return Plot("scaling-goals", "Other goals", GOALS, goal_rows(results), panels, keys)
