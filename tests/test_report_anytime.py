"""What a report says of runs over streams: the table, the differences to dense, the curves, and equal cost."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from studies import lines_with, section, stream, write_stream, write_streams, write_study

from prunus.report import write_report
from prunus.report.anytime import anytime_blocks, anytime_cells, said
from prunus.report.anytime_plot import anytime_cost_plot, anytime_plot
from prunus.report.attention import warnings
from prunus.report.drawing import Panel
from prunus.report.equal_cost import at_equal_cost, equal_cost, equal_cost_cells
from prunus.report.gap_plot import gap_means, gap_plot
from prunus.report.labels import Label, labels
from prunus.report.markdown import block
from prunus.report.results import Results, read
from prunus.report.streams import megabatch_means, stream_differences, stream_pairs, stream_table
from prunus.report.terminal import print_table

ONCE, PROGRESSIVE = "snip(plan=once)", "snip(plan=progressive)"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(write_streams(tmp_path_factory.mktemp("streams") / "study"))


def told(results: Results) -> str:
    """The section as Markdown."""
    plots = {"curves": anytime_plot(results), "gap": gap_plot(results), "cost": anytime_cost_plot(results)}
    named = {f"anytime-{name}": plot for name, plot in plots.items()}
    return "\n\n".join(map(block, anytime_blocks(results, named, {})))


@pytest.fixture(scope="module")
def text(streams: Results) -> str:
    """The section on the whole study."""
    return told(streams)


def changed(directory: Path, pattern: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """The study after ``change`` was made to the streams of some runs."""
    for path in directory.glob(f"runs/{pattern}/result.json"):
        content = json.loads(path.read_text())
        change(content["stream"])
        path.write_text(json.dumps(content))
    return directory


def waiting(stream: dict[str, Any]) -> None:
    """Training waited at the first and third megabatch; before the first there was no network."""
    first, second, third, _ = stream["megabatches"]
    first["trained"], third["trained"], first["layers"], third["layers"] = [], [], {}, second["layers"]


def drawn(panel: Panel) -> Any:
    """The axes of a panel."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def test_a_method_has_what_it_reached_and_what_it_cost(text: str) -> None:
    head = (
        "| requested | method | test accuracy, % | CER | mean error, % | gap, points | gap as released, points | realis"
    )
    assert lines_with(text, head)
    assert "forgetting" not in text
    dense = "| **0 %** | dense | 89.00 ± 1.00 (n=3) | 228 ± 8 | 28.50 ± 1.00 | 8.00 ± 0.00 | 10.00 ± 0.00 | 0.00 % |"
    assert lines_with(text, dense, "| 10.0 k | 1.58 kB | 1 |")
    row = "progressive) | 89.00 ± 2.00 (n=3) | 198 ± 10 | 24.75 ± 1.25 | 5.00 ± 1.00 | 7.00 ± 1.00 | 75.00 % |"
    assert lines_with(text, row, "| 4,000 (40.0 ± 0.0 % of dense) | 1.70 kB | 1 |")


def test_forgetting_is_told_of_streams_ordered_by_class_alone(tmp_path: Path, streams: Results) -> None:
    text = told(read(write_streams(tmp_path / "study", seeds=2, order="by-class")))
    assert "Forgetting is how far the accuracy of a class has fallen" in text
    assert lines_with(text, "| dense |", "| 10.00 ± 0.00 | 12.50 ± 0.00 | 0.00 % |")
    assert stream_table(streams)["forgetting"].isna().all()


def test_each_measure_is_held_against_dense_of_the_same_seed(streams: Results, text: str) -> None:
    accuracy, errors, gap = (
        "+0.00 ± 1.00 (-2.48 to +2.48), no gain shown",
        "-30.0 ± 2.0 (-35.0 to -25.0), gain shown",
        "-3.00 ± 1.00 (-5.48 to -0.52), gain shown",
    )
    assert lines_with(text, f"| {PROGRESSIVE} | 3 | {accuracy} | {errors} | {gap} |")
    assert said(streams) == [
        f"Test accuracy against dense: loss shown for `{ONCE}` at 75 %; no gain shown for `{PROGRESSIVE}` at 75 %.",
        f"CER against dense: loss shown for `{ONCE}` at 75 %; gain shown for `{PROGRESSIVE}` at 75 %.",
        f"Gap against dense: no gain shown for `{ONCE}` at 75 %; gain shown for `{PROGRESSIVE}` at 75 %.",
        "Every realised sparsity lies within 0.5 points of its plan after every megabatch that was trained on.",
    ]
    table = stream_differences(streams).set_index(["method", "measure"])
    assert table.loc[(PROGRESSIVE, "mean_error"), "difference"] == pytest.approx(-30 / 800)


