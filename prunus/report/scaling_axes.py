"""Axes in doublings, and what is drawn on them of one curve over the batch size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from prunus.report import wording
from prunus.report.drawing import HOVER, Space
from prunus.report.palette import DENSE, INK, MARKERS, MUTED, Look, levels
from prunus.report.scaling_results import ScalingResults, mean_steps
from prunus.report.scaling_wording import interval
from prunus.scaling.censored import measurement
from prunus.scaling.curve import regions
from prunus.scaling.findings import Finding
from prunus.scaling.trials import Cell
from prunus.scaling.uncertainty import CurveEstimate, Estimate

SPACE = Space(left=0.56, bottom=0.42)
MOST_TICKS = 8
NUMBERS = ("value", "low", "high")  # of an estimate
Points = dict[int, float]


@dataclass(frozen=True)
class Scale:
    """What is drawn of K steps at batch size B: K over a ``reference``, or with ``examples`` B K."""

    reference: float = 1.0
    examples: bool = False

    def __call__(self, batch: float, steps: float) -> float:
        return (batch * steps if self.examples else steps) / self.reference


STEPS = Scale()


class Line(NamedTuple):
    """A curve of a panel: its cells, its fit where there is one, and how it looks."""

    label: str
    cells: Sequence[Cell]
    finding: Finding | None
    look: Look

    @property
    def points(self) -> Points:
        """The mean steps over seeds by batch size."""
        return mean_steps(self.cells)


def sparsity_looks(results: ScalingResults) -> dict[float, Look]:
    """A look per sparsity: dense as everywhere, the others darker as they are sparser."""
    sparse = [sparsity for sparsity in results.sparsities if sparsity > 0.0]
    colours = [DENSE] * (0.0 in results.sparsities) + levels(len(sparse))
    return {
        sparsity: Look(colour, MARKERS[place % len(MARKERS)], "-")
        for place, (sparsity, colour) in enumerate(zip(results.sparsities, colours, strict=True))
    }


def batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    """The batch sizes in doublings, with some space at the ends."""
    axes.set_xscale("log", base=2)
    shown = batches[:: math.ceil(len(batches) / MOST_TICKS)]
    axes.xaxis.set_ticks(list(shown), [str(batch) for batch in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(batches[0] / 1.5, batches[-1] * 1.5)
    axes.set_xlabel("batch size")


def doubling_axis(axes: Axes) -> None:
    """Ticks at powers of two, as many as find room, over two doublings at least; to be called when all is drawn."""
    axes.set_yscale("log", base=2)
    low, high = (math.log2(edge) for edge in axes.get_ylim())
    low, high = min(low, (low + high) / 2 - 1), max(high, (low + high) / 2 + 1)
    every = max(1, math.ceil((high - low) / 7))
    powers = range(math.ceil(low / every) * every, math.floor(high) + 1, every)
    axes.yaxis.set_ticks([2.0**power for power in powers], [power_of_two(power) for power in powers])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(2.0**low, 2.0**high)


def power_of_two(power: int) -> str:
    """'256', or '1/16'."""
    return wording.count(2.0**power) if power >= 0 else f"1/{2**-power}"


def draw_fit(axes: Axes, line: Line, scale: Scale = STEPS, *, band: bool = True) -> None:
    """The fitted curve between the batch sizes that met the goal, in the band of its intervals."""
    if line.finding is None:
        axes.plot(*shown(line.points, scale), color=line.look.colour, linewidth=0.8, linestyle=":")
        return
    estimate = line.finding.estimate
    batches = np.geomspace(estimate.fit.smallest, estimate.fit.largest, 33).tolist()
    found = [steps_at(estimate, batch) for batch in batches]
    middle, low, high = ([scale(b, getattr(e, n)) for b, e in zip(batches, found, strict=True)] for n in NUMBERS)
    if band:
        axes.fill_between(batches, low, high, color=line.look.colour, alpha=0.14, linewidth=0)
    (drawn,) = axes.plot(batches, middle, color=line.look.colour, linestyle=line.look.line, linewidth=1.3)
    critical = interval(estimate.of(lambda curve: curve.critical_batch))
    drawn.set_gid(f"{HOVER}{line.label}: critical batch {critical}")


def steps_at(estimate: CurveEstimate, batch: float) -> Estimate:
    """The fitted steps at a batch size."""
    return estimate.of(lambda curve: curve(batch))


def draw_points(axes: Axes, line: Line, scale: Scale = STEPS) -> None:
    """The means over seeds, and bounds where the goal was not met."""
    points = line.points
    if points:
        colour, marker = line.look.colour, line.look.marker
        (drawn,) = axes.plot(*shown(points, scale), color=colour, marker=marker, linestyle="", markersize=4.5)
        said = ", ".join(f"B={batch}: {wording.count(steps)}" for batch, steps in points.items())
        drawn.set_gid(f"{HOVER}{line.label}, steps at batch size: {said}")
    draw_bounds(axes, line.cells, line.look.colour, scale)


def draw_bounds(axes: Axes, cells: Sequence[Cell], colour: str, scale: Scale = STEPS) -> None:
    """An arrow up from the steps that were not enough."""
    for found in map(measurement, cells):
        if not found.reached:
            at = (found.batch_size, scale(found.batch_size, found.steps))
            axes.plot(*at, marker="^", markersize=6, markerfacecolor="none", color=colour, linestyle="")
            arrow = {"arrowstyle": "<-", "color": colour}
            axes.annotate("", at, xytext=(0, 14), textcoords="offset points", arrowprops=arrow)


def shown(points: Points, scale: Scale) -> tuple[list[int], list[float]]:
    """Batch sizes, and what is drawn over them."""
    return list(points), [scale(batch, steps) for batch, steps in points.items()]


def draw_perfect(axes: Axes, points: Points, batches: Sequence[int], scale: Scale = STEPS) -> None:
    """The dashed line of perfect scaling through the smallest batch size of ``points``; it moves no limits."""
    if points:
        first = min(points)
        steps = [scale(batch, points[first] * first / batch) for batch in batches]
        axes.plot(batches, steps, "--", color=INK, linewidth=0.9, zorder=1.5, scaley=False)


def draw_regions(axes: Axes, finding: Finding, batches: Sequence[int]) -> None:
    """Dotted lines where the three regions meet, and their names at the top where there is room."""
    ends = [finding.estimate.of(lambda curve: regions(curve).perfect_until).value]
    ends.append(finding.estimate.of(lambda curve: regions(curve).maximal_from).value)
    low, high = batches[0] / 1.5, batches[-1] * 1.5
    edges = [low, *(min(max(end, low), high) for end in ends), high]
    for end in ends:
        if low < end < high:
            axes.axvline(end, color=MUTED, linewidth=0.8, linestyle=":")
    names = ("perfect", "diminishing", "maximal")
    for name, left, right in zip(names, edges[:-1], edges[1:], strict=True):
        room = math.log(right / left) / math.log(high / low)
        if room > 0.05 + 0.022 * len(name):
            at, across = math.sqrt(left * right), axes.get_xaxis_transform()
            axes.text(at, 0.995, name, transform=across, ha="center", va="top", color=MUTED, fontsize=7)
