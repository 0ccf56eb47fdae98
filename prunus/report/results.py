"""Reading: a study's directory as data frames, one row per run, logged step, layer or timing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FORMAT = "prunus-result/1"
COPIED = [
    *("seed", "data", "model", "steps", "epochs", "batch_size", "realised_sparsity", "collapsed"),
    *("parameters", "parameters_kept", "macs", "macs_kept", "theoretical_speedup", "bytes_dense", "bytes_packed"),
    *("train_seconds", "extra_forward_backward", "versions", "device", "precision"),
]
LOGGED = ["step", "epoch", "loss", "learning_rate", "sparsity", "accuracy", "nll"]
LAYER = ["name", "shape", "weights", "kept", "sparsity", "macs", "macs_kept"]
TIMING = ["run", "method", "sparsity", "ratio", "low", "high", "blocks", "precision"]
IDENTITY = ["run", "method", "requested_sparsity", "seed"]


@dataclass(frozen=True)
class Results:
    """What a study's directory holds.

    In every frame ``method`` is the label that a reader sees (see ``labels``), ``name`` the method's own name, and
    sparsities and accuracies are fractions. ``runs``: a row per finished run. ``curves``: a row per logged step, its
    accuracy and negative log-likelihood on the validation data. ``layers``: a row per run and layer. ``timing``: a row
    per measurement. ``unfinished``: those without a result. ``strays``: runs that lie there
    but belong to another recipe.
    """

    study: str
    recipe: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    timing: pd.DataFrame
    unfinished: pd.DataFrame
    strays: list[str]


def read(directory: Path) -> Results:
    """The results under ``directory``; a ValueError where there is nothing to report or runs contradict each other."""
    found = {path.name: path for path in sorted(directory.glob("runs/*/"))}
    names = planned(directory) if (directory / "study.json").exists() else list(found)
    directories = [directory / "runs" / name for name in names]
    finished = [path for path in directories if (path / "result.json").exists()]
    if not finished:
        what = f"{len(directories)} unfinished" if directory.is_dir() else "no such directory"
        raise ValueError(f"a report needs a finished run under {directory}/runs, got {what}; run the study first")
    results = {path.name: result(path / "result.json") for path in finished}
    runs = run_rows(results)
    timing = directory / "timing.json"
    return Results(
        study=directory.resolve().name,
        recipe=(directory / "recipe.yaml").read_text(encoding="utf-8"),
        runs=runs,
        curves=curve_rows(runs, {path.name: logged(path / "metrics.jsonl") for path in finished}),
        layers=layer_rows(runs, results),
        timing=timing_rows(runs, json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else []),
        unfinished=unfinished_rows([path for path in directories if path not in finished]),
        strays=[name for name in found if name not in names],
    )


def planned(directory: Path) -> list[str]:
    """The names of the runs that the study consists of, sorted; some may not have begun."""
    return sorted(json.loads((directory / "study.json").read_text(encoding="utf-8"))["runs"])


def result(path: Path) -> dict[str, Any]:
    """One run's result; a ValueError when another program or version wrote it."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} must be of format {FORMAT!r}, got {content.get('format')!r}; run it again")
    return content


def logged(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed run left half-written is not one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def arithmetic(precision: str) -> str:
    """The number format that a precision computes in: fp32, bf16 or fp16."""
    return "bf16" if "bf16" in precision else "fp16" if "16" in precision else "fp32"


def run_rows(results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run: by requested sparsity, dense first, then by method and seed."""
    rows = [
        {
            "run": run,
            "name": content["method"],
            "requested_sparsity": content["sparsity"],
            **{key: content[key] for key in COPIED},
            **{key: content["test"][key] for key in ("accuracy", "nll", "calibration_error")},
            "test_examples": content["test"]["n"],
            "validation_accuracy": content["validation"]["accuracy"],
            "arithmetic": arithmetic(content["precision"]),
        }
        for run, content in results.items()
    ]
    runs = pd.DataFrame(rows).assign(method=labels(list(results.values())))
    # null where no multiplication is left
    runs["theoretical_speedup"] = runs["theoretical_speedup"].astype(float)
    check_comparable(runs)
    runs["order"] = runs["name"] != "dense"
    runs = runs.sort_values(["requested_sparsity", "order", "method", "seed"], ignore_index=True)
    return runs.drop(columns="order")


def labels(results: Sequence[dict[str, Any]]) -> list[str]:
    """Each run's method; in brackets the settings by which runs of one method differ at one sparsity.

    Two variants of a method are two methods to a reader: averaging over them would hide what the study varied.
    """
    settings = [
        {**content["arguments"], **{key: content[key] for key in ("steps", "batch_size", "precision")}}
        for content in results
    ]
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for content, setting in zip(results, settings, strict=True):
        groups.setdefault((content["method"], content["sparsity"]), []).append(setting)
    varied: dict[str, set[str]] = {}
    for (name, _), group in groups.items():
        varied.setdefault(name, set()).update(differing(group) - {"sparsity", "seed"})
    return [
        label(content["method"], {key: setting.get(key) for key in sorted(varied[content["method"]])})
        for content, setting in zip(results, settings, strict=True)
    ]


def differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys whose values are not the same in all ``settings``."""
    keys = {key for setting in settings for key in setting}
    return {key for key in keys if len({repr(setting.get(key)) for setting in settings}) > 1}


def label(name: str, settings: Mapping[str, Any]) -> str:
    """The method's name as a call of these settings: ``gmp(every=50)``."""
    inside = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}({inside})" if inside else name


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
    """A row per logged step of a finished run."""
    rows = [{"run": run, **line} for run, lines in metrics.items() for line in lines]
    curves = pd.DataFrame(rows, columns=["run", *LOGGED]).rename(columns={"sparsity": "realised_sparsity"})
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


def timing_rows(runs: pd.DataFrame, entries: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per measured method, sparsity and number format; of a repeated measurement the last."""
    timing = pd.DataFrame(entries, columns=TIMING).rename(columns={"method": "name", "sparsity": "requested_sparsity"})
    # a measurement that names its run belongs to that variant of the method
    timing["method"] = timing.pop("run").map(runs.set_index("run")["method"]).fillna(timing["name"])
    timing["arithmetic"] = [arithmetic(precision) for precision in timing.pop("precision")]
    timing = timing.astype(dict.fromkeys(("requested_sparsity", "ratio", "low", "high", "blocks"), float))
    return timing.drop_duplicates(["method", "requested_sparsity", "arithmetic"], keep="last", ignore_index=True)


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
    """What a run's recipe varies: its method, sparsity and seed, as far as it was written."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return ", ".join(f"{key} {json.dumps(recipe[key])}" for key in ("method", "sparsity", "seed") if key in recipe)
