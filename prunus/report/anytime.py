"""The section on streams of megabatches: what each method reached after them, at what cost, and against dense."""

from collections.abc import Iterator, Mapping

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Items, Table, Text
from prunus.report.cells import Row
from prunus.report.drawing import Plot
from prunus.report.equal_cost import LEAD as EQUAL_COST
from prunus.report.equal_cost import equal_cost, equal_cost_cells
from prunus.report.results import Results
from prunus.report.schedules import reading
from prunus.report.statements import cells_named
from prunus.report.streams import plan_misses, stream_differences, stream_table
from prunus.report.tables import CELL, records

LEAD = (
    "Training images arrive in megabatches, and the test set is tested after each. Test accuracy is that after the "
    "last; the cumulative error count (CER) adds up the errors after all of them, the mean error is their share of all "
    "that was tested. The gap is accuracy on the training images less that on the validation images, both in eval mode "
    "without augmentation, after the last megabatch; as the released code has it, it takes the running accuracy of "
    "training. MACs are those of training at all megabatches; held is the most that the training of one network held, "
    "counted. Mean ± sd over seeds."
)
FORGETTING = (
    " Forgetting is how far the accuracy of a class has fallen since its best, a mean over classes: these megabatches "
    "are ordered by class."
)
SEVERAL = " Of several networks the gap is that of the one trained last, accuracy and sparsity are those of all."
PAIRS = (
    "Less the dense run of the same seed on the same stream, mean ± sd of the pairs, and in brackets the 95 % "
    "t-interval of the mean. Of errors and gap less is better. The intervals are not corrected for their number."
)
TITLES = {"accuracy": "test accuracy, points", "cumulative_errors": "CER", "gap": "gap, points"}
NAMES = {"accuracy": "Test accuracy", "cumulative_errors": "CER", "gap": "Gap"}
COST = ["realised", "training MACs", "held in training", "networks"]
NO_PAIR = "No run has a dense run of its seed on the same stream: nobody can say what it gains over dense training."
ONE_SEED = "One seed of each method: nothing here has a known spread, and no difference can be told from chance."
ON_PLAN = "Every realised sparsity lies within 0.5 points of its plan after every megabatch that was trained on."


def anytime_blocks(results: Results, plots: Mapping[str, Plot], keys: Mapping[str, str]) -> list[Block]:
    """The table, the differences to dense, both in words, the curves, and what was reached at equal cost."""
    table = stream_table(results)
    if table.empty:
        return []
    curves, gap, cost = (plots[f"anytime-{name}"] for name in ("curves", "gap", "cost"))
    keys = {**keys, **curves.keys}
    lead = LEAD + FORGETTING * bool(table["forgetting"].notna().any()) + SEVERAL * bool((table["networks"] > 1).any())
    blocks: list[Block] = [Text(lead), Table(anytime_cells(results), "anytime", table, keys)]
    found = stream_differences(results)
    if len(found):
        blocks += [Text(PAIRS), Table(compared_cells(results), "anytime-differences", found, keys)]
    equal = Table(equal_cost_cells(results), "anytime-equal-cost", equal_cost(results), keys)
    return [*blocks, Items(said(results)), curves, gap, cost, Text(EQUAL_COST), equal]


