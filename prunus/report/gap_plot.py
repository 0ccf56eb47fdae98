"""The plot of the gap between training and validation accuracy while a stream is trained on (APP's Figure 3)."""

import pandas as pd
from matplotlib.axes import Axes

from prunus.report.anytime_plot import groups, keyed, stream_looks
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import INK, MUTED, Look
from prunus.report.results import Results
from prunus.report.rows import IDENTITY
from prunus.report.tables import CELL, mean

CAPTION = (
    "The gap while training goes on: accuracy on a sample of the training images less that on the validation images, "
    "both in eval mode, in points, against the steps of training at all megabatches; thick the mean, thin the seeds. "
    "Dotted where a megabatch ends; at the top in the colour of its method where they end at different steps."
)
PLACE = ["megabatch", "training", "place"]


def gap_plot(results: Results) -> Plot:
    """A panel per requested sparsity and budget, a line per method."""
    data = gap_rows(results)
    look = stream_looks(results)
    panels = [gap_panel(f"gap while training, points, {at}", rows, look) for at, rows in groups(results, data)]
    return Plot("anytime-gap", "The gap during training", CAPTION, data, panels, keyed(look))


def gap_rows(results: Results) -> pd.DataFrame:
    """A row per evaluation of a run over a stream: its gap, and that by the running accuracy, as fractions."""
    rows = results.curves[results.curves["train_accuracy"].notna()]
    rows = rows.assign(
        gap=rows["train_accuracy"] - rows["accuracy"], running_gap=rows["running_accuracy"] - rows["accuracy"]
    )
    return rows[[*IDENTITY, *PLACE, "step", "train_accuracy", "accuracy", "gap", "running_gap"]]


def gap_means(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean gap and step over seeds at every evaluation that all seeds of a method made.

    Evaluations are matched by their place in a megabatch: patience ends that of each seed at its own step.
    """
    cells = rows.groupby([*CELL, *PLACE], sort=False, dropna=False)
    table = cells.agg(step=("step", mean), gap=("gap", mean), n=("run", "nunique")).reset_index()
    return table[table["n"] == table.groupby(CELL, dropna=False)["n"].transform("max")]


def ends(rows: pd.DataFrame) -> tuple[float, ...]:
    """The mean step over seeds of the last evaluation at each megabatch."""
    last = rows.groupby(["run", "megabatch"])["step"].max()
    return tuple(last.groupby("megabatch").mean())


def gap_panel(title: str, rows: pd.DataFrame, look: dict[str, Look]) -> Panel:
    """The methods at one requested sparsity."""
    drawn = {variant: rows[rows["variant"] == variant] for variant in look if variant in set(rows["variant"])}

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.grid(visible=False, axis="x")  # the ends of megabatches stand for it
        axes.axhline(0.0, color=INK, linewidth=0.6)
        draw_ends(axes, {look[variant].colour: ends(cells) for variant, cells in drawn.items()})
        for variant, cells in drawn.items():
            draw_gap(axes, variant, cells, look[variant])
        axes.set_xlabel("step of training")
        axes.margins(x=0.02)

    return Panel((7.0, 3.4), draw)


def draw_ends(axes: Axes, steps: dict[str, tuple[float, ...]]) -> None:
    """Where megabatches end: across the panel where all methods agree, else at its top by colour."""
    alike = len(set(steps.values())) == 1
    for colour, places in list(steps.items())[: 1 if alike else None]:
        for place in places:
            axes.axvline(place, 0 if alike else 0.95, color=MUTED if alike else colour, linewidth=0.7, linestyle=":")


def draw_gap(axes: Axes, variant: str, rows: pd.DataFrame, look: Look) -> None:
    """The gap of one method: every seed thin, the mean over it."""
    for _, run in rows.groupby("run"):
        axes.plot(run["step"], 100 * run["gap"], color=look.colour, linewidth=0.5, alpha=0.25)
    means = gap_means(rows)
    (line,) = axes.plot(means["step"], 100 * means["gap"], color=look.colour, linestyle=look.line, linewidth=1.4)
    line.set_gid(f"{HOVER}{variant}")