def test_a_dense_run_on_another_stream_is_no_partner(tmp_path: Path) -> None:
    directory = write_streams(tmp_path / "study")

    def another(stream: dict[str, Any]) -> None:
        stream["megabatches"][0]["examples"] = 101

    results = read(changed(directory, "dense-0.0-[01]-*", another))
    assert set(stream_pairs(results)["seed"]) == {2}
    results = read(changed(directory, "dense-*", lambda stream: stream["settings"].update(order="balanced")))
    assert stream_pairs(results).empty
    assert said(results)[0].startswith("No run has a dense run of its seed on the same stream")
    cells = anytime_cells(results)
    assert list(cells["training MACs"]) == ["10.0 k", "2,500", "4,000"]
    assert "nan" not in cells.to_string()


def test_another_dense_learner_is_held_against_the_reference(tmp_path: Path) -> None:
    for seed in range(2):
        for learner, wrong in {"single": 20, "growing": 10}.items():
            streamed = stream([wrong] * 4, [0.0] * 4, 0.1, False)
            streamed["megabatches"][-1]["networks"] = 4 if learner == "growing" else 1
            changes = {"arguments": {"learner": learner}, "parameters": 528 if learner == "growing" else 132}
            write_stream(tmp_path, "dense", 0.0, seed, streamed, **changes)
        arguments = {"sparsity": 0.75, "learner": "single"}
        write_stream(tmp_path, "snip", 0.75, seed, stream([30] * 4, [0.75] * 4, 0.1, True), arguments=arguments)
    (tmp_path / "recipe.yaml").write_text("seeds: 2\n")
    results = read(tmp_path)
    pairs = stream_pairs(results)
    assert len(pairs) == 4
    assert set(pairs["method"]) == {"dense(learner=growing)", "snip"}
    assert set(pairs.loc[pairs["name"] == "dense", "less_cumulative_errors"]) == {-40}
    assert "Of several networks the gap is that of the one trained last" in told(results)
    assert set(anytime_plot(results).keys) == {"dense(learner=growing)", "dense(learner=single)", "snip"}


def test_one_seed_cannot_say(tmp_path: Path) -> None:
    results = read(write_streams(tmp_path / "study", seeds=1))
    assert said(results)[0].startswith("One seed of each method")
    assert "Gap against dense: one seed: cannot say, every method at every sparsity." in said(results)
    text = told(results)
    assert lines_with(text, f"| {PROGRESSIVE} | 1 | +1.00, one seed: cannot say | -32.0, one seed: cannot say |")
    assert "nan" not in text


def test_masks_off_their_plan_are_loud(tmp_path: Path, streams: Results) -> None:
    assert not warnings(streams)

    def sparser(stream: dict[str, Any]) -> None:
        for record in stream["megabatches"][1:3]:
            record["layers"] = {"0.weight": [12, 120]}

    results = read(changed(write_streams(tmp_path / "study"), "snip-0.75-1-*", sparser))
    warning = (
        f"PLAN MISSED: `{PROGRESSIVE}` at 75 % was over 0.5 points off its plan after 2 of 4 megabatches in 1 of 3 "
        "runs; furthest after megabatch 2: planned 50.00 %, realised 90.00 %"
    )
    assert warning in warnings(results)
    assert f"Off its plan, see Attention: `{ONCE}` at 75 %, `{PROGRESSIVE}` at 75 %." in said(results)