def anytime_cells(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method, dense first; forgetting only where the order is by class."""
    table = stream_table(results)
    cells = pd.DataFrame([anytime_row(row) for row in records(table)])
    return cells if table["forgetting"].notna().any() else cells.drop(columns="forgetting, points")


def anytime_row(row: Row) -> dict[str, str]:
    """One method at one sparsity."""

    def hundred(name: str) -> str:
        return "" if pd.isna(row[name]) else wording.spread(100 * row[name], 100 * row[f"{name}_sd"], row["n"])

    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "test accuracy, %": f"{hundred('accuracy')} (n={row['n']})",
        "CER": wording.spread(row["cumulative_errors"], row["cumulative_errors_sd"], row["n"], 0),
        "mean error, %": hundred("mean_error"),
        "gap, points": hundred("gap"),
        "gap as released, points": hundred("released_gap"),
        "forgetting, points": hundred("forgetting"),
        "realised": wording.realised(row["realised_sparsity"], row["realised_sparsity_sd"], row["n"]),
        "training MACs": wording.count(row["training_macs"]) + of_dense(row),
        "held in training": wording.bytes_or_nothing(row["held"]),
        "networks": f"{row['networks']:.0f}",
    }


def of_dense(row: Row) -> str:
    """' (45.0 ± 0.2 % of dense)'; nothing where no dense run saw the same stream."""
    if pd.isna(row["share"]):
        return ""
    return f" ({wording.spread(100 * row['share'], 100 * row['share_sd'], row['n'], 1)} % of dense)"


def compared_cells(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method: the difference to dense in each measure, and what it shows.

    The mean error shows what the CER shows, and is not in it.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    table = stream_differences(results)
    for row in records(table[table["measure"] != "mean_error"]):
        requested = wording.sparsity(row["requested_sparsity"])
        start = {"requested": requested, "method": row["method"], "common seeds": str(row["n"])}
        rows.setdefault((requested, row["method"]), start)[TITLES[row["measure"]]] = compared(row)
    return pd.DataFrame(list(rows.values()))


def compared(row: Row) -> str:
    """'+0.42 ± 0.35 (-0.45 to +1.29), no gain shown'."""
    unit = 1 if row["measure"] == "cumulative_errors" else 100
    digits = 1 if unit == 1 else 2
    mean, deviation, low, high = (unit * row[name] for name in ("difference", "difference_sd", "low", "high"))
    if row["n"] == 1:
        return f"{mean:+.{digits}f}, {gain(row)}"
    return f"{mean:+.{digits}f} ± {deviation:.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}), {gain(row)}"


def gain(row: Row) -> str:
    """What an interval of differences shows, where less is better unless it is accuracy."""
    better = row if row["measure"] == "accuracy" else {**row, "low": -row["high"], "high": -row["low"]}
    return reading(better)


def said(results: Results) -> list[str]:
    """What the tables show and what a reader must know of them, in sentences."""
    one_seed = [ONE_SEED] * bool((stream_table(results)["n"] == 1).all())
    return [*one_seed, *verdicts(results), *plans(results), *waits(results)]


def verdicts(results: Results) -> Iterator[str]:
    """A sentence per measure: 'Gap against dense: gain shown for `snip` at 63 %; no gain shown for `random` ...'."""
    table = stream_differences(results)
    if table.empty:
        yield NO_PAIR
    for measure, title in NAMES.items():
        cells = table[table["measure"] == measure]
        readings = pd.Series([gain(row) for row in records(cells)], index=cells.index, dtype=object)
        shown = list(dict.fromkeys(readings))
        clauses = [f"{each} for {cells_named(cells[readings == each])}" for each in shown]
        if len(shown) == 1:
            clauses = [f"{shown[0]}, every method at every sparsity"]
        if clauses:
            yield f"{title} against dense: {'; '.join(clauses)}."


def plans(results: Results) -> Iterator[str]:
    """Whether all kept to their plan, and whether a plan ends beyond its stream."""
    missed = plan_misses(results)
    yield f"Off its plan, see Attention: {cells_named(missed)}." if len(missed) else ON_PLAN
    rows = results.megabatches.groupby("run", sort=False).tail(1)
    short = rows[(rows["planned_sparsity"] < rows["requested_sparsity"] - 1e-6)].drop_duplicates(CELL)
    if len(short):
        yield f"The plan reaches the requested sparsity only after more megabatches than came: {cells_named(short)}."


def waits(results: Results) -> Iterator[str]:
    """A sentence per method whose training waited at some megabatches."""
    rows = results.megabatches
    counts = (
        rows.assign(waited=rows["trained"] == 0).groupby(["method", "run"], sort=False)["waited"].agg(["sum", "size"])
    )
    for method, found in counts.groupby("method", sort=False).max().iterrows():
        if found["sum"]:
            yield (
                f"Training waited: `{method}` was not trained at {found['sum']} of {found['size']} megabatches; the "
                "network from before was tested again."
            )
