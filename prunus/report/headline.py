"""The sentence at the top: what was asked, and what came out."""

import pandas as pd

from prunus.report import wording
from prunus.report.cells import sparse_variants
from prunus.report.results import Results
from prunus.report.statements import contenders, overlapping, place
from prunus.report.tables import records, reference, summarise


def headline(results: Results) -> str:
    """The method of highest mean accuracy at each requested sparsity and budget, beside dense, in a sentence."""
    ranked = [cells for cells in contenders(results) if len(cells)]
    if not ranked:
        return f"No sparse run of {workload(results)} has finished and met its sparsity; {dense(results)}."
    methods = len(sparse_variants(results))
    asked = f"Of {methods} methods that train {workload(results)} sparse, the highest mean test accuracy is that"
    if methods == 1:
        asked = f"The mean test accuracy of {workload(results)}, trained sparse, is that"
    return f"{asked} of {wording.listed(leaders(ranked))}; {dense(results)}{clearness(ranked)}."


def workload(results: Results) -> str:
    """'mlp on digits'."""
    return f"{results.runs['model'].iloc[0]} on {results.runs['data'].iloc[0]}"


def leaders(ranked: list[pd.DataFrame]) -> list[str]:
    """A clause per winning method: '`gmp` at 90 % (97.12 ± 0.30 %) and 95 % (96.01 ± 0.41 %)'."""
    wins: dict[str, list[str]] = {}
    for cells in ranked:
        best = cells.iloc[0]
        reached = wording.spread(100 * best["accuracy"], 100 * best["accuracy_sd"], best["n"])
        wins.setdefault(best["variant"], []).append(f"{place(best)} ({reached} %)")
    return [f"`{variant}` at {wording.listed(at)}" for variant, at in wins.items()]


def dense(results: Results) -> str:
    """What dense training reaches, or that nobody knows."""
    name = reference(results.runs)
    for row in records(summarise(results)):
        if row["method"] == name:
            reached = wording.sample(100 * row["accuracy"], 100 * row["accuracy_sd"], row["n"], " %")
            return f"dense training reaches {reached}"
    return "no dense run stands beside it"


def clearness(ranked: list[pd.DataFrame]) -> str:
    """Which of the leads stand clear of the other methods' spread."""
    rivals = [cells for cells in ranked if len(cells) > 1]
    if not rivals:
        return ""
    clear = [cells.iloc[0] for cells in rivals if cells.iloc[0]["n"] > 1 and not overlapping(cells)]
    if not clear:
        return ", and no lead stands clear of the spread of the others"
    if len(clear) == len(rivals):
        return ", and every lead stands clear of the spread of the others"
    at = wording.listed([place(best) for best in clear])
    return f", and only the lead at {at} stands clear of the spread of the others"
