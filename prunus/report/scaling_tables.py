"""The tables on a steps-to-result study: its cells, fits, ratios, spaces, edges and cost, as numbers and as text."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from prunus.report import wording
from prunus.report.scaling_results import ScalingResults, named
from prunus.report.scaling_wording import interval, ratio
from prunus.scaling.censored import measurement
from prunus.scaling.findings import Finding
from prunus.scaling.metaparameters import AtEdge, FromOne, Metaparameter, Whole, at_edges
from prunus.scaling.records import place
from prunus.scaling.trials import Cell, outcomes, steps_to_result
from prunus.scaling.uncertainty import Estimate

RATIOS = ("R_K", "R_B", "R_E", "steps")
COLUMNS = ["dataset", "model", "optimizer", "sparsity", "batch_size", "k_star", "k_prev_eval"]
NUMBERS = {  # of the fit table, read off a curve
    "least_steps": lambda curve: curve.least_steps,
    "critical_batch": lambda curve: curve.critical_batch,
    "least_examples": lambda curve: curve.least_examples,
}
SPREADS = {FromOne: "logarithmic in its distance to 1", Whole: "even, whole numbers"}


def cell_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per searched cell: the fewest steps, the evaluation before them, its trials, and the best setting.

    ``k_star`` and ``k_prev_eval`` are empty where no trial met the goal.
    """
    rows = [cell_row(results, cell) for cell in results.searches]
    return pd.DataFrame(rows).astype({"k_star": "Int64", "k_prev_eval": "Int64"})


def cell_row(results: ScalingResults, cell: Cell) -> dict[str, Any]:
    """One cell."""
    winner, counts = steps_to_result(cell), outcomes(cell)
    steps = (winner.steps, winner.before) if winner else (None, None)
    start = (results.recipe["data"], results.model, cell.optimizer, cell.sparsity, cell.batch_size, *steps)
    return {
        **dict(zip(COLUMNS, start, strict=True)),
        "n_complete": counts.complete,
        "n_incomplete": counts.incomplete,
        "n_infeasible": counts.infeasible,
        "seed": cell.seed,
        **(winner.metaparameters if winner else {}),
    }


def cell_cells(results: ScalingResults) -> pd.DataFrame:
    """The cells as text, with the steps of their repeats."""
    cells = sorted(results.searches, key=lambda cell: cell.sparsity)
    return pd.DataFrame([cell_text(cell, results.repeats[place(cell)]) for cell in cells])


def cell_text(cell: Cell, repeats: list[Cell]) -> dict[str, str]:
    """One cell as text."""
    winner, counts = steps_to_result(cell), outcomes(cell)
    best = winner.metaparameters if winner else {}
    return {
        "requested": wording.sparsity(cell.sparsity),
        "optimizer": cell.optimizer,
        "batch": str(cell.batch_size),
        "seed": str(cell.seed),
        "steps": reached(cell),
        "after": f"{winner.before:,}" if winner else "",
        "again": "; ".join(map(reached, repeats)),
        "complete": str(counts.complete),
        "incomplete": str(counts.incomplete),
        "infeasible": str(counts.infeasible),
        "best setting": "; ".join(f"{name} {value:.4g}" for name, value in best.items()),
    }


def reached(cell: Cell) -> str:
    """The steps to the goal, or that more than so many are needed."""
    found = measurement(cell)
    return f"{found.steps:,}" if found.reached else f"> {found.steps:,}"


def fit_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per curve: what was fitted, with intervals, and from where to where it was measured."""
    return pd.DataFrame([fit_row(found) for found in results.findings])


def fit_row(found: Finding) -> dict[str, Any]:
    """One curve."""
    estimate = found.estimate
    numbers = {name: estimate.of(statistic) for name, statistic in NUMBERS.items()}
    return {
        "optimizer": found.optimizer,
        "sparsity": found.sparsity,
        **{key: value for name, number in numbers.items() for key, value in plain(name, number).items()},
        "sharpness": estimate.fit.curve.sharpness,
        "spread": estimate.fit.spread,
        "seeds": len({cell.seed for cell in found.cells}),
        "intervals_over": estimate.over,
        "bend_was_measured": estimate.fit.bend_was_measured,
        "smallest": estimate.fit.smallest,
        "largest": estimate.fit.largest,
    }


def plain(name: str, estimate: Estimate | None) -> dict[str, float]:
    """A number and its bounds as columns; NaN where there is none."""
    values = (np.nan,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def fit_cells(results: ScalingResults) -> pd.DataFrame:
    """The fits as text."""
    return pd.DataFrame([fit_text(found) for found in by_sparsity(results)])


def by_sparsity(results: ScalingResults) -> list[Finding]:
    """The curves, dense with every optimizer first."""
    return sorted(results.findings, key=lambda found: found.sparsity)


def fit_text(found: Finding) -> dict[str, str]:
    """One curve as text."""
    estimate, row = found.estimate, fit_row(found)

    def shown(statistic: Mapping[str, Any], name: str) -> str:
        return interval(estimate.of(statistic[name]))

    bend = "measured" if row["bend_was_measured"] else "extrapolated"
    return {
        "requested": wording.sparsity(found.sparsity),
        "optimizer": found.optimizer,
        "K_min": shown(NUMBERS, "least_steps"),
        "B_crit": shown(NUMBERS, "critical_batch"),
        "E_min": shown(NUMBERS, "least_examples"),
        "sharpness p": f"{row['sharpness']:.3g}",
        "spread of log K": f"{row['spread']:.2g}",
        "seeds": f"{row['seeds']} (interval over {estimate.over})",
        "bend": f"{bend} ({row['smallest']} to {row['largest']})",
    }


def ratio_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per sparse curve: R_K, R_B, R_E and the paired ratio of steps, each over dense, with intervals."""
    return pd.DataFrame(
        [
            {"optimizer": found.optimizer, "sparsity": found.sparsity}
            | {key: value for name, number in ratios_of(found).items() for key, value in plain(name, number).items()}
            for found in results.findings
            if found.sparsity > 0.0
        ]
    )


