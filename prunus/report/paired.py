"""Pairing: which run stands against which, and the differences of the pairs over seeds."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pandas as pd

from prunus.report.results import Results
from prunus.report.tables import CELL, margin, mean, records, reference, sd


@lru_cache(maxsize=8)
def differences(results: Results, name: str = "dense") -> pd.DataFrame:
    """Test accuracy less that of the paired run of the method ``name``: mean, sd, n pairs, 95 % t-interval.

    A row per requested sparsity and sparse method but ``name`` itself, as fractions; none where nothing is paired.
    """
    runs = results.runs
    against = set(runs.loc[runs["method"] == reference(runs, name), "variant"])
    pairs = paired(runs[(runs["name"] != "dense") & ~runs["variant"].isin(against)], runs, name)
    return over_pairs(pairs.assign(gap=pairs["accuracy"] - pairs["pair"]), "gap")


def over_pairs(pairs: pd.DataFrame, gap: str) -> pd.DataFrame:
    """A row per requested sparsity and method: mean of the column ``gap``, sd, n pairs, 95 % t-interval."""
    rows = []
    for cell, group in pairs.groupby(CELL, sort=False, dropna=False):
        deviation = sd(group[gap])
        rows.append([*cell, mean(group[gap]), deviation, len(group), margin(deviation, len(group))])
    table = pd.DataFrame(rows, columns=[*CELL, "difference", "difference_sd", "n", "margin"])
    return table.assign(low=table["difference"] - table["margin"], high=table["difference"] + table["margin"])


def paired(chosen: pd.DataFrame, runs: pd.DataFrame, name: str = "dense") -> pd.DataFrame:
    """Those of the ``chosen`` runs that have a partner among ``runs``, whose accuracy is their ``pair``.

    The partner in dense training is the run that a run began from; for others, and for partners of another ``name``
    also at the same sparsity, the one of the same seed and the same steps, those before it began included. Where dense
    training has no run of these steps, its reference stands for it.
    """
    label = reference(runs, name)
    variants = set(runs.loc[runs["method"] == label, "variant"])
    candidates = runs[runs["variant"].isin(variants)]
    partners = [partner(row, candidates, label if name == "dense" else None) for row in records(chosen)]
    accuracy = runs.set_index("run")["accuracy"]
    found = chosen.assign(partner=pd.Series(partners, index=chosen.index, dtype=object)).dropna(subset="partner")
    return found.assign(pair=found["partner"].map(accuracy))


def partner(run: Mapping[str, Any], candidates: pd.DataFrame, otherwise: str | None) -> str | None:
    """The name of the run to hold ``run`` against: of those ``otherwise`` where none has its steps, or None."""
    if run["pretraining"] in set(candidates["run"]):
        return str(run["pretraining"])
    same = candidates["seed"] == run["seed"]
    if otherwise is None:
        same &= candidates["requested_sparsity"].fillna(-1.0) == pd.Series([run["requested_sparsity"]]).fillna(-1.0)[0]
    steps = candidates["steps"] + candidates["pretraining_steps"]
    # a length in epochs rounds to steps, and in two parts twice
    near = same & ((steps - run["steps"] - run["pretraining_steps"]).abs() <= 1)
    for fits in (near, same & (candidates["method"] == otherwise)):
        if fits.any():
            return str(candidates.loc[fits, "run"].iloc[0])
    return None
