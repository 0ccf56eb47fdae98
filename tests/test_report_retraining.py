"""What a report says of schedules and budgets of retraining, and what it leaves out where a study has none."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from studies import lines_with, retrained, section, write_methods, write_retraining, write_run

from prunus.report import main_table, print_table, write_report
from prunus.report.budget import spent
from prunus.report.labels import Label, labels
from prunus.report.markdown import markdown
from prunus.report.rates import MOST, rates_plot
from prunus.report.results import Results, read
from prunus.report.retraining import orders
from prunus.report.retraining_plot import retraining_plot
from prunus.report.study import study_document

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def retraining(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(write_retraining(tmp_path_factory.mktemp("retraining") / "study"))


@pytest.fixture(scope="module")
def schedules(retraining: Results) -> str:
    """The report on the study of schedules as Markdown."""
    return markdown(study_document(retraining))


def run(method: str, steps: int, **arguments: Any) -> dict[str, Any]:
    return {
        **{"method": method, "arguments": arguments, "sparsity": 0.9, "steps": steps, "epochs": steps / 20},
        **{"batch_size": 64, "precision": "32-true"},
    }


def test_labels_name_a_budget_only_where_a_variant_has_several() -> None:
    runs = [run("dense", 400), *(run("imp", steps, schedule=name) for steps in (8, 50) for name in ("ft", "allr"))]
    assert labels(runs) == [
        Label("dense"),
        Label("imp(schedule=ft)", "0.4 epochs"),
        Label("imp(schedule=allr)", "0.4 epochs"),
        Label("imp(schedule=ft)", "2.5 epochs"),
        Label("imp(schedule=allr)", "2.5 epochs"),
    ]
    assert str(labels(runs)[-1]) == "imp(schedule=allr), 2.5 epochs"
    assert labels([run("gmp", 400), run("imp", 50)]) == [Label("gmp"), Label("imp")]


def search(arguments: dict[str, Any], tried: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """What search.json says of a cell."""
    cell = {"method": "imp", "sparsity": 0.9, "epochs": 1.0, "arguments": arguments}
    return cell | {"points": [{"values": values} for values in tried]} | changes


def test_what_a_search_chose_makes_no_variant() -> None:
    found = {0.8: 1, 0.9: 2, 0.95: 3}
    runs = [run("imp", 20 * round(100 * level), cycles=cycles) | {"sparsity": level} for level, cycles in found.items()]
    runs += [run("imp", 8, cycles=1), run("imp", 8, cycles=1) | {"batch_size": 32}]
    tried = [{}, *({"method.IMP.cycles": cycles, "batch_size": 32, "learning_rate": 0.2} for cycles in (2, 3))]
    levels = [search({}, tried, sparsity=level, epochs=epochs) for level in found for epochs in (0.4, 1.0)]
    assert {label.variant for label in labels(runs, levels)} == {"imp"}
    assert {label.variant for label in labels(runs)} > {"imp(batch_size=64, cycles=2)"}


def test_what_the_recipe_varies_is_told_beside_what_a_search_chose() -> None:
    runs = [run("imp", 8, schedule="ft", cycles=3), run("imp", 8, schedule="llr", cycles=2)]
    searches = [search({"schedule": name}, [{}, {"method.imp.cycles": 2}]) for name in ("ft", "llr")]
    assert [label.variant for label in labels(runs, searches)] == ["imp(schedule=ft)", "imp(schedule=llr)"]
    both = [{}, {"method.imp.schedule": "slr"}]  # chosen where the recipe varies it: the variants stay apart
    searches = [one | search(one["arguments"], both) for one in searches]
    assert [label.variant for label in labels(runs, searches)] == [
        "imp(cycles=3, schedule=ft)",
        "imp(cycles=2, schedule=llr)",
    ]


def test_budgets_are_not_averaged_and_stand_in_their_order(retraining: Results) -> None:
    runs = retraining.runs
    assert list(runs[runs["requested_sparsity"] == 0.9]["method"].unique())[:2] == [
        "imp(schedule=allr), 0.4 epochs",
        "imp(schedule=allr), 1 epoch",
    ]
    assert set(runs.groupby(["requested_sparsity", "method"]).size()) == {3}


def test_budgets_are_in_the_order_of_their_length(tmp_path: Path) -> None:
    for steps in (200, 40):
        write_run(tmp_path, "imp", 0.9, 0, 0.9, steps=steps, epochs=steps / 20)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    assert list(read(tmp_path).runs["method"]) == ["imp, 2 epochs", "imp, 10 epochs"]


def test_methods_are_ranked_at_each_budget(schedules: str) -> None:
    said = "at 90 % after 0.4 epochs, `imp(schedule=allr)` has the highest mean: 88.40 ± 0.20 % (n=3)"
    assert lines_with(schedules, said)
    assert lines_with(schedules, "at 90 % after 1 epoch, `imp(schedule=allr)` has the highest mean")
    assert "Of 3 methods" in schedules
    assert "Below dense: every method at every sparsity and budget." in schedules
    results = section(schedules, "Results")
    assert len(lines_with(results, "imp(schedule=allr)", "**88.40 ± 0.20** (n=3)")) == 4
    assert "the highest mean accuracy of each budget" in results


def test_the_table_of_schedules_by_budgets(schedules: str) -> None:
    text = section(schedules, "Retraining")
    assert lines_with(text, "| requested | method | 2 % (0.4 epochs) | 5 % (1 epoch) |")
    assert lines_with(text, "| **90 %** | imp(schedule=allr) | **88.40 ± 0.20** (n=3) | **88.40 ± 0.20** (n=3) |")
    assert lines_with(text, "|  | imp(schedule=ft) | 79.40 ± 0.20 (n=3) | 87.40 ± 0.20 (n=3) |")


def test_the_order_is_said_in_words(retraining: Results) -> None:
    said = orders(retraining)
    assert len(said) == 4
    assert said[2] == (
        "at 90 % sparsity, 2 % (0.4 epochs): `imp(schedule=allr)` has the highest mean, 88.40 ± 0.20 % (n=3); no other "
        "method's mean ± sd overlaps it. `imp(schedule=allr)` 88.40 > `imp(schedule=llr)` 87.40 > `imp(schedule=ft)` "
        "79.40."
    )
    assert said[3].endswith("88.40 > `imp(schedule=ft)` 87.40 ≈ `imp(schedule=llr)` 87.40.")


def test_one_seed_shows_no_order_of_neighbours(tmp_path: Path) -> None:
    dense = write_run(tmp_path, "dense", 0.0, 0, 0.9)
    for schedule, accuracy in {"allr": 0.8, "ft": 0.7}.items():
        write_run(tmp_path, "imp", 0.9, 0, accuracy, **retrained(schedule, 8, dense, 0.3))
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    (said,) = orders(read(tmp_path))
    assert said.endswith("its lead has no known spread. `imp(schedule=allr)` 80.00, `imp(schedule=ft)` 70.00.")
    assert not retraining_plot(read(tmp_path)).panels  # a single budget


def test_a_retrained_network_that_missed_its_sparsity_is_not_ranked(tmp_path: Path) -> None:
    directory = write_retraining(tmp_path / "study")
    for path in directory.glob("runs/imp-0.9-*/result.json"):
        result = json.loads(path.read_text())
        if result["arguments"] == {"schedule": "allr"}:
            path.write_text(json.dumps(result | {"realised_sparsity": 0.8}))
    said = orders(read(directory))
    assert said[2].startswith("at 90 % sparsity, 2 % (0.4 epochs): `imp(schedule=llr)` has the highest mean")
    assert lines_with(
        section(markdown(study_document(read(directory))), "Retraining"), "imp(schedule=allr) | 88.40 ± 0.20 (n=3)"
    )


def test_a_line_per_schedule_and_a_panel_per_sparsity(retraining: Results) -> None:
    plot = retraining_plot(retraining)
    assert len(plot.panels) == 2
    assert list(plot.keys)[1:] == ["imp(schedule=allr)", "imp(schedule=ft)", "imp(schedule=llr)"]
    assert sorted(plot.data["share"].unique()) == [0.02, 0.05]


def test_no_column_of_recalibration_without_one(retraining: Results, schedules: str) -> None:
    text = section(schedules, "What pruning took and retraining brought back")
    assert "recalibration" not in text
    assert lines_with(
        text, "imp(schedule=allr), 1 epoch | 1 | 3", "| 96.00 ± 0.00 | 66.00 ± 0.00 | 95.00 ± 0.00 | 20 |"
    )
    assert "nan" not in text


def test_equal_learning_rates_share_a_panel(retraining: Results) -> None:
    plot = rates_plot(retraining)
    assert len(plot.panels) == 2  # dense, and all schedules: the study gives them one course
    assert "seed 0 and at 90 % sparsity" in plot.caption
    assert "`imp(schedule=ft)` and `imp(schedule=llr)` followed the same rates as `imp(schedule=allr)`" in plot.caption
    assert set(plot.keys) == {"0.4 epochs", "1 epoch"}
    assert set(plot.data["seed"]) == {0}


def test_at_most_so_many_learning_rates_are_shown(tmp_path: Path) -> None:
    for rate in range(MOST + 3):
        write_run(tmp_path, f"method{rate:02}", 0.9, 0, 0.9, learning_rates=[[0, rate], [59, 0.0]])
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    plot = rates_plot(read(tmp_path))
    assert len(plot.panels) == MOST
    assert plot.caption.endswith("Of 15 different courses the first 12 are shown, 3 methods left out.")


def test_the_budget_includes_what_came_before(retraining: Results, schedules: str) -> None:
    text = section(schedules, "Time and memory")
    row = "imp(schedule=allr), 1 epoch | 1 | 20 | 21 | 420 | 240 (10.0 % of dense) | 48.2 k (95.7 % of dense) | 10.00"
    assert lines_with(text, row)
    table = spent(retraining).set_index("method")
    assert set(table.loc["dense", ["all_epochs"]]) == {20}


def test_sections_appear_only_where_a_study_has_their_data(study: Path) -> None:
    text = markdown(study_document(read(study)))
    titles = re.findall("^## (.*)$", text, re.MULTILINE)
    assert titles == [
        *("Attention", "Results", "The same accuracy?", "Training", "Layers", "Calibration", "Time and memory"),
        "To reproduce",
    ]
    assert "bimp" not in text
    assert "The budget" not in text


@pytest.mark.parametrize("write", [write_retraining, write_methods])
@pytest.mark.slow
def test_every_figure_and_table_has_its_numbers(tmp_path: Path, write: Any) -> None:
    directory = write(tmp_path / "study")
    text = write_report(directory).with_suffix(".md").read_text()
    assert "nan" not in text
    linked = set(re.findall(r"\]\(([\w-]+\.(?:svg|csv))\)", text))
    assert linked == {path.name for path in directory.iterdir() if path.suffix in {".svg", ".csv"}}
    new = {"learning-rates.svg", "pruning-drop.svg", "cycles.csv", "budget.csv"}
    assert new < linked


@pytest.mark.slow
def test_several_studies_of_retraining_stand_side_by_side(tmp_path: Path) -> None:
    directories = write_retraining(tmp_path / "one"), write_methods(tmp_path / "two")
    out = write_report(*directories, out=tmp_path / "both").parent
    assert (out / "one-retraining.csv").is_file()
    assert (out / "two-differences-bimp.csv").is_file()
    page = (out / "report.html").read_text()
    found = re.findall(r' id="([^"]+)"', page)
    assert len(found) == len(set(found))


def test_the_terminal_has_the_table_of_schedules(tmp_path: Path) -> None:
    output = io.StringIO()
    print_table(write_retraining(tmp_path / "study"), Console(file=output, width=120))
    assert lines_with(output.getvalue(), "imp(schedule=ft)", "79.40 ± 0.20 (n=3)  87.40 ± 0.20 (n=3)")
    assert "**" not in output.getvalue()


def test_the_main_table_has_a_row_per_budget(tmp_path: Path) -> None:
    table = main_table(write_retraining(tmp_path / "study"))
    assert len(table) == 1 + 2 * 2 * 3
    assert set(table["n"]) == {3}


def test_a_dense_run_that_others_began_from_stands_beside_one_of_its_own(tmp_path: Path) -> None:
    begun = write_run(tmp_path, "dense", 0.0, 0, 0.9)
    write_run(tmp_path, "dense", 0.0, 1, 0.8)
    own = write_run(tmp_path, "dense", 0.0, 0, 0.95, threads=2)
    before = {"run": begun.name, "epochs": 5.0, "steps": 50, "train_seconds": 1.0}
    write_run(tmp_path, "imp", 0.9, 0, 0.85, pretraining=before)
    (tmp_path / "recipe.yaml").write_text("seeds: 2\n")
    (tmp_path / "timing.json").write_text("[]")
    runs = read(tmp_path).runs.set_index("run")
    assert (runs.loc[begun.name, "method"], runs.loc[own.name, "method"]) == ("dense start", "dense")
