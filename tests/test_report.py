import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from prunus.report import main_table, print_table, write_report
from prunus.report.markdown import markdown
from prunus.report.results import read
from prunus.report.tables import benefits, collapsed, differences, misses
from prunus.report.wording import count, realised, size, throughput

DENSE = (0.97, 0.96, 0.98)


def write_run(study: Path, method: str, sparsity: float, seed: int, accuracy: float, **changes: Any) -> Path:
    """A finished run of a network of two layers, 100 + 20 weights, that gets its sparsity in three steps."""
    run = study / "runs" / f"{method}-{sparsity}-{seed}-{len(list(study.glob('runs/*')))}"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(f"method: {method}\n")
    kept = {"0.weight": round(100 * (1 - sparsity)), "2.weight": round(20 * (1 - sparsity))}
    metrics = [
        {"step": step, "epoch": step / 20, "loss": 1 / step, "learning_rate": 0.1, "sparsity": sparsity * step / 60}
        | {"accuracy": accuracy - 0.3 / step, "nll": 0.2}
        for step in (20, 40, 60)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    scores = {"accuracy": accuracy, "nll": 0.1, "calibration_error": 0.02, "n": 400}
    layers = [
        {"name": name, "shape": shape, "weights": weights, "kept": kept[name], "sparsity": 1 - kept[name] / weights}
        | {"macs": weights, "macs_kept": float(kept[name])}
        for name, shape, weights in (("0.weight", [10, 10], 100), ("2.weight", [2, 10], 20))
    ]
    left = sum(kept.values())
    result = {
        **{"format": "prunus-result/1", "method": method, "arguments": {"sparsity": sparsity}, "sparsity": sparsity},
        **{"seed": seed, "data": "digits", "model": "mlp", "steps": 60, "epochs": 3.0, "batch_size": 64},
        **{"test": scores, "validation": scores, "realised_sparsity": sparsity, "layers": layers, "collapsed": []},
        **{"parameters": 132, "parameters_kept": 12 + left, "macs": 120, "macs_kept": float(left)},
        **{"theoretical_speedup": 120 / left, "bytes_dense": 528, "bytes_packed": 4 * left + 63},
        **{"train_seconds": 1.0, "extra_forward_backward": 0, "device": "cpu", "precision": "32-true"},
        **{"versions": {"prunus": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}},
    }
    (run / "result.json").write_text(json.dumps(result | changes))
    return run


def timed(method: str, sparsity: float, ratio: float, precision: str = "fp32") -> dict[str, Any]:
    speed = {"dense_steps_per_second": 100.0, "steps_per_second": 100 * ratio, "blocks": 9, "precision": precision}
    return {"method": method, "sparsity": sparsity, "ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05} | speed


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Dense, gmp and rigl at two sparsities, three seeds; gmp has one seed fewer; timed but for rigl at 90 %."""
    directory = tmp_path / "study"
    for seed, accuracy in enumerate(DENSE):
        write_run(directory, "dense", 0.0, seed, accuracy)
        write_run(directory, "rigl", 0.5, seed, accuracy - 0.01 * seed)
        write_run(directory, "rigl", 0.9, seed, accuracy - 0.10)
        if seed:
            write_run(directory, "gmp", 0.5, seed, accuracy - 0.02)
            write_run(directory, "gmp", 0.9, seed, accuracy - 0.03)
    (directory / "recipe.yaml").write_text("study: small\nseeds: 3\n")
    entries = [timed("gmp", 0.5, 0.8), timed("gmp", 0.9, 1.02), timed("rigl", 0.5, 1.3), timed("dense", 0, 1.4, "bf16")]
    (directory / "timing.json").write_text(json.dumps(entries))
    return directory


def row(table: pd.DataFrame, method: str, sparsity: float) -> "pd.Series[Any]":
    (found,) = table[(table["method"] == method) & (table["requested_sparsity"] == sparsity)].iterrows()
    return found[1]


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def test_main_table_has_means_and_sample_sd(study: Path) -> None:
    table = main_table(study)
    assert list(table["method"]) == ["dense", "gmp", "rigl", "gmp", "rigl"]
    assert list(table["requested_sparsity"]) == [0.0, 0.5, 0.5, 0.9, 0.9]
    dense = row(table, "dense", 0.0)
    assert (dense["n"], dense["accuracy"], dense["accuracy_sd"]) == (3, pytest.approx(0.97), pytest.approx(0.01))
    gmp = row(table, "gmp", 0.9)  # 0.93 and 0.95
    assert (gmp["n"], gmp["accuracy"], gmp["accuracy_sd"]) == (2, pytest.approx(0.94), pytest.approx(0.02 / 2**0.5))
    assert (gmp["macs_kept"], gmp["theoretical_speedup"], gmp["throughput_ratio"]) == (12.0, 10.0, 1.02)
    assert pd.isna(row(table, "rigl", 0.9)["throughput_ratio"])


def test_differences_are_paired_by_seed(study: Path) -> None:
    table = differences(read(study))
    rigl = row(table, "rigl", 0.5)  # 0, -1 and -2 points; t(2, 97.5 %) = 4.3027
    assert (rigl["n"], rigl["difference"], rigl["difference_sd"]) == (3, pytest.approx(-0.01), pytest.approx(0.01))
    assert rigl["low"] == pytest.approx(-0.01 - 4.30265 * 0.01 / 3**0.5, abs=1e-7)
    assert (row(table, "gmp", 0.5)["n"], row(table, "gmp", 0.5)["difference"]) == (2, pytest.approx(-0.02))


def test_report_says_what_came_out(study: Path) -> None:
    text = markdown(read(study))
    assert "97.00 ± 1.00 % (n=3)" in text.split("Came out")[0]
    assert lines_with(
        text,
        "at 50 %",
        "`rigl` has the highest mean: 96.00 ± 1.00 % (n=3), 1.00 ± 1.00 points below",
        "overlaps",
        "`gmp`",
    )
    assert lines_with(
        text, "at 90 %", "`gmp` has the highest mean: 94.00 ± 1.41 % (n=2)", "3.00 ± 0.00 points below", "no other"
    )
    assert "one of them is 0.25 points" in text
    assert lines_with(text, "| rigl | -1.00 ± 1.00 | 3 | -3.48 to +1.48 | no difference shown |")
    assert lines_with(text, "10.00×", "1.02× (0.97 to 1.07), no clear gain")
    assert lines_with(text, "Dense training in bf16", "1.40× (1.35 to 1.45)")
    assert "study: small\nseeds: 3" in text
    assert "prunus 0.1.0, torch 2.13.0, python 3.11.7, device cpu, precision 32-true" in text
    assert "nan" not in text


def test_no_gain_is_printed(study: Path) -> None:
    text = markdown(read(study)).split("## Benefits")[1]
    assert lines_with(text, "gmp", "2.00×", "0.80× (0.75 to 0.85), no gain")
    assert lines_with(text, "dense", "528 B | 543 B | no gain")
    assert lines_with(text, "rigl", "10.00×", "not measured")
    assert "1.30× (1.25 to 1.35) |" in text


def test_measurements_without_a_run_are_kept(study: Path) -> None:
    table = benefits(read(study))
    assert list(table["method"])[:2] == ["dense", "dense in bf16"]
    assert row(table, "dense in bf16", 0.0)["throughput_ratio"] == 1.4


def test_unfinished_runs_are_named(study: Path) -> None:
    run = study / "runs" / "0badcafe"
    run.mkdir()
    (run / "recipe.yaml").write_text("method: {gmp: {}}\nsparsity: [0.9]\nseed: [4]\n")
    (run / "metrics.jsonl").write_text('{"step": 40, "epoch": 2.0}\n{"step": 60, "ep')
    text = markdown(read(study))
    assert lines_with(text, "runs/0badcafe", "seed [4]", "last logged step 40")
    assert len(read(study).runs) == 13


def test_the_study_says_which_runs_it_has(study: Path) -> None:
    names = [path.name for path in (study / "runs").iterdir()]
    stray = write_run(study, "gmp", 0.9, 1, 0.5)  # an older recipe's: the same method, sparsity and seed
    (study / "study.json").write_text(json.dumps({"runs": [*names, "notbegun"]}))
    text = markdown(read(study))
    assert lines_with(text, "Left out", stray.name)
    assert lines_with(text, "not begun: `notbegun`")
    assert lines_with(text, "94.00 ± 1.41 (n=2)")


def test_collapsed_layers_and_missed_sparsity_are_loud(study: Path) -> None:
    for seed in range(2):
        write_run(study, "str", 0.9, seed, 0.99, realised_sparsity=0.8, collapsed=["2.weight"][seed:])
    results = read(study)
    assert collapsed(results).to_dict("records") == [
        {"requested_sparsity": 0.9, "method": "str", "position": 1, "layer": "2.weight", "runs": 1, "n": 2}
    ]
    assert list(misses(results)["method"]) == ["str"]
    text = markdown(read(study))
    assert lines_with(text, "COLLAPSED", "`str` at 90 %, layer `2.weight`, in 1 of 2 runs")
    assert lines_with(text, "SPARSITY MISSED", "`str` was asked for 90 % and realised 80.00 %")
    # the highest accuracy of all, at another sparsity than the one asked for
    assert lines_with(text, "at 90 %, `gmp` has the highest mean", "not ranked, sparsity missed: `str`")


def test_variants_of_a_method_are_not_averaged(study: Path) -> None:
    runs = [write_run(study, "set", 0.9, 0, 0.9, arguments={"sparsity": 0.9, "every": every}) for every in (10, 20)]
    (study / "timing.json").write_text(json.dumps([{"run": runs[1].name} | timed("set", 0.9, 1.2)]))
    table = main_table(study)
    assert row(table, "set(every=20)", 0.9)["throughput_ratio"] == 1.2
    assert pd.isna(row(table, "set(every=10)", 0.9)["throughput_ratio"])
    assert {"set(every=10)", "set(every=20)"} < set(table["method"])
    assert row(table, "set(every=10)", 0.9)["n"] == 1
    text = markdown(read(study))
    assert lines_with(text, "set(every=10)", "90.00 (n=1)")
    assert lines_with(text, "set(every=10)", "one seed: cannot say")


def test_diverged_run_stays_visible(study: Path) -> None:
    scores = {"accuracy": 0.1, "nll": float("nan"), "calibration_error": 0.5, "n": 400}
    run = write_run(study, "gmp", 0.9, 0, 0.1, test=scores)
    assert pd.isna(row(main_table(study), "gmp", 0.9)["nll"])
    assert lines_with(markdown(read(study)), "NOT FINITE", run.name, "seed 0")


def test_output_is_deterministic_and_complete(study: Path) -> None:
    assert write_report(study) == study / "report.md"
    names = {path.name for path in study.iterdir() if path.is_file()} - {"recipe.yaml", "timing.json"}
    figures = ("accuracy", "learning-curves", "sparsity", "layers")
    assert names == {"report.md", "table.csv"} | {f"{name}.{kind}" for name in figures for kind in ("svg", "csv")}
    first = {name: (study / name).read_bytes() for name in names}
    write_report(study)
    assert {name: (study / name).read_bytes() for name in names} == first
    pd.testing.assert_frame_equal(pd.read_csv(study / "table.csv"), main_table(study), check_dtype=False)


@pytest.mark.parametrize("sparse", [0, 1])
def test_smallest_studies_have_a_report(tmp_path: Path, sparse: int) -> None:
    write_run(tmp_path, ("dense", "gmp")[sparse], 0.9 * sparse, 0, 0.9, theoretical_speedup=None)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    text = write_report(tmp_path).read_text()
    assert ("no sparse run has finished", "holds no dense run")[sparse] in text
    assert "90.00 (n=1)" in text
    assert "unbounded" in text
    assert "nan" not in text


def test_terminal_table_swallows_nothing(study: Path) -> None:
    (study / "runs" / "0badcafe").mkdir()
    output = io.StringIO()
    print_table(study, Console(file=output, width=120))
    text = output.getvalue()
    assert lines_with(text, "gmp", "2.00×", "0.80× (0.75 to 0.85), no gain")
    assert lines_with(text, "50 %", "gmp", "95.00 ± 1.41 (n=2)")
    assert lines_with(text, "UNFINISHED", "0badcafe")


def test_errors_are_one_line(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a finished run .* got no such directory"):
        write_report(tmp_path / "missing")
    (tmp_path / "empty" / "runs" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"needs a finished run .* got 1 unfinished"):
        main_table(tmp_path / "empty")
    write_run(study, "gmp", 0.9, 1, 0.9)
    with pytest.raises(ValueError, match="a seed must count once"):
        main_table(study)
    write_run(study, "gmp", 0.9, 7, 0.9, model="cnn")
    with pytest.raises(ValueError, match="one workload, got cnn on digits, mlp on digits"):
        main_table(study)


def test_numbers_read_well() -> None:
    assert [count(number) for number in (9.6, 8448, 84_480, 4_089_284_608)] == ["9.6", "8,448", "84.5 k", "4.09 G"]
    assert [size(number) for number in (528, 45_000, 102_000_000)] == ["528 B", "45.0 kB", "102 MB"]
    assert [realised(0.9, 0, 3), realised(0.99996, 0, 3), realised(0.5, 0.01, 3)] == [
        "90.00 %",
        "99.996 %",
        "50.00 ± 1.00 %",
    ]
    assert throughput(float("nan"), 0, 0) == "not measured"
    assert throughput(1.0, 0.9, 1.1).endswith("no gain")


def test_report_loads_no_torch() -> None:
    check = "import sys, prunus.report; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
