"""The plot of the local Lipschitz constant of the gradient while training (Lee et al. 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import Look
from prunus.report.scaling_axes import SPACE, doubling_axis, sparsity_looks
from prunus.report.scaling_results import ScalingResults
from prunus.report.swatches import swatch

CAPTION = (
    "How much the gradient over all training images changes along a step, per length of the step, at its largest; by "
    "the theory of the paper a larger constant needs more steps where scaling is perfect."
)


def lipschitz_plot(results: ScalingResults) -> Plot:
    """Figure 7: a panel per optimizer and batch size, a line per sparsity; none where it was not measured."""
    look = sparsity_looks(results)
    settings = dict.fromkeys((one["optimizer"], one["batch_size"]) for one in results.lipschitz)
    panels = [
        lipschitz_panel(
            f"{optimizer}, batch {batch}",
            [one for one in results.lipschitz if (one["optimizer"], one["batch_size"]) == (optimizer, batch)],
            look,
        )
        for optimizer, batch in settings
    ]
    shown = {one["sparsity"] for one in results.lipschitz}
    keys = {wording.sparsity(sparsity): swatch(chosen) for sparsity, chosen in look.items() if sparsity in shown}
    return Plot("scaling-lipschitz", "Local Lipschitz constant", CAPTION, lipschitz_rows(results), panels, keys)


def lipschitz_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per measurement."""
    return pd.DataFrame(
        [
            {key: one[key] for key in ("optimizer", "sparsity", "batch_size")} | {"step": step, "lipschitz": value}
            for one in results.lipschitz
            for step, value in one["points"]
        ]
    )


def lipschitz_panel(title: str, trainings: Sequence[Mapping[str, Any]], look: dict[float, Look]) -> Panel:
    """One optimizer at one batch size."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        for one in trainings:
            chosen = look[one["sparsity"]]
            steps, values = zip(*one["points"], strict=True)
            style = f"{chosen.marker}{chosen.line}"
            (drawn,) = axes.plot(steps, values, style, color=chosen.colour, markersize=3, linewidth=1.2)
            drawn.set_gid(f"{HOVER}{wording.sparsity(one['sparsity'])}: {values[0]:.3g} to {values[-1]:.3g}")
        axes.set_xlabel("step")
        doubling_axis(axes)

    return Panel((4.6, 3.0), draw, SPACE)
