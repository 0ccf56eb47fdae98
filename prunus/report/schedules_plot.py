"""The picture of schedules: the sparsity of each layer over training, as it was learned, beside the handmade ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.curves import HEIGHT, WIDTH, bare
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import INK, MUTED, Look, halvings, looks, sparsity_ticks, usual_ticks
from prunus.report.results import Results
from prunus.report.schedules import HANDMADE, scheduled
from prunus.report.swatches import swatch

CAPTION = (
    "Learned schedules: the sparsity of each layer from update to update of the masks, a line a layer. Grey, where the "
    "study has them: the handmade schedules, the same in every layer, as realised at the evaluations. The axis goes by "
    "how often the kept part is halved."
)
COLUMNS = ["requested_sparsity", "method", "schedule", "update", "layer", "realised_sparsity"]
GREYS = (*(Look(MUTED, "", line) for line in ("-", "--", "-.", ":")), Look(INK, "", "-"))
HANDMADE_LOOK: Mapping[str, Look] = dict(zip(HANDMADE, GREYS, strict=True))


def schedules_plot(results: Results) -> Plot:
    """A panel per lesson, and at each requested sparsity one of the handmade schedules; none where none was learned."""
    learned = layer_rows(results.learned["lessons"])
    handmade = handmade_rows(results)
    layers = bare(looks(list(dict.fromkeys(learned["layer"]))))
    highest = float(learned["realised_sparsity"].max()) if len(learned) else 0.0
    panels = []
    for requested, cells in learned.groupby("requested_sparsity"):
        at = f"at {wording.sparsity(float(str(requested)))}"
        for (method, agent), rows in cells.groupby(["method", "schedule"], sort=False):
            panels.append(sparsity_panel(f"{agent}, {method} {at}", rows, "layer", layers, highest))
        beside = handmade[handmade["requested_sparsity"] == requested]
        if len(beside):
            panels.append(sparsity_panel(f"handmade {at}", beside, "schedule", HANDMADE_LOOK, highest))
    shown = {name: look for name, look in HANDMADE_LOOK.items() if name in set(handmade["schedule"])} if panels else {}
    keys = {name: swatch(look) for name, look in (layers | shown).items()}
    data = pd.concat([learned, handmade], ignore_index=True) if len(handmade) else learned
    return Plot("learned-schedules", "Schedules, layer by layer", CAPTION, data, panels, keys)


def layer_rows(lessons: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per lesson, update and layer of what was learned; the last sparsity is held to the end of training."""
    rows = [
        [lesson["sparsity"], lesson["method"], lesson["agent"], update, layer, 1 - density]
        for lesson in lessons
        for update, densities in enumerate([*lesson["densities"], *lesson["densities"][-1:]])
        for layer, density in zip(lesson["layers"], densities, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def handmade_rows(results: Results) -> pd.DataFrame:
    """A row per handmade schedule and evaluation: mean over the runs of what all layers together realised.

    No rows without a lesson, whose steps between updates are those of the axis.
    """
    every = {lesson["sparsity"]: lesson["update_every"] for lesson in results.learned["lessons"]}
    runs = scheduled(results)
    chosen = runs[runs["schedule"].isin(HANDMADE) & runs["requested_sparsity"].isin(list(every))]
    curves = results.curves.merge(chosen[["run", "schedule"]], on="run")
    means = curves.groupby(["requested_sparsity", "schedule", "step"], sort=False)["realised_sparsity"].mean()
    table = means.reset_index()
    table["update"] = table["step"] / table["requested_sparsity"].map(every).astype(float)
    return table.assign(method="", layer="")[COLUMNS]


def sparsity_panel(title: str, rows: pd.DataFrame, line: str, look: Mapping[str, Look], highest: float) -> Panel:
    """One schedule with a line a layer, or several with a line each; a layer's sparsity holds until the next update."""
    names = list(dict.fromkeys(rows[line]))
    # the last is the thinnest: where layers go together each can be seen below those after it
    widths = dict(zip(names, np.linspace(1.2 + 0.4 * (len(names) - 1), 1.2, len(names)).clip(max=4.0), strict=True))

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        for name, values in rows.groupby(line, sort=False):
            colour, _, dashes = look[str(name)]
            (drawn,) = axes.plot(values["update"], halvings(values["realised_sparsity"]), color=colour)
            style = "steps-post" if line == "layer" else "default"
            drawn.set(linestyle=dashes, linewidth=widths[name], drawstyle=style, solid_capstyle="butt")
            low, high = values["realised_sparsity"].min(), values["realised_sparsity"].max()
            drawn.set_gid(f"{HOVER}{name}: {wording.zeros(low)} to {wording.zeros(high)} %")
        sparsity_ticks(axes.yaxis, usual_ticks(highest))
        axes.set(xlabel="update of the masks", ylabel="sparsity, %", ylim=(-0.15, float(halvings(highest)) + 0.3))

    return Panel((WIDTH, HEIGHT), draw, Space(left=0.58))
