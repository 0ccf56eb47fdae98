"""The plot of learning: what every training of an agent scored, and the best so far, at equal cost."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.curves import bare
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import Look, looks
from prunus.report.results import Results
from prunus.report.schedules import ORDER
from prunus.report.swatches import swatch

CAPTION = (
    "Validation accuracy at the end of each training while an agent learned, in order: a dot a training, a line the "
    "best so far, × one that diverged and costs as much. At the same place on the axis all agents have spent as "
    "many trainings; the finalists' trainings, which chose the schedule with other seeds, come after and are not shown."
)
COLUMNS = ["requested_sparsity", "method", "agent", "training", "seed", "accuracy", "realised_sparsity", "best"]


def lessons_plot(results: Results) -> Plot:
    """A panel per requested sparsity and method, an agent a colour."""
    data = episodes(results.learned["lessons"])
    agents = sorted(set(data["agent"]), key=lambda agent: (ORDER.get(agent, ORDER[""]), agent))
    look = bare(looks(agents))
    panels = [
        lesson_panel(f"validation accuracy, %: {method} at {wording.sparsity(float(str(requested)))}", cells, look)
        for (requested, method), cells in data.groupby(["requested_sparsity", "method"], sort=False)
    ]
    keys = {agent: swatch(chosen) for agent, chosen in look.items()}
    return Plot("schedule-agents", "Learning", CAPTION, data, panels, keys)


def episodes(lessons: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per training of each lesson, from 1 on: its accuracy, NaN where it diverged, and the ``best`` so far."""
    rows = [
        [
            lesson["sparsity"],
            lesson["method"],
            lesson["agent"],
            number,
            *(tried[key] for key in ("seed", "accuracy", "sparsity")),
        ]
        for lesson in lessons
        for number, tried in enumerate(lesson["episodes"], 1)
    ]
    data = pd.DataFrame(rows, columns=COLUMNS[:-1]).astype({"accuracy": float, "realised_sparsity": float})
    data = data.sort_values("requested_sparsity", kind="stable", ignore_index=True)
    best = data.groupby(COLUMNS[:3], sort=False)["accuracy"].cummax()
    return data.assign(best=best.groupby([data[key] for key in COLUMNS[:3]], sort=False).ffill())


def lesson_panel(title: str, cells: pd.DataFrame, look: dict[str, Look]) -> Panel:
    """All agents for one method at one requested sparsity."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        for agent, tried in cells.groupby("agent"):
            draw_agent(axes, str(agent), tried, look[str(agent)])
        axes.set_xlabel("training")
        axes.margins(x=0.03, y=0.08)

    return Panel((4.6, 3.1), draw)


def draw_agent(axes: Axes, agent: str, tried: pd.DataFrame, look: Look) -> None:
    """One agent: a dot a training, the best so far as steps, × at the bottom where one diverged."""
    dots = tried.dropna(subset="accuracy")
    axes.plot(dots["training"], 100 * dots["accuracy"], "o", color=look.colour, markersize=3, alpha=0.45, mew=0)
    lost = tried.loc[tried["accuracy"].isna(), "training"]
    below = axes.get_xaxis_transform()
    axes.plot(lost, [0.02] * len(lost), "x", color=look.colour, markersize=4, transform=below, mew=0.9)
    (line,) = axes.step(tried["training"], 100 * tried["best"], where="post", color=look.colour, linestyle=look.line)
    reached = "nothing finite" if dots.empty else f"best {wording.percent(dots['accuracy'].max())} %"
    line.set_gid(f"{HOVER}{agent}: {reached} of {len(tried)} trainings")
