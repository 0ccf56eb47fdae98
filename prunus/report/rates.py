"""The plot of learning rates: a panel per method, a line per budget, of one seed at the highest sparsity."""

import pandas as pd
from matplotlib.axes import Axes

from prunus.report import wording
from prunus.report.drawing import HOVER, Panel, Plot, Space
from prunus.report.palette import DENSE, MUTED, Look, levels
from prunus.report.results import Results
from prunus.report.swatches import swatch
from prunus.report.tables import budgets, reference, told_apart

MOST = 12  # panels
LONGEST = 42  # letters in a title
CAPTION = (
    "The learning rate at each step of a run, of seed {seed} and at {sparsity} sparsity, each panel on its own scale; "
    "dotted where a cycle pruned."
)


def rates_plot(results: Results) -> Plot:
    """The learning rates of dense training and of the methods; those that followed the same share a panel."""
    data = told_apart(shown(results), results)
    found = alike(data)
    names = budgets(results)
    colours = {"": DENSE} | dict(zip(names, levels(len(names)), strict=True))
    panels = [rate_panel(variants, data[data["variant"] == variants[0]], results, colours) for variants in found[:MOST]]
    keys = {name: swatch(Look(colours[name], "", "-")) for name in names if name}
    return Plot("learning-rates", "Learning rates", caption(data, found), data.drop(columns="variant"), panels, keys)


def shown(results: Results) -> pd.DataFrame:
    """The rates of the first seed at the highest sparsity, and those of the dense reference."""
    rates = results.rates
    rates = rates[rates["seed"].eq(float(rates["seed"].min()))]
    dense = rates["method"] == reference(results.runs)
    return rates[dense | rates["requested_sparsity"].eq(float(rates["requested_sparsity"].max()))]


def alike(data: pd.DataFrame) -> list[list[str]]:
    """The variants in groups that have the same rates at the same steps with each budget."""
    groups: dict[tuple[tuple[object, ...], ...], list[str]] = {}
    for variant, rates in data.groupby("variant", sort=False):
        curve = tuple(rates[["budget", "step", "learning_rate"]].itertuples(index=False, name=None))
        groups.setdefault(curve, []).append(str(variant))
    return list(groups.values())


def caption(data: pd.DataFrame, found: list[list[str]]) -> str:
    """What the panels show, which methods share one, and how many are left out."""
    if data.empty:
        return ""
    requested = wording.sparsity(float(data["requested_sparsity"].max()))
    text = CAPTION.format(seed=data["seed"].iloc[0], sparsity=requested)
    for first, *others in found[:MOST]:
        text += f" {named(others)} followed the same rates as `{first}`." if others else ""
    rest = sum(map(len, found[MOST:]))
    return text + (
        f" Of {len(found)} different courses the first {MOST} are shown, {rest} methods left out." * (rest > 0)
    )


def named(variants: list[str]) -> str:
    """Variants as prose."""
    return wording.listed([f"`{variant}`" for variant in variants])


def rate_panel(variants: list[str], data: pd.DataFrame, results: Results, colours: dict[str, str]) -> Panel:
    """The rates of one group of methods."""
    whole = ", ".join(variants)
    title = whole if len(whole) <= LONGEST else f"{variants[0]} and {len(variants) - 1} more"

    def draw(axes: Axes) -> None:
        axes.set_title(title if len(variants) > 1 else variants[0])
        for step in results.cycles.loc[results.cycles["run"].isin(data["run"]), "step"].unique():
            axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=":")
        for budget, run in data.groupby("budget", sort=False):
            (line,) = axes.plot(run["step"], run["learning_rate"], color=colours.get(str(budget), DENSE), linewidth=1.4)
            line.set_gid(f"{HOVER}{variants[0]}, at most {run['learning_rate'].max():.3g}")
        axes.set_xlabel("step")
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0.0)

    return Panel((3.4, 2.2), draw, Space(left=0.62))
