"""The plots of steps to a result over the batch size: each curve alone, sparsities together, optimizers together."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.drawing import HOVER, Panel, Plot
from prunus.report.palette import INK, MUTED, Look, looks
from prunus.report.scaling_axes import (
    SPACE,
    STEPS,
    Line,
    Scale,
    batch_axis,
    doubling_axis,
    draw_bounds,
    draw_fit,
    draw_perfect,
    draw_points,
    draw_regions,
    sparsity_looks,
)
from prunus.report.scaling_results import ScalingResults
from prunus.report.swatches import mark, swatch
from prunus.scaling.censored import measurement
from prunus.scaling.records import place
from prunus.scaling.trials import Cell

WIDTH, HEIGHT = 3.5, 2.7
ALONE = (
    "Steps to the goal over the batch size, both in doublings: filled the search, hollow its repeats from other "
    "weights, the fitted curve in the band of its 95 % intervals, dashed perfect scaling from the smallest batch size "
    "measured. Dotted where efficiency falls below 90 % and where steps come within 10 % of the fewest: between them "
    "returns diminish. An arrow: more steps than this are needed, the goal was not met."
)
SPARSITIES = (
    "The same, a curve per sparsity, a point the geometric mean over seeds; on the right over the steps at the "
    "smallest batch size that all met, which takes away how hard the task is and leaves where the curves bend."
)
OPTIMIZERS = "The same, a curve per optimizer at each sparsity. Dashed is perfect scaling of the first of them."
EXAMPLES = (
    "Examples to the goal, batch size times steps: level where scaling is perfect, twice as high where half of each "
    "batch is wasted."
)
PERFECT = swatch(Look(INK, "", "--"))


def alone_plot(results: ScalingResults) -> Plot:
    """Figure 1: a panel per optimizer and sparsity."""
    panels = [alone_panel(results, line) for line in lines(results)]
    first = next(iter(lines(results))).look
    keys = {
        "search": mark(first.marker, first.colour),
        "repeat": mark("o", first.colour, hollow=True),
        "not met": mark("^", first.colour, hollow=True),
        "fit": swatch(Look(first.colour, "", "-")),
        "perfect scaling": PERFECT,
        "regions": swatch(Look(MUTED, "", ":")),
    }
    return Plot("scaling-curves", "Steps to the goal", ALONE, point_rows(results), panels, keys)


def lines(results: ScalingResults) -> list[Line]:
    """All curves, by optimizer and sparsity."""
    look = sparsity_looks(results)
    return [
        Line(f"{optimizer}, {wording.sparsity(sparsity)}", cells, results.finding(optimizer, sparsity), look[sparsity])
        for (optimizer, sparsity), cells in results.curves.items()
    ]


def alone_panel(results: ScalingResults, line: Line) -> Panel:
    """One curve with its regions."""
    searches = [cell for cell in line.cells if place(cell) in results.repeats]
    repeats = [cell for cell in line.cells if place(cell) not in results.repeats]

    def draw(axes: Axes) -> None:
        batches = results.batch_sizes
        axes.set_title(line.label)
        batch_axis(axes, batches)
        draw_cells(axes, repeats, line.look._replace(marker="o"), hollow=True)
        draw_cells(axes, searches, line.look)
        draw_fit(axes, line)
        draw_bounds(axes, line.cells, line.look.colour)
        doubling_axis(axes)
        draw_perfect(axes, line.points, batches)
        if line.finding is not None:
            draw_regions(axes, line.finding, batches)

    return Panel((WIDTH, HEIGHT), draw, SPACE)


def draw_cells(axes: Axes, cells: Sequence[Cell], look: Look, *, hollow: bool = False) -> None:
    """A marker per cell that met the goal."""
    found = [one for one in map(measurement, cells) if one.reached]
    batches, steps = [one.batch_size for one in found], [one.steps for one in found]
    face, size = ("none", 4) if hollow else (look.colour, 5)
    (drawn,) = axes.plot(
        batches, steps, look.marker, color=look.colour, markerfacecolor=face, markersize=size, linestyle=""
    )
    said = ", ".join(f"B={one.batch_size}: {one.steps} steps" for one in found)
    drawn.set_gid(f"{HOVER}{'repeats' if hollow else 'search'}, {said}")


def sparsities_plot(results: ScalingResults) -> Plot:
    """Figure 2: a panel per optimizer, and beside it the same normalised."""
    panels = []
    for optimizer in results.optimizers:
        own = of_optimizer(results, optimizer)
        panels.append(together(f"{optimizer}: steps", own, results.batch_sizes, STEPS))
        scales = normalising(own)
        if scales:
            panels.append(together(f"{optimizer}: over those at batch {scales[0]}", own, results.batch_sizes, None))
    return Plot(
        "scaling-sparsities", "Sparsities together", SPARSITIES, mean_rows(results), panels, sparsity_keys(results)
    )


def normalising(own: Sequence[Line]) -> list[int]:
    """The batch sizes at which all these curves met the goal, ascending."""
    return sorted(set.intersection(*(set(line.points) for line in own))) if own else []


def of_optimizer(results: ScalingResults, optimizer: str) -> list[Line]:
    """The curves of one optimizer, a line per sparsity."""
    return [
        line._replace(label=wording.sparsity(sparsity))
        for line, (name, sparsity) in zip(lines(results), results.curves, strict=True)
        if name == optimizer
    ]


def sparsity_keys(results: ScalingResults) -> dict[str, str]:
    """The keys to sparsities, and to perfect scaling."""
    found = {wording.sparsity(sparsity): swatch(look) for sparsity, look in sparsity_looks(results).items()}
    return {**found, "perfect scaling": PERFECT}


def together(title: str, own: Sequence[Line], batches: Sequence[int], scale: Scale | None) -> Panel:
    """Several curves in one panel; without a ``scale`` each over its own steps at the smallest common batch size."""
    scales = [scale or Scale(line.points[normalising(own)[0]]) for line in own]

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        batch_axis(axes, batches)
        for line, own_scale in zip(own, scales, strict=True):
            draw_fit(axes, line, own_scale)
            draw_points(axes, line, own_scale)
        doubling_axis(axes)
        draw_perfect(axes, own[0].points, batches, scales[0])

    return Panel((WIDTH, HEIGHT), draw, SPACE)


def optimizers_plot(results: ScalingResults) -> Plot:
    """Figure 3: a panel per sparsity; no panel for one optimizer alone."""
    look = looks(results.optimizers)
    found = list(zip(lines(results), results.curves, strict=True))
    panels = [
        together(
            f"steps at {wording.sparsity(sparsity)}",
            [line._replace(label=name, look=look[name]) for line, (name, at) in found if at == sparsity],
            results.batch_sizes,
            STEPS,
        )
        for sparsity in results.sparsities
    ]
    keys = {**{name: swatch(chosen) for name, chosen in look.items()}, "perfect scaling": PERFECT}
    shown = panels if len(results.optimizers) > 1 else []
    return Plot("scaling-optimizers", "Optimizers together", OPTIMIZERS, mean_rows(results), shown, keys)


def examples_plot(results: ScalingResults) -> Plot:
    """Examples to the goal: a panel per optimizer."""
    panels = [
        together(f"{name}: examples", of_optimizer(results, name), results.batch_sizes, Scale(examples=True))
        for name in results.optimizers
    ]
    keys = sparsity_keys(results)
    return Plot("scaling-examples", "Examples to the goal", EXAMPLES, mean_rows(results), panels, keys)


def point_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per cell and repeat: the steps, or a lower bound; ``searched`` tells them apart."""
    return pd.DataFrame(
        [
            {
                **place(cell)._asdict(),
                "searched": place(cell) in results.repeats,
                "met": found.reached,
                "steps": found.steps,
                "before": found.before,
            }
            for cell in results.cells
            for found in [measurement(cell)]
        ]
    )


def mean_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per curve and batch size that met the goal: the geometric mean of steps over seeds, and the fit."""
    rows = []
    for line, (optimizer, sparsity) in zip(lines(results), results.curves, strict=True):
        for batch, steps in line.points.items():
            row = {"optimizer": optimizer, "sparsity": sparsity, "batch_size": batch, "steps": steps}
            rows.append({**row, "examples": batch * steps, **fitted(line, batch)})
    return pd.DataFrame(rows)


def fitted(line: Line, batch: int) -> dict[str, float]:
    """The steps of the fitted curve with their interval; nothing where there is none."""
    if line.finding is None:
        return {}
    found = line.finding.estimate.of(lambda curve: curve(batch))
    return {"fit": found.value, "fit_low": found.low, "fit_high": found.high}
