"""Several studies as data: the runs they share, and what changed from one to the other."""

from collections.abc import Mapping, Sequence

import pandas as pd
import yaml

from prunus.report.paired import paired
from prunus.report.results import Results
from prunus.report.tables import CELL, TIMED, costs, margin, mean, sd, summarise

CHANGE = ["study", *CELL, "change", "change_sd", "n", "change_low", "change_high"]
COMPARED = [*CELL, "name", "n", "accuracy", "accuracy_sd", "realised_sparsity", *TIMED, "train_seconds"]


def same_workload(studies: Sequence[Results]) -> bool:
    """Whether all studies train the same model on the same data, and test on as many examples."""
    key = ["model", "data", "test_examples"]
    return len({tuple(results.runs[key].iloc[0]) for results in studies}) == 1


def merged(studies: Sequence[Results]) -> pd.DataFrame:
    """A row per requested sparsity, method and study: accuracy, time, and what `changes` says of it."""
    key = ["study", *CELL]
    tables = [summarise(results)[COMPARED].assign(study=results.study) for results in studies]
    seconds = [costs(results)[[*CELL, "train_seconds_sd"]].assign(study=results.study) for results in studies]
    moved = changes(studies).rename(columns={"n": "pairs"})
    table = pd.concat(tables).merge(pd.concat(seconds), on=key).merge(moved, on=key, how="left")
    table["sparse"] = table["name"] != "dense"
    table = table.sort_values(["requested_sparsity", "sparse", "method"], kind="stable", ignore_index=True)
    return table[[*key, *(name for name in table.columns if name not in {*key, "sparse"})]]


def changes(studies: Sequence[Results]) -> pd.DataFrame:
    """Test accuracy less that of the pair: mean, sd, n pairs and 95 % t-interval, as fractions.

    The pair is the run of the same method, sparsity and seed in the first study where all share their workload, else
    the dense run of the same seed in the same study (see ``paired``).
    """
    if same_workload(studies):
        key = [*CELL, "seed"]
        first = studies[0].runs[[*key, "accuracy"]].rename(columns={"accuracy": "pair"})
        found = [change(results.study, results.runs.merge(first, on=key)) for results in studies[1:]]
    else:
        found = [change(results.study, paired(results.runs, results.runs)) for results in studies]
    return pd.concat(found, ignore_index=True)


def change(study: str, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of one study, from its runs with the accuracy of each one's ``pair``."""
    rows = []
    for cell, group in runs.groupby(CELL, sort=False, dropna=False):
        difference = group["accuracy"] - group["pair"]
        middle, spread, n = mean(difference), sd(difference), len(difference)
        half = margin(spread, n)
        rows.append([study, *cell, middle, spread, n, middle - half, middle + half])
    return pd.DataFrame(rows, columns=CHANGE)


def settings(studies: Sequence[Results]) -> pd.DataFrame:
    """A row per key of the recipes whose value differs, a column per study."""
    flat = {results.study: flattened(yaml.safe_load(results.recipe)) for results in studies}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    different = [key for key in keys if len({values.get(key, "") for values in flat.values()}) > 1]
    return pd.DataFrame(
        {"key": different, **{name: [values.get(key, "") for key in different] for name, values in flat.items()}}
    )


def flattened(values: Mapping[str, object], above: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as YAML in a line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{above}{key}.")
        else:
            line = yaml.safe_dump(value, default_flow_style=True, width=1000)
            flat[f"{above}{key}"] = line.removesuffix("...\n").strip()
    return flat
