"""The report's tables as text: data frames of what a reader sees, for every rendering."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.paired import differences
from prunus.report.results import Results
from prunus.report.rows import HELD
from prunus.report.tables import benefits, costs, layer_means, records, reference, summarise

Row = Mapping[str, Any]
PARTS = ["parameters", "gradients", "optimizer state", "added by the method"]
SIZE = ["parameters kept", "MACs kept", "file dense", "file packed"]
SPEED = ["speed-up in theory", "training throughput, measured"]


def main_cells(results: Results) -> pd.DataFrame:
    """The main table: what each method reached at each requested sparsity, dense first."""
    dense = reference(results.runs)
    return pd.DataFrame([main_row(row, dense) for row in records(summarise(results))])


def main_row(row: Row, dense: str | None) -> dict[str, str]:
    """One method at one sparsity."""
    n = row["n"]
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "test accuracy, %": wording.sample(100 * row["accuracy"], 100 * row["accuracy_sd"], n),
        "neg. log-likelihood": wording.spread(row["nll"], row["nll_sd"], n, 3),
        "calibration error, %": wording.spread(100 * row["calibration_error"], 100 * row["calibration_error_sd"], n),
        "realised": wording.realised(row["realised_sparsity"], row["realised_sparsity_sd"], n),
        "parameters kept": wording.part(row["parameters_kept"], row["parameters"]),
        "MACs kept": wording.part(row["macs_kept"], row["macs"]),
        "speed-up in theory": theory(row),
        "training throughput, measured": measured(row, dense),
        "file dense": wording.size(row["bytes_dense"]),
        "file packed": wording.size(row["bytes_packed"]),
    }


def theory(row: Row) -> str:
    """MACs of dense over MACs kept."""
    ratio = row["theoretical_speedup"]
    return "unbounded" if math.isnan(ratio) else f"{ratio:.2f}×" if row["name"] == "dense" else wording.gain(ratio)


def measured(row: Row, dense: str | None) -> str:
    """Training throughput relative to dense, which is the reference unless it was itself measured in another format."""
    ratio = row["throughput_ratio"]
    if row["method"] == dense and (math.isnan(ratio) or row["arithmetic"] == "fp32"):
        return "1.00× (reference)"
    return wording.throughput(ratio, row["throughput_low"], row["throughput_high"])


def benefit_cells(results: Results) -> pd.DataFrame:
    """Theory beside measurement, the steps that training took, and the file dense beside packed."""
    dense = reference(results.runs)
    cells = pd.DataFrame([benefit_row(row, dense) for row in records(benefits(results))])
    return cells if results.timing["images"].notna().any() else cells.drop(columns="images/s")


def benefit_row(row: Row, dense: str | None) -> dict[str, str]:
    """One method at one sparsity, or one measurement without a run."""
    trained = not math.isnan(row["steps"])
    blocks = row["throughput_blocks"]
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "MACs kept": wording.part(row["macs_kept"], row["macs"]) if trained else "",
        "speed-up in theory": theory(row) if trained else "",
        "training throughput, measured": measured(row, dense),
        "images/s": wording.images(row["images"]),
        "paired blocks": "" if math.isnan(blocks) else f"{blocks:.0f}",
        "steps + extra gradient passes": wording.steps(row["steps"], row["extra_forward_backward"]) if trained else "",
        "file dense": wording.size(row["bytes_dense"]) if trained else "",
        "file packed": wording.size(row["bytes_packed"]) if trained else "",
        "packing": wording.packing(row["bytes_dense"], row["bytes_packed"]) if trained else "",
    }


def cost_cells(results: Results) -> pd.DataFrame:
    """Seconds of training and bytes of memory; what was not measured says so."""
    table = costs(results)
    dense = table.loc[table["method"] == reference(results.runs), HELD].sum(axis=1, skipna=False)
    whole = float(dense.iloc[0]) if len(dense) else math.nan
    return pd.DataFrame([cost_row(row, whole) for row in records(table)])


def cost_row(row: Row, dense: float) -> dict[str, str]:
    """One method at one sparsity; ``dense`` is what training dense holds."""
    held = sum(row[name] for name in HELD)
    ratio = "" if math.isnan(held / dense) else f" ({held / dense:.2f}× dense)"
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "training, s": wording.sample(row["train_seconds"], row["train_seconds_sd"], row["n"]),
        "held in training": wording.bytes_or_nothing(held) + ratio,
        **{title: wording.bytes_or_nothing(row[name]) for title, name in zip(PARTS, HELD, strict=True)},
        "peak on the device": wording.bytes_or_nothing(row["peak_bytes"]),
    }


def difference_cells(results: Results, name: str) -> pd.DataFrame:
    """Paired differences to the method ``name``, and what they show."""
    return pd.DataFrame([difference_row(row, name) for row in records(differences(results, name))])


def difference_row(row: Row, name: str) -> dict[str, str]:
    """One method at one sparsity."""
    n, low, high = row["n"], row["low"], row["high"]
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        f"difference to {name}, points": wording.points(row["difference"], row["difference_sd"], n),
        "common seeds": str(n),
        "95 % interval": f"{100 * low:+.2f} to {100 * high:+.2f}" if n > 1 else "unknown",
        "reading": reading(low, high, name),
    }


def reading(low: float, high: float, name: str) -> str:
    """What an interval of differences to a method shows."""
    if math.isnan(low):
        return "one seed: cannot say"
    return f"below {name}" if high < 0 else f"above {name}" if low > 0 else "no difference shown"


def layer_cells(results: Results) -> dict[str, pd.DataFrame]:
    """Per sparse method a table of its layers: realised sparsity and weights kept, a column per requested sparsity."""
    means = layer_means(results)
    return {method: one_method(means[means["method"] == method]) for method in sparse_methods(results)}


def sparse_methods(results: Results) -> list[str]:
    """The labels of all methods but dense, sorted, those of one variant by the length of their training."""
    sparse = results.runs[results.runs["name"] != "dense"].sort_values(["variant", "steps"])
    return list(sparse["method"].drop_duplicates())


def sparse_variants(results: Results) -> list[str]:
    """The methods but dense as they are called whatever their budget, sorted."""
    return sorted(set(results.runs.loc[results.runs["name"] != "dense", "variant"]))


def one_method(means: pd.DataFrame) -> pd.DataFrame:
    """A row per layer of one method, in the network's order."""
    first = means.drop_duplicates("position").sort_values("position")
    table = pd.DataFrame(
        {"layer": first["layer"], "shape": first["shape"], "weights": [f"{n:,.0f}" for n in first["weights"]]}
    ).set_index("layer")
    for requested, layers in means.groupby("requested_sparsity", dropna=False):
        text = [layer_text(row) for row in records(layers)]
        table[wording.sparsity(float(str(requested)))] = pd.Series(text, index=layers["layer"])
    return table.reset_index().fillna("")


def layer_text(row: Row) -> str:
    """'89.99 % (1,638)': mean sparsity and weights kept, and in how many runs the layer collapsed."""
    text = f"{wording.zeros(row['realised_sparsity'])} % ({wording.count(row['kept'])})"
    return f"{text}, collapsed in {wording.runs_of(row['collapsed'], row['n'])}" if row["collapsed"] else text
