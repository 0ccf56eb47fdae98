"""What a report says: its tables, its sentences, its Markdown, and the terminal's table."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from studies import as_written_before, lines_with, timed, write_run

from prunus.report import main_table, print_table, write_report
from prunus.report.markdown import markdown
from prunus.report.paired import differences
from prunus.report.results import read
from prunus.report.study import study_document
from prunus.report.tables import benefits, collapsed, costs, misses, reliability
from prunus.report.wording import count, realised, size, throughput, unit


def text_of(directory: Path) -> str:
    """The report as Markdown."""
    return markdown(study_document(read(directory)))


def row(table: pd.DataFrame, method: str, sparsity: float) -> "pd.Series[Any]":
    (found,) = table[(table["method"] == method) & (table["requested_sparsity"] == sparsity)].iterrows()
    return found[1]


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
    text = text_of(study)
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
    text = text_of(study).split("## Time and memory")[1]
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
    (run / "recipe.yaml").write_text("method: {gmp: {update_every: 5}}\nsparsity: [0.9]\nseed: [4]\n")
    (run / "metrics.jsonl").write_text('{"step": 40, "epoch": 2.0}\n{"step": 60, "ep')
    text = text_of(study)
    assert lines_with(text, "runs/0badcafe", "(`gmp(update_every=5)` at 90 %, seed 4): last logged step 40")
    assert len(read(study).runs) == 13


def test_the_study_says_which_runs_it_has(study: Path) -> None:
    names = [path.name for path in (study / "runs").iterdir()]
    stray = write_run(study, "gmp", 0.9, 1, 0.5)  # an older recipe's: the same method, sparsity and seed
    (study / "study.json").write_text(json.dumps({"runs": [*names, "notbegun"]}))
    text = text_of(study)
    assert lines_with(text, "Left out", stray.name)
    assert lines_with(text, "not begun: `notbegun`")
    assert lines_with(text, "**94.00 ± 1.41** (n=2)")


def test_collapsed_layers_and_missed_sparsity_are_loud(study: Path) -> None:
    for seed in range(2):
        write_run(study, "str", 0.9, seed, 0.99, realised_sparsity=0.8, collapsed=["2.weight"][seed:])
    results = read(study)
    assert collapsed(results).to_dict("records") == [
        {"requested_sparsity": 0.9, "method": "str", "position": 1, "layer": "2.weight", "runs": 1, "n": 2}
    ]
    assert list(misses(results)["method"]) == ["str"]
    text = text_of(study)
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
    text = text_of(study)
    assert lines_with(text, "set(every=10)", "90.00 (n=1)")
    assert lines_with(text, "set(every=10)", "one seed: cannot say")


def test_diverged_run_stays_visible(study: Path) -> None:
    scores = {"accuracy": 0.1, "nll": float("nan"), "calibration_error": 0.5, "n": 400}
    run = write_run(study, "gmp", 0.9, 0, 0.1, test=scores)
    assert pd.isna(row(main_table(study), "gmp", 0.9)["nll"])
    assert lines_with(text_of(study), "NOT FINITE", run.name, "seed 0")


@pytest.mark.parametrize("sparse", [0, 1])
def test_smallest_studies_have_a_report(tmp_path: Path, sparse: int) -> None:
    write_run(tmp_path, ("dense", "gmp")[sparse], 0.9 * sparse, 0, 0.9, theoretical_speedup=None)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    text = text_of(tmp_path)
    assert ("no sparse run has finished", "holds no dense run")[sparse] in text
    assert ("90.00 (n=1)", "**90.00** (n=1)")[sparse] in text
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


def test_calibration_is_pooled_over_seeds(study: Path) -> None:
    table = reliability(read(study))
    bins = table[(table["method"] == "gmp") & (table["requested_sparsity"] == 0.9)]
    assert list(bins["n"]) == [170, 630]
    assert list(bins["accuracy"]) == [0.5, pytest.approx((310 * 0.93 + 320 * 0.95) / 630)]
    assert list(bins["confidence"]) == [pytest.approx(0.64), pytest.approx(0.99)]


def test_time_and_memory_stand_beside_dense(study: Path) -> None:
    gmp = row(costs(read(study)), "gmp", 0.9)  # seeds 1 and 2
    assert (gmp["train_seconds"], gmp["train_seconds_sd"]) == (2.5, pytest.approx(0.5**0.5))
    text = text_of(study).split("## Time and memory")[1]
    assert lines_with(text, "gmp", "2.50 ± 0.71 (n=2)", "1.70 kB (1.08× dense)", "528 B", "120 B", "not measured")
    assert lines_with(text, "dense", "1.58 kB (1.00× dense)", "| 0 B |")


def test_what_an_older_result_does_not_hold_was_not_measured(study: Path) -> None:
    runs = sorted((study / "runs").iterdir())
    as_written_before(runs[0])
    assert pd.isna(row(costs(read(study)), "dense", 0.0)["parameters_bytes"])
    for run in runs[1:]:
        as_written_before(run)
    text = text_of(study)
    assert lines_with(text, "Reliability diagrams were not measured", "older format")
    assert lines_with(text, "Memory was not measured", "older format")
    assert lines_with(text, "| not measured | not measured | not measured |")
    assert "nan" not in text


def test_a_result_of_another_format_is_refused(study: Path) -> None:
    write_run(study, "gmp", 0.9, 5, 0.9, format="prunus-result/9")
    with pytest.raises(ValueError, match=r"must be of format 'prunus-result/3', got 'prunus-result/9'; run it again"):
        read(study)


def test_the_answer_stands_in_one_sentence_at_the_top(study: Path) -> None:
    answer = text_of(study).splitlines()[2]
    assert answer == (
        "Of 2 methods that train mlp on digits sparse, the highest mean test accuracy is that of `rigl` at 50 % "
        "(96.00 ± 1.00 %) and `gmp` at 90 % (94.00 ± 1.41 %); dense training reaches 97.00 ± 1.00 % (n=3), and only "
        "the lead at 90 % stands clear of the spread of the others."
    )


def test_leading_accuracies_are_bold(study: Path) -> None:
    text = text_of(study).split("## Results")[1].split("## The same")[0]
    bold = [line.split("|")[2].strip() for line in lines_with(text, " | **")]
    assert bold == ["gmp", "rigl", "gmp"]


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
    assert [unit(most) for most in (0, 999, 1000, 2.5e9)] == [("B", 1), ("B", 1), ("kB", 1e3), ("GB", 1e9)]
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
