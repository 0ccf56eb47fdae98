"""What a report says of methods at one budget: pairs, cycles, images a second, the search for settings."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from studies import lines_with, retrained, section, write_methods, write_retraining, write_run

from prunus.report.cycles import cycle_means, recalibrations
from prunus.report.cycles_plot import cycles_plot
from prunus.report.markdown import markdown
from prunus.report.paired import differences, paired
from prunus.report.results import Results, read
from prunus.report.search import search_blocks
from prunus.report.study import study_document
from prunus.report.tables import benefits, reference

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(write_methods(tmp_path_factory.mktemp("methods") / "study"))


@pytest.fixture(scope="module")
def stable(methods: Results) -> str:
    """The report on the study of methods as Markdown."""
    return markdown(study_document(methods))


def test_a_run_is_paired_with_the_dense_run_that_it_began_from(tmp_path: Path) -> None:
    own, other = (write_run(tmp_path, "dense", 0.0, seed, 0.9 - 0.1 * seed) for seed in range(2))
    write_run(tmp_path, "imp", 0.9, 0, 0.75, **retrained("allr", 8, other, 0.3))
    (tmp_path / "recipe.yaml").write_text("seeds: 2\n")
    runs = read(tmp_path).runs
    pairs = paired(runs[runs["name"] == "imp"], runs)
    assert list(pairs["pair"]) == [pytest.approx(0.8)]
    assert own.name not in set(pairs["partner"])


def test_differences_to_bimp_are_paired_by_seed_and_sparsity(methods: Results, stable: str) -> None:
    (gmp,) = differences(methods, "bimp").to_dict("records")  # -1, 0 and 1 points
    assert (gmp["method"], gmp["n"]) == ("gmp", 3)
    assert gmp["difference"] == pytest.approx(0, abs=1e-12)
    assert gmp["difference_sd"] == pytest.approx(0.01)
    assert gmp["high"] == pytest.approx(4.30265 * 0.01 / 3**0.5, abs=1e-7)
    text = section(stable, "The same accuracy?")
    assert lines_with(text, "less that of `bimp` with the same seed, sparsity and length", "No difference shown: `gmp`")
    assert lines_with(text, "gmp | +0.00 ± 1.00 | 3 | -2.48 to +2.48 | no difference shown")
    assert lines_with(text, "gmp | -3.00 ± 0.00 | 3 | -3.00 to -3.00 | below dense")


@pytest.mark.parametrize(("steps", "n"), [(59, 3), (60, 3), (61, 3), (62, 0), (120, 0)])
def test_runs_of_other_lengths_are_never_paired_with_bimp(tmp_path: Path, steps: int, n: int) -> None:
    directory = write_methods(tmp_path / "study")
    for path in directory.glob("runs/gmp-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": steps}))
    assert differences(read(directory), "bimp")["n"].sum() == n
    assert differences(read(directory))["n"].sum() == 6  # dense training is the reference all the same


def test_runs_of_other_sparsities_are_never_paired_with_bimp(tmp_path: Path) -> None:
    for sparsity, accuracy in {0.5: 0.9, 0.9: 0.8}.items():
        write_run(tmp_path, "bimp", sparsity, 0, accuracy)
        write_run(tmp_path, "gmp", sparsity, 0, 0.85)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    assert differences(read(tmp_path), "bimp")["difference"].to_list() == [pytest.approx(-0.05), pytest.approx(0.05)]


def test_what_came_before_counts_to_the_length(tmp_path: Path) -> None:
    directory = write_methods(tmp_path / "study")
    before = {"run": "elsewhere", "epochs": 2.0, "steps": 40, "train_seconds": 3.0}
    for path in directory.glob("runs/gmp-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 20, "pretraining": before}))
    assert list(differences(read(directory), "bimp")["n"]) == [3]


def test_each_budget_is_paired_with_dense_and_bimp_of_its_own(tmp_path: Path) -> None:
    for steps, less in {60: 0.0, 120: 0.01}.items():
        length = {"steps": steps, "epochs": steps / 20}
        for seed in range(2):
            for method, accuracy in {"dense": 0.95, "bimp": 0.9, "gmp": 0.88}.items():
                reached = accuracy + seed / 100 - less * (method == "gmp")
                write_run(tmp_path, method, 0.9 * (method != "dense"), seed, reached, **length)
    (tmp_path / "recipe.yaml").write_text("seeds: 2\n")
    results = read(tmp_path)
    table = differences(results, "bimp").set_index("method")
    assert list(table.index) == ["gmp, 3 epochs", "gmp, 6 epochs"]
    assert table["difference"].to_list() == [pytest.approx(-0.02), pytest.approx(-0.03)]
    runs = results.runs
    pairs = paired(runs[runs["method"] == "gmp, 6 epochs"], runs)
    assert set(pairs["partner"].map(runs.set_index("run")["method"])) == {"dense, 6 epochs"}


def test_the_dense_run_that_others_began_from_is_the_reference(tmp_path: Path) -> None:
    directory = write_retraining(tmp_path / "study")
    for steps in (8, 20):
        write_run(directory, "dense", 0.0, 0, 0.5, steps=steps, epochs=steps / 20)
    assert reference(read(directory).runs) == "dense, 20 epochs"


def test_cycles_are_told_stage_by_stage(methods: Results, stable: str) -> None:
    text = section(stable, "What pruning took and retraining brought back")
    assert lines_with(text, "bimp | 2 | 3 | 90.00 %", "0.200 | 88.00 ± 0.00 | 80.00 ± 0.00 | 85.00 ± 0.00 | 88.00")
    table = cycle_means(methods)
    assert table["lost_pruned"].to_list() == [pytest.approx(0.4), pytest.approx(0.1)]
    assert table["lost_retrained"].to_list() == [pytest.approx(0.02)] * 2
    assert len(cycles_plot(methods).panels) == 2


def test_recalibration_at_the_end_is_told_for_every_method(methods: Results, stable: str) -> None:
    table = recalibrations(methods)
    assert list(table["method"]) == ["dense", "bimp", "gmp"]
    assert table["gained"].to_list() == [pytest.approx(0.01)] * 3
    text = section(stable, "What pruning took and retraining brought back")
    assert lines_with(text, "gmp | 4 | 80.00 ± 0.00 (n=3) | 81.00 ± 1.00 (n=3) | +1.00 ± 1.00")


def test_images_a_second_stand_beside_the_ratio(methods: Results, stable: str) -> None:
    table = benefits(methods).set_index("method")["images"]
    # 100 and 80 steps a second, of 64 images twice
    assert (table["dense"], table["gmp"]) == (12_800, 10_240)
    assert pd.isna(table["bimp"])
    text = section(stable, "Time and memory")
    assert lines_with(text, "gmp", "0.80× (0.75 to 0.85), no gain | 10.2 k |")
    assert lines_with(text, "bimp", "not measured | not measured |")


def test_the_search_is_told(methods: Results, stable: str) -> None:
    text = section(stable, "Search")
    assert "Each search took 2 trainings." in text
    assert lines_with(text, "gmp | learning_rate=0.1 | 2 | 91.00 | 90.00 %")
    assert lines_with(text, "learning_rate=0.1 ← chosen | 91.00")
    assert lines_with(text, "learning_rate=1.0 | no result")
    unequal = replace(methods, searches=[methods.searches[0], methods.searches[1] | {"trainings": 3}])
    assert "not of equal cost: they took 2 to 3 trainings" in str(search_blocks(unequal)[0])


def test_a_method_has_one_name_whatever_its_searches_chose(tmp_path: Path) -> None:
    searches = []
    for epochs, cycles in ((3.0, 2), (6.0, 3)):
        length = {"steps": round(20 * epochs), "epochs": epochs}
        write_run(tmp_path, "bimp", 0.9, 0, 0.9, arguments={"cycles": cycles}, **length)
        tried = [{"values": values, "trainings": 1} for values in ({}, {"method.bimp.cycles": cycles})]
        cell = {"method": "bimp", "arguments": {}, "sparsity": 0.9, "epochs": epochs}
        searches.append(cell | {"points": tried, "chosen": tried[1]["values"]})
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    (tmp_path / "search.json").write_text(json.dumps(searches))
    assert list(read(tmp_path).runs["method"]) == ["bimp, 3 epochs", "bimp, 6 epochs"]
