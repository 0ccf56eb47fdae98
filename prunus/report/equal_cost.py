"""Streams at equal cost: what each method had reached when it had spent as many operations as every other."""

from functools import lru_cache

import numpy as np
import pandas as pd

from prunus.report import wording
from prunus.report.cells import Row
from prunus.report.paired import over_pairs
from prunus.report.results import Results
from prunus.report.schedules import interval, reading
from prunus.report.streams import stream_pairs
from prunus.report.tables import CELL, mean, records, sd

LEAD = (
    "At equal cost: test accuracy when every method has spent as many multiply-accumulates on training as the one that "
    "spends the fewest in all. It is interpolated, linearly between the networks after two megabatches: no network of "
    "exactly this cost was trained or tested. What costs less a step has by then seen more of the stream."
)
TITLE = "test accuracy there, %"


@lru_cache(maxsize=8)
def at_equal_cost(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and run, the dense ones with each: what it had reached when it had spent ``cost``.

    ``cost`` is the least that any of them spent in all. ``accuracy`` and ``megabatch`` are interpolated between
    megabatches, NaN where a run had not trained its first network by then.
    """
    dense = set(results.runs.loc[results.runs["name"] == "dense", "run"])
    rows = results.megabatches
    of_dense, sparse = rows[rows["run"].isin(dense)], rows[~rows["run"].isin(dense)]
    groups = list(sparse.groupby("requested_sparsity", dropna=False)) or [(0.0, of_dense)]
    found = []
    for requested, cells in groups:
        each = dict(list(pd.concat([of_dense, cells]).drop_duplicates(["run", "megabatch"]).groupby("run", sort=False)))
        cost = min(float(run["training_macs"].iloc[-1]) for run in each.values())
        found += [[requested, str(name), *reached(run, cost)] for name, run in each.items()]
    table = pd.DataFrame(found, columns=["requested_sparsity", "run", "cost", "accuracy", "megabatch", "last", "of"])
    return table.merge(results.runs[["run", "method", "seed"]], on="run")


def reached(run: pd.DataFrame, cost: float) -> list[float]:
    """The cost, the accuracy and megabatch at it, then those at the end of the stream."""
    spent = run["training_macs"]
    at = [float(np.interp(cost, spent, run[name], left=np.nan)) for name in ("accuracy", "megabatch")]
    return [cost, *at, float(run["accuracy"].iloc[-1]), float(run["megabatch"].iloc[-1])]


@lru_cache(maxsize=8)
def equal_cost(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method: means over seeds at equal cost, and the difference to dense by seed."""
    table = at_equal_cost(results)
    cells = table.groupby(CELL, sort=False, dropna=False)
    means = cells[["cost", "accuracy", "megabatch", "last", "of"]].agg(mean)
    deviations = cells[["accuracy", "last"]].agg(sd).add_suffix("_sd")
    whole = pd.concat([cells.size().rename("n"), means, deviations], axis=1).reset_index()
    partners = stream_pairs(results).set_index("run")["partner"]
    pairs = table.assign(partner=table["run"].map(partners)).dropna(subset="partner")
    others = table[["requested_sparsity", "run", "accuracy"]]
    others = others.rename(columns={"run": "partner", "accuracy": "pair"})
    pairs = pairs.merge(others, on=["requested_sparsity", "partner"])
    gaps = over_pairs(pairs.assign(less=pairs["accuracy"] - pairs["pair"]), "less")
    return whole.merge(gaps.rename(columns={"n": "pairs"}), on=CELL, how="left")


def equal_cost_cells(results: Results) -> pd.DataFrame:
    """The table of what was reached at equal cost."""
    return pd.DataFrame([equal_cost_row(row) for row in records(equal_cost(results))])


def equal_cost_row(row: Row) -> dict[str, str]:
    """One method at one sparsity."""
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "training MACs": wording.count(row["cost"]),
        **there(row),
        **paired_there(row),
        "test accuracy at the end, %": wording.sample(100 * row["last"], 100 * row["last_sd"], row["n"]),
    }


def there(row: Row) -> dict[str, str]:
    """What it had reached, and how much of the stream it had seen."""
    if pd.isna(row["accuracy"]):
        return {TITLE: "no network yet", "megabatches by then": ""}
    return {
        TITLE: wording.sample(100 * row["accuracy"], 100 * row["accuracy_sd"], row["n"]),
        "megabatches by then": f"{row['megabatch']:.1f} of {row['of']:.0f}",
    }


def paired_there(row: Row) -> dict[str, str]:
    """What it had reached less what dense had, by seed; empty where nothing is paired."""
    if pd.isna(row["difference"]):
        return dict.fromkeys(("less dense there, points", "95 % interval", "reading"), "")
    pair = {**row, "n": int(row["pairs"])}
    return {
        "less dense there, points": wording.points(row["difference"], row["difference_sd"], pair["n"]),
        "95 % interval": interval(pair),
        "reading": reading(pair),
    }
