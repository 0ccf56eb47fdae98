"""From the files of a study to data frames: one row per run, logged step, layer, bin of confidence or timing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from prunus.report import wording
from prunus.report.labels import Label, is_file, label, labels, legible, stem

COPIED = [
    *("seed", "data", "model", "steps", "epochs", "batch_size", "realised_sparsity", "collapsed"),
    *("parameters", "parameters_kept", "macs", "macs_kept", "theoretical_speedup", "bytes_dense", "bytes_packed"),
    *("train_seconds", "extra_forward_backward", "versions", "device", "precision"),
]
SPENT = [
    *("pretraining_epochs", "pretraining_steps", "pretraining_seconds", "training_macs", "training_macs_dense"),
    *("recalibration_batches", "recalibration_before", "recalibration_after"),
]
HELD = ["parameters_bytes", "gradients_bytes", "optimizer_bytes", "method_bytes"]
LOGGED = ["step", "epoch", "loss", "learning_rate", "sparsity", "accuracy", "nll"]
STREAMED = ["megabatch", "training", "place", "train_accuracy", "running_accuracy"]
LAYER = ["name", "shape", "weights", "kept", "sparsity", "macs", "macs_kept"]
CYCLE = ["step", "length", "sparsity", "fraction", "drop", "peak"]
STAGES = ["trained", "pruned", "recalibrated", "retrained"]
BIN = ["low", "high", "confidence", "accuracy", "n"]
TIMING = ["run", "method", "sparsity", "ratio", "low", "high", "blocks", "precision"]
IMAGES = {"steps_per_second": "images", "dense_steps_per_second": "dense_images"}  # both a second
IDENTITY = ["run", "method", "requested_sparsity", "seed"]


def arithmetic(precision: str) -> str:
    """The number format that a precision computes in: fp32, bf16 or fp16."""
    return "bf16" if "bf16" in precision else "fp16" if "16" in precision else "fp32"


def run_rows(results: Mapping[str, dict[str, Any]], searches: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per finished run: by requested sparsity, dense first, then by method, length and seed."""
    named = labels(list(results.values()), searches)
    runs = pd.DataFrame([run_row(run, content) for run, content in results.items()]).assign(
        method=[str(label) for label in named],
        variant=[label.variant for label in named],
        budget=[label.budget for label in named],
        schedule=[str(found.get("schedule") or "") for found in legible(list(results.values()))],
    )
    runs = starts_apart(runs)
    # null where no multiplication is left, or where nothing was measured
    numbers = ["theoretical_speedup", "peak_bytes", *HELD, *SPENT]
    runs[numbers] = runs[numbers].astype(float)
    check_comparable(runs)
    runs["order"] = runs["name"] != "dense"
    runs = runs.sort_values(["requested_sparsity", "order", "variant", "steps", "seed"], ignore_index=True)
    return runs.drop(columns="order")