def ratio_cells(results: ScalingResults) -> pd.DataFrame:
    """The ratios as text, with what their intervals show."""
    return pd.DataFrame(
        [
            {"requested": wording.sparsity(found.sparsity), "optimizer": found.optimizer}
            | {name: ratio(number) if number else "no pair" for name, number in ratios_of(found).items()}
            for found in by_sparsity(results)
            if found.sparsity > 0.0
        ]
    )


def ratios_of(found: Finding) -> dict[str, Estimate | None]:
    """The ratios of one sparse curve to dense; None where they cannot be paired."""
    three = found.to_dense
    to_dense = (three.least_steps, three.critical_batch, three.least_examples) if three else (None, None, None)
    return dict(zip(RATIOS, (*to_dense, found.steps_to_dense), strict=True))


def space_cells(results: ScalingResults) -> pd.DataFrame:
    """A row per optimizer and metaparameter: the range that was searched."""
    return pd.DataFrame(
        [
            {"optimizer": optimizer, "metaparameter": name, **range_text(searched)}
            for optimizer in results.optimizers
            for name, searched in results.space(optimizer).items()
        ]
    )


def range_text(searched: Metaparameter) -> dict[str, str]:
    """From where to where, and how it is spread."""
    ends = sorted((searched(0.0), searched(1.0)))
    spread = SPREADS.get(type(searched), "logarithmic")
    return {"from": f"{ends[0]:.6g}", "to": f"{ends[1]:.6g}", "spread": spread}


def edges(results: ScalingResults) -> Iterator[str]:
    """A sentence per cell that was searched in a wider space, or whose best setting still lies at an edge."""
    for cell, record in zip(results.searches, results.records, strict=True):
        searched, best = dict(results.space(cell.optimizer)), steps_to_result(cell)
        for step in record["widened"]:
            name, value = step["name"], step["value"]
            searched |= {edge.name: edge.widened for edge in at_edges({name: searched[name]}, {name: value})}
        still = at_edges(searched, best.metaparameters) if best else ()
        if record["widened"] or still:
            yield edge_sentence(cell, [f"{one['name']} ({one['side']} end)" for one in record["widened"]], still)


def edge_sentence(cell: Cell, widened: list[str], still: tuple[AtEdge, ...]) -> str:
    """'`sgd` at 90 %, batch 64, seed 0: widened learning_rate (high end); still at the high end: learning_rate 1.2'."""
    parts = [f"widened {wording.listed(widened)}"] if widened else []
    parts += [f"still at the {edge.side} end: {edge.name} {edge.value:.4g}" for edge in still]
    return f"{named(place(cell))}: {'; '.join(parts)}."


def cost_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per optimizer and sparsity: examples trained and evaluated, and seconds, of searches and repeats."""
    rows = [
        {"optimizer": one["cell"]["optimizer"], "sparsity": one["cell"]["sparsity"], "cells": 1}
        | {name: one[name] for name in ("trained", "evaluated", "seconds")}
        for one in results.records
    ]
    summed = pd.DataFrame(rows).groupby(["optimizer", "sparsity"], sort=True).sum().reset_index()
    order = {name: number for number, name in enumerate(results.optimizers)}
    return summed.sort_values(["sparsity", "optimizer"], key=lambda column: column.replace(order), kind="stable")


def cost_cells(results: ScalingResults) -> pd.DataFrame:
    """The cost as text, with the sum of all."""
    rows = cost_rows(results)
    names = ["cells", "trained", "evaluated", "seconds"]
    texts = [
        {"curve": f"{row['optimizer']} at {wording.sparsity(row['sparsity'])}", **cost_text(row)}
        for row in rows.to_dict("records")
    ]
    return pd.DataFrame([*texts, {"curve": "all", **cost_text(rows[names].sum().to_dict())}])


def cost_text(row: Mapping[Any, Any]) -> dict[str, str]:
    """One row."""
    return {
        "cells": f"{row['cells']:.0f}",
        "examples trained": wording.count(row["trained"]),
        "examples evaluated": wording.count(row["evaluated"]),
        "seconds": f"{row['seconds']:,.0f}",
    }
