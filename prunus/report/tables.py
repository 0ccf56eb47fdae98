"""Aggregating: the study's runs as means, sample standard deviations and paired differences over seeds."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from prunus.report.results import Results, read
from prunus.report.rows import HELD

CELL = ["requested_sparsity", "method"]
MEASURED = ["accuracy", "nll", "calibration_error", "realised_sparsity"]
COUNTED = [
    *("parameters", "parameters_kept", "macs", "macs_kept", "theoretical_speedup", "bytes_dense", "bytes_packed"),
    *("steps", "extra_forward_backward", "train_seconds"),
]
TIMED = ["throughput_ratio", "throughput_low", "throughput_high", "throughput_blocks"]
BENEFITS = [
    *(*CELL, "name", "arithmetic", "theoretical_speedup", *TIMED, "images"),
    *("steps", "extra_forward_backward", "macs", "macs_kept", "bytes_dense", "bytes_packed"),
]
TOLERANCE = 0.005


def main_table(directory: Path) -> pd.DataFrame:
    """A row per requested sparsity and method of the study in ``directory``, dense first; see ``summarise``."""
    return summarise(read(directory))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table by column name."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def mean(column: "pd.Series[float]") -> float:
    """The mean, not finite when any value is not: a diverged seed may not vanish from it."""
    return float(column.mean(skipna=False))


def sd(column: "pd.Series[float]") -> float:
    """The sample standard deviation (n - 1), NaN for one value."""
    return float(column.std(skipna=False, ddof=1))


@lru_cache(maxsize=8)
def summarise(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method: n, means over seeds, ``_sd`` beside what is measured, and throughput.

    Fractions stay fractions. ``throughput_ratio`` is measured training throughput relative to dense, ``_low`` and
    ``_high`` the quartiles of its paired blocks; NaN where nothing was measured in the runs' own number format. NaN is
    also a theoretical speed-up without bound, where some run keeps no multiplication.
    """
    cells = results.runs.groupby(CELL, sort=False, dropna=False)
    table = pd.concat(
        [
            cells[["name", "arithmetic"]].first(),
            cells.size().rename("n"),
            cells[MEASURED + COUNTED].agg(mean),
            cells[MEASURED].agg(sd).add_suffix("_sd"),
        ],
        axis=1,
    )
    timing = throughput(results.timing)[[*CELL, "arithmetic", *TIMED]]
    return table.reset_index().merge(timing, on=[*CELL, "arithmetic"], how="left")