def starts_apart(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, where the dense ones that others began from have a label of their own if the study has more of them."""
    begun = runs["run"].isin(runs["pretraining"]) & (runs["name"] == "dense")
    key = ["method", "requested_sparsity", "seed"]
    twins = begun & runs.duplicated(key, keep=False)
    if not twins.any():
        return runs
    named = {
        column: runs[column].mask(begun, runs[column].str.replace("dense", "dense start", n=1))
        for column in ("method", "variant")
    }
    return runs.assign(**named)


def run_row(run: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What one run's result holds, but for what the others make of its label."""
    return {
        "run": run,
        "name": content["method"],
        "requested_sparsity": content["sparsity"],
        **{key: content[key] for key in COPIED},
        **{key: content["test"][key] for key in ("accuracy", "nll", "calibration_error")},
        "test_examples": content["test"]["n"],
        "validation_accuracy": content["validation"]["accuracy"],
        "arithmetic": arithmetic(content["precision"]),
        "learned": is_file(content["arguments"].get("schedule")),
        **held(content),
        **spent(content),
    }


def held(content: Mapping[str, Any]) -> dict[str, float | None]:
    """What training held in memory; None in results of the format before it was counted."""
    counted = content.get("training_bytes") or {}
    return {name: counted.get(name.removesuffix("_bytes")) for name in HELD} | {"peak_bytes": content.get("peak_bytes")}


def spent(content: Mapping[str, Any]) -> dict[str, Any]:
    """What training took beside its own steps; None in results of formats before it was counted."""
    before = content.get("pretraining") or {}
    recalibrated = content.get("recalibration") or {}
    return {
        "pretraining": before.get("run"),
        "pretraining_epochs": before.get("epochs", 0),
        "pretraining_steps": before.get("steps", 0),
        "pretraining_seconds": before.get("train_seconds", 0),
        **{key: content.get(key) for key in ("training_macs", "training_macs_dense")},
        **{f"recalibration_{key}": recalibrated.get(key) for key in ("batches", "before", "after")},
        "images_a_step": content["batch_size"] * content.get("accumulate", 1),
    }


def check_comparable(runs: pd.DataFrame) -> None:
    """A ValueError unless all runs share their workload and every seed counts once."""
    workloads = sorted({f"{model} on {data}" for model, data in zip(runs["model"], runs["data"], strict=True)})
    if len(workloads) > 1:
        raise ValueError(f"a report compares methods on one workload, got {', '.join(workloads)}; one study for each")
    key = ["method", "requested_sparsity", "seed"]
    twins = runs[runs.duplicated(key, keep=False)].sort_values(key)
    if len(twins):
        pair = " and ".join(twins["run"].iloc[:2])
        raise ValueError(
            f"a seed must count once, got runs {pair} of one method, sparsity and seed; remove one of them"
        )


def curve_rows(runs: pd.DataFrame, metrics: Mapping[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """A row per logged step of a finished run; NaN what only runs over streams log."""
    rows = [{"run": run, **line} for run, lines in metrics.items() for line in lines]
    curves = pd.DataFrame(rows, columns=["run", *LOGGED, *STREAMED]).rename(columns={"sparsity": "realised_sparsity"})
    return runs[IDENTITY].merge(curves, on="run")


def layer_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run and layer, ``position`` its place in the network."""
    rows = [
        {"run": run, "position": position, **layer, "collapsed": layer["name"] in content["collapsed"]}
        for run, content in results.items()
        for position, layer in enumerate(content["layers"])
    ]
    layers = pd.DataFrame(rows, columns=["run", "position", *LAYER, "collapsed"])
    layers["shape"] = ["×".join(str(size) for size in shape) for shape in layers["shape"]]
    layers["collapsed"] = layers["collapsed"].astype(bool)
    return runs[IDENTITY].merge(layers.rename(columns={"name": "layer", "sparsity": "realised_sparsity"}), on="run")


def cycle_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run and cycle of pruning and retraining, counted from 1, with the accuracy at each stage."""
    rows = [
        {"run": run, "cycle": number, **cycle, **cycle["measured"]}
        for run, content in results.items()
        for number, cycle in enumerate(content.get("cycles", []), 1)
    ]
    cycles = pd.DataFrame(rows, columns=["run", "cycle", *CYCLE, *STAGES])
    cycles = cycles.astype(dict.fromkeys((*CYCLE, *STAGES), float))
    return runs[IDENTITY].merge(cycles.rename(columns={"sparsity": "realised_sparsity"}), on="run")


def rate_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run and noted learning rate; none for results of the formats before it was noted.

    None either for a run over a stream, which notes those of its last megabatch alone.
    """
    rows = [
        {"run": run, "step": step, "learning_rate": rate}
        for run, content in results.items()
        if "stream" not in content
        for step, rate in content.get("learning_rates", [])
    ]
    return runs[IDENTITY].merge(pd.DataFrame(rows, columns=["run", "step", "learning_rate"]), on="run")


def bin_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run and bin of confidence on the test set; none for results of the format without bins."""
    rows = [{"run": run, **bin_} for run, content in results.items() for bin_ in content["test"].get("reliability", [])]
    bins = pd.DataFrame(rows, columns=["run", *BIN]).astype(dict.fromkeys(BIN[:-1], float) | {"n": int})
    return runs[IDENTITY].merge(bins, on="run")


def timing_rows(runs: pd.DataFrame, entries: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per measured method, sparsity and number format; of a repeated measurement the last.

    ``images`` and ``dense_images`` are the images a second of the method and of dense beside it.
    """
    timing = pd.DataFrame(entries, columns=[*TIMING, *IMAGES]).rename(
        columns={"method": "name", "sparsity": "requested_sparsity"}
    )
    # a measurement that names its run belongs to that variant of the method
    timing["method"] = timing.pop("run").map(runs.set_index("run")["method"]).fillna(timing["name"])
    timing["arithmetic"] = [arithmetic(precision) for precision in timing.pop("precision")]
    timing = timing.astype(dict.fromkeys(("requested_sparsity", "ratio", "low", "high", "blocks", *IMAGES), float))
    # what belongs to no run, such as dense in bf16, takes the batches of the study
    images = timing["method"].map(runs.groupby("method")["images_a_step"].first()).fillna(runs["images_a_step"].iloc[0])
    timing[list(IMAGES)] = timing[list(IMAGES)].mul(images, axis=0)
    timing = timing.rename(columns=IMAGES)
    return timing.drop_duplicates(["method", "requested_sparsity", "arithmetic"], keep="last", ignore_index=True)


def logged(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed run left half-written is not one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def unfinished_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """A row per run without a result: its name, what it was, whether it has begun, and the last step that it logged."""
    rows = []
    for path in paths:
        metrics = logged(path / "metrics.jsonl")
        last_step = metrics[-1]["step"] if metrics else 0
        rows.append(
            {"run": path.name, "what": described(path / "recipe.yaml"), "begun": path.is_dir(), "step": last_step}
        )
    return pd.DataFrame(rows, columns=["run", "what", "begun", "step"])


def described(path: Path) -> str:
    """What a run's recipe varies, in words: '`gmp(update_every=20)` at 90 %, seed 4'; nothing where there is none."""
    if not path.exists():
        return ""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    ((method, arguments),) = recipe["method"].items()
    (sparsity,), (seed,) = recipe["sparsity"], recipe["seed"]
    length = recipe.get("epochs")  # a list where a study may hold several, then of one
    settings = {key: stem(value) for key, value in (arguments or {}).items()}
    named = Label(label(method, settings), wording.epochs(length[0]) if isinstance(length, list) else "")
    return f"`{named}` at {wording.sparsity(sparsity)}, seed {seed}"
