"""Streams in numbers: what each method reached over all megabatches, after each, and against dense by seed."""

from functools import lru_cache

import numpy as np
import pandas as pd

from prunus.report.paired import over_pairs, paired
from prunus.report.results import Results
from prunus.report.rows import HELD
from prunus.report.tables import CELL, TOLERANCE, mean, records, reference, sd

JUDGED = ["accuracy", "cumulative_errors", "mean_error", "gap", "released_gap", "forgetting", "realised_sparsity"]
COUNTED = ["training_macs", "held", "networks"]
AFTER = ["accuracy", "cumulative_errors", "gap", "released_gap", "realised_sparsity", "steps", "training_macs"]
COMPARED = ("accuracy", "cumulative_errors", "mean_error", "gap")  # of these only accuracy is better when higher


@lru_cache(maxsize=8)
def streamed(results: Results) -> pd.DataFrame:
    """The runs over a stream with what they are judged by; ``held`` are the most bytes of a training, counted."""
    judged = results.streams.drop(columns=["method", "requested_sparsity", "seed"])
    runs = results.runs.merge(judged, on="run")
    return runs.assign(held=runs[HELD].sum(axis=1, skipna=False))


@lru_cache(maxsize=8)
def stream_pairs(results: Results) -> pd.DataFrame:
    """The runs that have a dense run of their seed on the same stream, their ``partner``; without the dense reference.

    ``less_`` is what a run has less that of its partner, ``share`` its operations over those of the partner.
    """
    table = streamed(results)
    parts = []
    for _, runs in table.groupby("arrivals", sort=False):
        variants = runs.loc[runs["method"] == reference(runs), "variant"]
        parts.append(paired(runs[~runs["variant"].isin(variants)], runs))
    pairs = pd.concat(parts) if parts else table.assign(partner="", pair=np.nan)
    others = table.set_index("run").loc[list(pairs["partner"])]
    less = {f"less_{name}": pairs[name].to_numpy() - others[name].to_numpy() for name in COMPARED}
    share = pairs["training_macs"].to_numpy() / others["training_macs"].to_numpy()
    return pairs.assign(**less, share=share).sort_index()


@lru_cache(maxsize=8)
def stream_differences(results: Results) -> pd.DataFrame:
    """A row per sparsity, method and ``measure``: its difference to dense by seed as in `paired.differences`."""
    pairs = stream_pairs(results)
    found = [over_pairs(pairs, f"less_{name}").assign(measure=name) for name in COMPARED]
    table = pd.concat(found, ignore_index=True)
    return table[[*CELL, "measure", *(name for name in table if name not in {*CELL, "measure"})]]


@lru_cache(maxsize=8)
def stream_table(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method: n, means over seeds, and ``_sd`` beside what is measured.

    ``share`` are the operations of training over those of dense on the same stream, NaN without one.
    """
    runs = streamed(results)
    runs["share"] = runs["run"].map(stream_pairs(results).set_index("run")["share"])
    cells = runs.groupby(CELL, sort=False, dropna=False)
    means, deviations = cells[[*JUDGED, *COUNTED, "share"]].agg(mean), cells[[*JUDGED, "share"]].agg(sd)
    table = pd.concat([cells["name"].first(), cells.size().rename("n"), means, deviations.add_suffix("_sd")], axis=1)
    return table.reset_index()


@lru_cache(maxsize=8)
def megabatch_means(results: Results) -> pd.DataFrame:
    """A row per sparsity, method and megabatch: n, means over seeds, and ``_sd`` beside what is measured."""
    cells = results.megabatches.groupby([*CELL, "megabatch"], sort=False, dropna=False)
    means, deviations = cells[["images", "planned_sparsity", *AFTER]].agg(mean), cells[AFTER].agg(sd)
    return pd.concat([cells.size().rename("n"), means, deviations.add_suffix("_sd")], axis=1).reset_index()


def plan_misses(results: Results) -> pd.DataFrame:
    """A row per sparsity and method that is over 0.5 points off its plan after a megabatch that it was trained on.

    After how many ``megabatches`` ``of`` how many, in how many runs of n, and where it is the ``furthest`` off.
    """
    rows = results.megabatches[results.megabatches["trained"] > 0]
    rows = rows.assign(off=(rows["realised_sparsity"] - rows["planned_sparsity"]).abs())
    found = []
    for cell, group in rows.groupby(CELL, sort=False, dropna=False):
        missed = group[group["off"] > TOLERANCE]
        if len(missed):
            furthest = missed.nlargest(1, "off")[["megabatch", "planned_sparsity", "realised_sparsity"]]
            numbers = [each[name].nunique() for name in ("megabatch", "run") for each in (missed, group)]
            found.append([*cell, *numbers, *records(furthest)[0].values()])
    columns = [*CELL, "megabatches", "of", "runs", "n", "furthest", "planned_sparsity", "realised_sparsity"]
    return pd.DataFrame(found, columns=columns)