def told_apart(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The table with the ``variant`` and the ``budget`` of each row's method; the budget empty where all share one."""
    labels = results.runs[["method", "variant", "budget"]].drop_duplicates()
    return table.merge(labels, on="method", how="left")


def budgets(results: Results) -> list[str]:
    """The budgets of the sparse methods, the shortest first; one without a name where all share one."""
    sparse = results.runs[results.runs["name"] != "dense"]
    return list(sparse.sort_values("steps", kind="stable")["budget"].drop_duplicates())


def throughput(timing: pd.DataFrame) -> pd.DataFrame:
    """The measurements under the main table's column names."""
    return timing.rename(columns={name: f"throughput_{name}" for name in ("ratio", "low", "high", "blocks")})


def reference(runs: pd.DataFrame, name: str = "dense") -> str | None:
    """Of the runs of the method ``name`` the label that others are compared to.

    Of several the one from which most runs began, then the one whose settings most runs share; never a network of
    another size than the other methods have, or an ensemble, where there is one of theirs.
    """
    found, others = runs[runs["name"] == name], runs[runs["name"] != name]
    alike = found["parameters"].isin(others["parameters"])
    found = found[alike if alike.any() else found["parameters"] == found["parameters"].min()]
    if found.empty:
        return None
    begun = found["run"].map(runs["pretraining"].value_counts())
    shared = runs.groupby(["precision", "batch_size", "steps"])["run"].transform("size")[found.index]
    return str(found["method"].iloc[(begun if begun.notna().any() else shared).argmax()])


def margin(deviation: float, n: int) -> float:
    """Half the 95 % t-interval of a mean of ``n`` values with this sample sd; NaN for one value."""
    return float(stdtrit(n - 1, 0.975) * deviation / n**0.5) if n > 1 else float("nan")


def benefits(results: Results) -> pd.DataFrame:
    """Theory beside measurement, a row per method and sparsity, and the measurements that belong to no run.

    The latter are most often dense in bf16: the rival that needs no sparsity. ``images`` are those trained on a second.
    """
    key = [*CELL, "arithmetic"]
    table = summarise(results).merge(results.timing[[*key, "images"]], on=key, how="left")[BENEFITS]
    dense = (table["method"] == reference(results.runs)) & table["images"].isna()
    table.loc[dense, "images"] = results.timing["dense_images"].median()
    alone = throughput(results.timing).merge(table[key], on=key, how="left", indicator="origin")
    alone = alone[alone.pop("origin") == "left_only"]
    extra = alone.assign(method=alone["method"] + " in " + alone["arithmetic"]).reindex(columns=BENEFITS)
    if extra.empty:
        return table
    both = pd.concat([table, extra.astype(table.dtypes.to_dict())])
    return both.sort_values("requested_sparsity", kind="stable", ignore_index=True)


def collapsed(results: Results) -> pd.DataFrame:
    """A row per sparsity, method and layer that some run left at its floor of one weight: in how many of n runs."""
    layers = results.layers.groupby([*CELL, "position", "layer"], sort=False, dropna=False)["collapsed"]
    table = layers.agg(runs="sum", n="size").reset_index()
    return table[table["runs"] > 0].reset_index(drop=True)


def misses(results: Results) -> pd.DataFrame:
    """A row per sparsity and method where a run's sparsity lies over 0.5 points off: mean, sd, runs, n.

    A learned schedule decides how much sparser than requested it is: only what is denser missed it.
    """
    gap = results.runs["realised_sparsity"] - results.runs["requested_sparsity"]
    return counted(results, (gap < -TOLERANCE) | ((gap > TOLERANCE) & ~results.runs["learned"]))


def sparser(results: Results) -> pd.DataFrame:
    """A row as in `misses` where a learned schedule left a run over 0.5 points sparser than requested."""
    gap = results.runs["realised_sparsity"] - results.runs["requested_sparsity"]
    return counted(results, (gap > TOLERANCE) & results.runs["learned"])


def counted(results: Results, off: "pd.Series[bool]") -> pd.DataFrame:
    """A row per sparsity and method of which some run is ``off``: mean and sd of its sparsity, runs, n."""
    cells = results.runs.assign(off=off).groupby(CELL, sort=False, dropna=False)
    table = cells.agg(
        realised_sparsity=("realised_sparsity", mean),
        realised_sparsity_sd=("realised_sparsity", sd),
        runs=("off", "sum"),
        n=("off", "size"),
    ).reset_index()
    return table[table["runs"] > 0].reset_index(drop=True)


def layer_means(results: Results) -> pd.DataFrame:
    """A row per method, sparsity and layer in the network's order: means over seeds, and runs that collapsed it."""
    layers = results.layers.groupby([*CELL, "position", "layer", "shape"], sort=False, dropna=False)
    return layers.agg(
        weights=("weights", mean),
        kept=("kept", mean),
        realised_sparsity=("realised_sparsity", mean),
        macs=("macs", mean),
        macs_kept=("macs_kept", mean),
        collapsed=("collapsed", "sum"),
        n=("collapsed", "size"),
    ).reset_index()


def reliability(results: Results) -> pd.DataFrame:
    """A row per sparsity, method and bin of confidence, pooled over seeds: mean confidence, accuracy, n examples."""
    bins = results.bins
    sums = bins.assign(confidence=bins["confidence"] * bins["n"], accuracy=bins["accuracy"] * bins["n"])
    cells = sums.groupby([*CELL, "low", "high"], sort=False, dropna=False)
    table = cells.agg(confidence=("confidence", "sum"), accuracy=("accuracy", "sum"), n=("n", "sum")).reset_index()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["n"], axis=0)
    return table.sort_values([*CELL, "low"], kind="stable", ignore_index=True)


def costs(results: Results) -> pd.DataFrame:
    """A row per sparsity and method: seconds of training, speed in theory and measured, and memory; means over seeds.

    NaN is what was not measured. ``_bytes`` are those held between two steps, ``peak_bytes`` the most on the device.
    """
    table = summarise(results)[[*CELL, "name", "n", "train_seconds", "theoretical_speedup", *TIMED]]
    cells = results.runs.groupby(CELL, sort=False, dropna=False)
    seconds = cells["train_seconds"].agg(sd).rename("train_seconds_sd").reset_index()
    memory = cells[[*HELD, "peak_bytes"]].agg(mean).reset_index()
    images = benefits(results)[[*CELL, "images"]]
    return table.merge(images, on=CELL).merge(seconds, on=CELL).merge(memory, on=CELL)


def curve_means(curves: pd.DataFrame, value: str) -> pd.DataFrame:
    """The mean of ``value`` over seeds at every step that all seeds of a sparsity and method logged."""
    cells = curves.groupby([*CELL, "step"], sort=False, dropna=False)
    table = cells.agg(epoch=("epoch", mean), mean=(value, mean), n=("run", "nunique")).reset_index()
    seeds = table.groupby(CELL, dropna=False)["n"].transform("max")
    return table[table["n"] == seeds]