def test_training_that_waits_is_told_and_misses_no_plan(tmp_path: Path) -> None:
    directory = changed(write_streams(tmp_path / "study", seeds=2), "*", waiting)
    for path in directory.glob("runs/*/metrics.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["megabatch"] % 2))
    results = read(directory)
    assert list(results.curves["step"])[:4] == [10, 20, 40, 60]
    assert not warnings(results)
    sentence = "was not trained at 2 of 4 megabatches; the network from before was tested again."
    assert [each for each in said(results) if "waited" in each] == [
        f"Training waited: `{method}` {sentence}" for method in ("dense", ONCE, PROGRESSIVE)
    ]
    means = megabatch_means(results).set_index(["method", "megabatch"])
    assert list(means.loc["dense", "gap"].isna()) == [True, False, True, False]
    assert list(means.loc[PROGRESSIVE, "realised_sparsity"].isna()) == [True, False, False, False]
    assert list(means.loc["dense", "steps"]) == [0, 20, 20, 60]
    assert "nan" not in told(results)
    assert [len(line.get_xdata()) for line in drawn(anytime_plot(results).panels[-2]).lines] == [2, 2, 2]


def test_a_plan_that_ends_beyond_the_stream_is_told(tmp_path: Path) -> None:
    def longer(stream: dict[str, Any]) -> None:
        stream["megabatches"][-1]["planned_sparsity"] = 0.7

    results = read(changed(write_streams(tmp_path / "study"), "snip-*", longer))
    assert any(each.startswith("The plan reaches the requested sparsity only after more") for each in said(results))


def test_what_arrived_adds_up(streams: Results) -> None:
    rows = streams.megabatches
    run = rows[(rows["method"] == PROGRESSIVE) & (rows["seed"] == 0)]
    assert list(run["images"]) == [100, 200, 300, 400]
    assert list(run["cumulative_errors"]) == [90, 140, 170, 188]
    assert list(run["training_macs"]) == [800, 1800, 3000, 4000]
    assert list(run["steps"]) == [10, 30, 60, 100]
    assert list(run["realised_sparsity"]) == pytest.approx([0.2, 0.5, 0.6, 0.75])
    means = megabatch_means(streams)
    first = means[(means["method"] == "dense") & (means["megabatch"] == 1)].iloc[0]
    assert (first["n"], first["accuracy"], first["accuracy_sd"]) == (3, pytest.approx(0.49), pytest.approx(0.01))


def test_logged_steps_and_epochs_are_counted_over_the_stream(streams: Results) -> None:
    curves = streams.curves
    run = curves[(curves["method"] == "dense") & (curves["seed"] == 0)]
    assert list(run["step"]) == [5, 10, 20, 30, 45, 60, 80, 100]
    assert list(run["epoch"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(run["megabatch"]) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_learning_rates_of_the_last_megabatch_alone_are_not_shown(tmp_path: Path) -> None:
    directory = write_streams(tmp_path / "study", seeds=1)
    for path in directory.glob("runs/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"learning_rates": [[0, 0.1], [39, 0.01]]}))
    assert read(directory).rates.empty


def test_the_networks_of_a_megabatch_are_counted_one_after_another(tmp_path: Path) -> None:
    streamed = stream([20] * 4, [0.0] * 4, 0.1, False)
    for record in streamed["megabatches"]:
        record["trained"] *= 2
    write_stream(tmp_path, "dense", 0.0, 0, streamed)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    curves = read(tmp_path).curves
    assert list(curves["step"])[:6] == [5, 10, 15, 20, 30, 40]
    assert list(curves["training"])[:5] == [0, 0, 1, 1, 0]


def test_the_gap_is_a_mean_over_the_evaluations_that_all_seeds_made(streams: Results) -> None:
    data = gap_plot(streams).data
    means = gap_means(data[data["method"] == PROGRESSIVE])
    assert list(means["step"]) == [5, 10, 20, 30, 45, 60, 80, 100]
    assert list(means["gap"])[:2] == pytest.approx([0.15, 0.10])
    fewer = data[(data["seed"] > 0) | (data["place"] == 0)]
    assert list(gap_means(fewer[fewer["method"] == PROGRESSIVE])["step"]) == [5, 20, 45, 80]


def test_seeds_that_patience_ended_early_are_one_method_and_matched_by_place(tmp_path: Path) -> None:
    directory = write_streams(tmp_path / "study", patience=2.0)
    path = next(directory.glob("runs/dense-0.0-1-*/result.json"))
    content = json.loads(path.read_text())
    content["stream"]["megabatches"][0]["trained"][0]["steps"] = 7
    path.write_text(json.dumps(content | {"steps": 97}))
    results = read(directory)
    assert set(results.runs["method"]) == {"dense", ONCE, PROGRESSIVE}
    data = gap_plot(results).data
    assert list(gap_means(data[data["method"] == "dense"])["step"]) == pytest.approx([5, 10, 19, 29, 44, 59, 79, 99])
    runs = [json.loads(found.read_text()) for found in sorted(directory.glob("runs/dense-*/result.json"))]
    assert {label.budget for label in labels([*runs, runs[0] | {"steps": 40, "epochs": 3.0}])} == {
        "8 epochs",
        "3 epochs",
    }
    assert labels(runs) == [Label("dense")] * 3


def test_equal_cost_is_interpolated_where_the_cheapest_ends(streams: Results, text: str) -> None:
    table = at_equal_cost(streams).set_index(["method", "seed"])
    assert set(table["cost"]) == {2500}
    assert table.loc[("dense", 0), "accuracy"] == pytest.approx(0.5 + 0.75 * 0.2)
    assert table.loc[("dense", 0), "megabatch"] == pytest.approx(1.75)
    assert table.loc[(PROGRESSIVE, 0), "accuracy"] == pytest.approx(0.75 + 7 / 12 * 0.1)
    assert table.loc[(ONCE, 0), "megabatch"] == 4
    assert "interpolated" in text
    row = "| **75 %** | dense | 2,500 | 64.00 ± 1.00 (n=3) | 1.8 of 4 |  |  |  | 89.00 ± 1.00 (n=3) |"
    assert lines_with(text, row)
    assert lines_with(text, f"|  | {ONCE} | 2,500 | 79.00 ± 1.00 (n=3) | 4.0 of 4 | +15.00 ± 0.00 |", "gain shown")


def test_who_has_no_network_yet_at_equal_cost_says_so(tmp_path: Path) -> None:
    def dear(stream: dict[str, Any]) -> None:
        for record in stream["megabatches"]:
            record["trained"][0]["training_macs"] *= 10

    results = read(changed(write_streams(tmp_path / "study", seeds=2), "dense-*", dear))
    cells = equal_cost_cells(results).set_index("method")
    assert cells.loc["dense", "test accuracy there, %"] == "no network yet"
    assert set(cells["reading"]) == {""}
    assert equal_cost(results)["difference"].isna().all()
    assert "nan" not in cells.to_string()


def test_panels_have_a_line_a_method_and_the_steps_of_sparsity(streams: Results) -> None:
    plot = anytime_plot(streams)
    assert list(plot.keys) == ["dense", ONCE, PROGRESSIVE]
    titles = [drawn(panel).get_title(loc="center") for panel in plot.panels]
    assert titles[0] == "test accuracy, %, at 75 %"
    assert titles[-3:] == ["cumulative errors, at 75 %", "gap, points, at 75 %", "sparsity, %, at 75 %"]
    errors, sparsity = drawn(plot.panels[-3]), drawn(plot.panels[-1])
    assert [list(line.get_xdata()) for line in errors.lines] == [[100, 200, 300, 400]] * 3
    assert len(errors.collections) == 3
    assert [line.get_linestyle() for line in sparsity.lines] == ["-", ":"] * 3
    assert {line.get_drawstyle() for line in sparsity.lines} == {"steps-post"}
    assert list(drawn(anytime_cost_plot(streams).panels[0]).lines[0].get_xdata()) == [1000, 3000, 6000, 10000]


def test_megabatches_end_in_one_place_or_in_a_colour_for_each_method(tmp_path: Path, streams: Results) -> None:
    (panel,) = gap_plot(streams).panels
    ends = [line for line in drawn(panel).lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in ends] == [10, 30, 60, 100]
    directory = write_streams(tmp_path / "study")
    for path in directory.glob("runs/dense-*/metrics.jsonl"):
        path.write_text(path.read_text().replace('"step": 10,', '"step": 11,'))
    (panel,) = gap_plot(read(directory)).panels
    ends = [line for line in drawn(panel).lines if line.get_linestyle() == ":"]
    assert len(ends) == 12
    assert len({line.get_color() for line in ends}) == 3


def test_a_study_without_streams_has_no_section(tmp_path: Path) -> None:
    results = read(write_study(tmp_path / "study"))
    assert told(results) == ""
    assert not any(plot(results).panels for plot in (anytime_plot, anytime_cost_plot, gap_plot))


@pytest.mark.usefixtures("undrawn")
def test_every_figure_and_table_has_its_numbers(tmp_path: Path) -> None:
    directory = write_streams(tmp_path / "study")
    text = write_report(directory).with_suffix(".md").read_text()
    assert "nan" not in text
    assert text.index("## Results") < text.index("## Anytime") < text.index("## The same accuracy?")
    assert lines_with(section(text, "Anytime"), "As numbers: [anytime.csv](anytime.csv).")
    linked = set(re.findall(r"\]\(([\w-]+\.(?:svg|csv))\)", text))
    assert linked == {path.name for path in directory.iterdir() if path.suffix in {".svg", ".csv"}}
    names = {"anytime", "anytime-differences", "anytime-equal-cost", "anytime-curves", "anytime-gap", "anytime-cost"}
    assert {f"{name}.csv" for name in names} < linked
    numbers = {name: pd.read_csv(directory / f"{name}.csv") for name in names}
    assert [len(numbers[name]) for name in sorted(names)] == [3, 12, 12, 8, 3, 72]


def test_the_terminal_has_the_stream(tmp_path: Path) -> None:
    output = io.StringIO()
    print_table(write_streams(tmp_path / "study"), Console(file=output, width=140))
    assert lines_with(output.getvalue(), PROGRESSIVE, "198 ± 10", "24.75 ± 1.25")
    assert lines_with(output.getvalue(), PROGRESSIVE, "4,000 (40.0 ± 0.0 % of dense)")
