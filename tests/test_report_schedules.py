"""What a report says of the schedules of RP-RR and MP-RR, and of how some of them were learned."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies import DENSE, lesson, lines_with, write_handmade, write_learned, write_run

from prunus.report import write_report
from prunus.report.attention import unfinished, warnings
from prunus.report.drawing import Panel
from prunus.report.labels import Label, labels
from prunus.report.learned import schedule_blocks
from prunus.report.lessons_plot import episodes, lessons_plot
from prunus.report.markdown import block
from prunus.report.results import Results, read
from prunus.report.schedules import gaps, schedule_cells, schedule_table, verdicts
from prunus.report.schedules_plot import schedules_plot
from prunus.report.statements import leaders
from prunus.report.study import warned


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(write_learned(tmp_path_factory.mktemp("learned") / "study"))


@pytest.fixture(scope="module")
def handmade(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(write_handmade(tmp_path_factory.mktemp("handmade") / "study"))


def told(results: Results) -> str:
    """The section of schedules as Markdown."""
    return "\n\n".join(map(block, schedule_blocks(results, schedules_plot(results), lessons_plot(results))))


def run(sparsity: float, schedule: Any) -> dict[str, Any]:
    arguments = {"sparsity": sparsity, "schedule": schedule}
    return {
        **{"method": "mp-rr", "arguments": arguments, "sparsity": sparsity, "steps": 60, "epochs": 3.0},
        **{"batch_size": 64, "precision": "32-true"},
    }


def test_a_file_is_called_by_its_stem_so_that_those_of_all_sparsities_are_one_variant() -> None:
    files = [run(sparsity, f"learning/mp-rr/{sparsity}/ppo.json") for sparsity in (0.5, 0.9)]
    others = [run(0.5, "elsewhere/table.csv"), run(0.9, "linear"), run(0.9, None), run(0.9, {"linear": {"final": 0.9}})]
    assert labels([*files, *others]) == [
        *[Label("mp-rr(schedule=ppo)")] * 2,
        Label("mp-rr(schedule=table)"),
        Label("mp-rr(schedule=linear)"),
        Label("mp-rr(schedule=None)"),
        Label("mp-rr(schedule={'linear': {'final': 0.9}})"),
    ]


def test_files_of_one_stem_at_one_sparsity_keep_their_paths() -> None:
    found = labels([run(0.9, "one/ppo.json"), run(0.9, "other/ppo.json"), run(0.9, "cubic"), run(0.9, "my/cubic.json")])
    assert [label.variant.removeprefix("mp-rr(schedule=") for label in found] == [
        *("one/ppo.json)", "other/ppo.json)", "cubic)", "my/cubic.json)"),
    ]


def test_the_table_has_a_row_per_schedule_and_two_columns_per_method(learned: Results) -> None:
    text = told(learned)
    head = "| requested | schedule | RP-RR: test accuracy, % | RP-RR: realised sparsity | MP-RR: test accuracy, % |"
    assert lines_with(text, head)
    assert lines_with(text, "| **0 %** | dense | 97.00 ± 1.00 (n=3) | 0.00 % | 97.00 ± 1.00 (n=3) | 0.00 % |")
    assert lines_with(text, "|  | ppo |  |  | **87.00 ± 1.00** (n=3) | 93.00 % |")
    assert list(schedule_cells(learned)["schedule"]) == ["dense", *["linear", "constant", "ppo", "random"] * 2]


def test_bold_are_each_methods_leaders(learned: Results) -> None:
    cells = schedule_cells(learned).set_index(["requested", "schedule"]).filter(like="accuracy")
    bold = cells.apply(lambda column: column.str.startswith("**"))
    assert list(bold.loc["50 %", "MP-RR: test accuracy, %"]) == [False, True, True, False]
    assert not bold.loc["0 %"].any(axis=None)


def test_handmade_schedules_alone_have_a_table_and_no_lessons(handmade: Results) -> None:
    text = told(handmade)
    assert lines_with(text, "| **90 %** | linear | **85.00 ± 1.00** (n=3) | 90.00 % |")
    assert lines_with(text, "mp-rr(schedule=linear) | constant | -2.00 ± 0.00 | 3 |", "| loss shown |")
    for word in ("learned", "Learned", "selection", "What learning took"):
        assert word not in text
    assert not schedules_plot(handmade).panels
    assert not lessons_plot(handmade).panels


def test_a_single_schedule_has_no_section(tmp_path: Path) -> None:
    write_run(tmp_path, "mp-rr", 0.9, 0, 0.8, arguments={"sparsity": 0.9, "schedule": "linear"})
    write_run(tmp_path, "rp-rr", 0.9, 0, 0.8, arguments={"sparsity": 0.9, "schedule": "linear"})
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    results = read(tmp_path)
    assert schedule_table(results).empty
    assert told(results) == ""


def test_a_run_without_a_schedule_is_constant(tmp_path: Path) -> None:
    for schedule, accuracy in ((None, 0.8), ("linear", 0.7)):
        write_run(tmp_path, "mp-rr", 0.9, 0, accuracy, arguments={"sparsity": 0.9, "schedule": schedule})
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    (gap,) = gaps(read(tmp_path)).to_dict("records")
    assert (gap["schedule"], gap["against"], gap["n"]) == ("linear", "constant", 1)
    assert gap["difference"] == pytest.approx(-0.1)


def test_runs_whose_other_settings_differ_are_neither_merged_nor_paired(tmp_path: Path) -> None:
    for every, more in ((50, 0.0), (100, 0.1)):
        for schedule, accuracy in (("constant", 0.7), ("linear", 0.6)):
            arguments = {"sparsity": 0.9, "schedule": schedule, "update_every": every}
            write_run(tmp_path, "mp-rr", 0.9, 0, accuracy + more, arguments=arguments)
    (tmp_path / "recipe.yaml").write_text("seeds: 1\n")
    results = read(tmp_path)
    assert list(schedule_cells(results)["schedule"])[:2] == [
        "schedule=linear, update_every=100",
        "schedule=linear, update_every=50",
    ]
    assert list(gaps(results)["difference"]) == [pytest.approx(-0.1), pytest.approx(-0.1)]


def test_what_was_learned_is_held_against_constant_and_a_policy_against_its_rivals(learned: Results) -> None:
    assert verdicts(learned) == [
        "Learned schedules against `constant`: gain shown for `mp-rr(schedule=ppo)` at 50 %; loss shown for "
        "`mp-rr(schedule=random)` at 50 % and 90 %; no gain shown for `mp-rr(schedule=ppo)` at 90 %.",
        "Policies against `random`: gain shown for `mp-rr(schedule=ppo)` at 50 %; no gain shown for "
        "`mp-rr(schedule=ppo)` at 90 %.",
    ]
    table = gaps(learned)
    assert set(table.loc[table["against"] == "random", "schedule"]) == {"ppo"}
    row = "mp-rr(schedule=ppo) | constant | +0.00 ± 1.00 | 3 | -2.48 to +2.48 | 93.00 % | 90.00 % | no gain shown |"
    assert lines_with(told(learned), row)


def test_one_seed_cannot_say(tmp_path: Path) -> None:
    results = read(write_learned(tmp_path / "study", seeds=1))
    assert "one seed: cannot say for `mp-rr(schedule=ppo)` at 50 % and 90 %" in verdicts(results)[0]
    text = told(results)
    assert lines_with(text, "mp-rr(schedule=ppo) | constant | +2.00 | 1 | unknown |", "one seed: cannot say")
    assert "nan" not in text


def test_without_constant_nobody_can_say_whether_learning_gains(tmp_path: Path) -> None:
    directory = write_learned(tmp_path / "study")
    for path in directory.glob("runs/*/result.json"):
        if json.loads(path.read_text())["arguments"].get("schedule") in {"constant", "learning/mp-rr/0.9/random.json"}:
            path.unlink()
    assert verdicts(read(directory)) == [
        "No learned schedule has a seed in common with `constant`: nobody can say whether it gains anything.",
        "Policies against `random`: gain shown for `mp-rr(schedule=ppo)` at 50 %.",
    ]


def test_a_lesson_has_its_cost(learned: Results) -> None:
    text = told(learned)
    row = "| **90 %** | ppo | mp-rr | 5 (2 finalists) | 1 | 1.50 | 12.5 | delta |"
    assert lines_with(text, row)
    assert "Each agent had 5 trainings at each sparsity and method." in text


def test_agents_of_unequal_cost_are_told(tmp_path: Path) -> None:
    directory = write_learned(tmp_path / "study")
    content = json.loads((directory / "learn.json").read_text())
    content["lessons"][0]["trainings"] = 9
    (directory / "learn.json").write_text(json.dumps(content))
    assert "The agents were NOT of equal cost: they had 5 to 9 trainings." in told(read(directory))


def test_a_schedule_has_its_scores_where_they_were_measured(learned: Results) -> None:
    text = told(learned)
    head = "closed loop: validation | closed loop: test | closed loop: sparsity | replay: validation | replay: test"
    assert lines_with(text, f"| requested | schedule | method | selection: validation | {head} | all images: test |")
    scores = (
        "65.00 ± 7.07 (n=2) | 62.00 ± 0.00 (n=3) | 61.00 ± 0.00 (n=3) | 93.00 ± 0.00 (n=3) | 87.00 ± 1.00 (n=3) | "
        "87.00 ± 1.00 (n=3) | 80.50 ± 0.71 (n=2) |"
    )
    assert lines_with(text, f"| **90 %** | ppo | mp-rr | {scores}")
    assert lines_with(text, "|  | random | mp-rr | 65.00 ± 7.07 (n=2) |  |  |  | 86.00 ± 1.00 (n=3) |")
    assert lines_with(text, "|  | constant | mp-rr |  |  |  |  | 87.00 ± 1.00 (n=3) | 87.00 ± 1.00 (n=3) | 80.50")


def test_scores_of_seeds_that_diverged_are_not_averaged_over(tmp_path: Path) -> None:
    chosen = [{"seed": 1000, "accuracy": 0.6}, {"seed": 1001, "accuracy": None}]
    text = told(read(write_learned(tmp_path / "study", chosen=chosen)))
    assert lines_with(text, "| ppo | mp-rr | not finite (n=2) | 62.00 ± 0.00 (n=3) |")
    assert lines_with(text, "| ppo | mp-rr | 5 (2 finalists) | 2 | 1.50 |")


def test_a_leak_is_loud_and_tagged(tmp_path: Path, learned: Results) -> None:
    results = read(write_learned(tmp_path / "study", leaky=True))
    said = [warning for warning in warnings(results) if warning.startswith("LEAKY: ")]
    assert len(said) == 4
    assert said[0].startswith("LEAKY: the policy of `ppo` for `mp-rr` at 50 % was shown the test set")
    text = told(results)
    assert lines_with(text, "| **90 %** | ppo (LEAKY) | mp-rr | 5 (2 finalists)")
    assert lines_with(text, "| **90 %** | ppo (LEAKY) | mp-rr | 65.00")
    assert lines_with(text, "|  | ppo |  |  | **87.00 ± 1.00** (n=3) LEAKY | 93.00 % |")
    assert "LEAKY" not in told(learned)
    assert not warnings(learned)


def test_a_learned_schedule_may_be_sparser_than_requested_but_not_denser(tmp_path: Path, learned: Results) -> None:
    text = "\n".join(map(block, warned(learned)))
    assert "SPARSITY MISSED" not in text
    assert "within 0.5 points of the requested one but for learned schedules" in text
    assert "as learned schedules may be: `mp-rr(schedule=ppo)` at 90 % realised 93.00 % and" in text
    assert (0.9, "mp-rr(schedule=ppo)") in leaders(learned)
    directory = write_learned(tmp_path / "study")
    for path in directory.glob("runs/mp-rr-0.9-*/result.json"):
        content = json.loads(path.read_text())
        if content["realised_sparsity"] == 0.93:
            path.write_text(json.dumps(content | {"realised_sparsity": 0.87}))
    results = read(directory)
    assert len([warning for warning in warnings(results) if "SPARSITY MISSED: `mp-rr(schedule=ppo)`" in warning]) == 1
    assert (0.9, "mp-rr(schedule=ppo)") not in leaders(results)


def test_a_handmade_schedule_that_went_beyond_its_sparsity_missed_it(tmp_path: Path) -> None:
    directory = write_handmade(tmp_path / "study")
    for path in directory.glob("runs/mp-rr-0.9-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"realised_sparsity": 0.93}))
    assert len(warnings(read(directory))) == 2


def test_the_best_so_far_passes_over_what_diverged() -> None:
    data = episodes([lesson("mp-rr", 0.9, "ppo"), lesson("mp-rr", 0.5, "ppo"), lesson("mp-rr", 0.9, "random")])
    assert len(data) == 9
    ppo = data[(data["agent"] == "ppo") & (data["requested_sparsity"] == 0.9)]
    assert list(ppo["training"]) == [1, 2, 3]
    assert list(ppo["best"]) == [0.5, 0.5, 0.5]
    assert list(ppo["accuracy"].isna()) == [False, True, False]
    late = [{"seed": seed, "accuracy": accuracy, "sparsity": 0.9} for seed, accuracy in enumerate((None, 0.4, 0.6))]
    assert list(episodes([lesson("mp-rr", 0.9, "ppo", episodes=late)])["best"].fillna(0.0)) == [0.0, 0.4, 0.6]


def drawn(panel: Panel) -> Any:
    """The axes of a panel."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def test_a_panel_of_learning_has_dots_a_line_and_crosses_for_each_agent(learned: Results) -> None:
    plot = lessons_plot(learned)
    assert list(plot.keys) == ["ppo", "random"]
    axes = drawn(plot.panels[0])
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 1, 3, 2, 1, 3]
    assert axes.get_title(loc="center") == "validation accuracy, %: mp-rr at 50 %"
    assert "x" in {line.get_marker() for line in axes.lines}


def test_nothing_but_divergence_is_drawn_too(tmp_path: Path) -> None:
    lost = [{"seed": seed, "accuracy": None, "sparsity": 0.9} for seed in range(3)]
    results = read(write_learned(tmp_path / "study", episodes=lost))
    assert "nothing finite of 3 trainings" in lessons_plot(results).panels[0].svg
    assert lines_with(told(results), "| **90 %** | ppo | mp-rr | 5 (2 finalists) | 3 |")


def test_a_schedule_has_a_line_a_layer_that_holds_to_the_next_update(learned: Results) -> None:
    plot = schedules_plot(learned)
    assert len(plot.panels) == 6  # ppo, random and the handmade, at two sparsities
    assert list(plot.keys) == ["0", "2", "linear", "constant"]
    ppo = plot.data[(plot.data["schedule"] == "ppo") & (plot.data["requested_sparsity"] == 0.9)]
    assert list(ppo.loc[ppo["layer"] == "2", "realised_sparsity"]) == pytest.approx([0.6, 0.7, 0.9, 0.9])
    assert list(ppo.loc[ppo["layer"] == "2", "update"]) == [0, 1, 2, 3]
    linear = plot.data[(plot.data["schedule"] == "linear") & (plot.data["requested_sparsity"] == 0.9)]
    assert list(linear["update"]) == [1, 2, 3]
    assert list(linear["realised_sparsity"]) == pytest.approx([0.3, 0.6, 0.9])
    first, *_, last = (drawn(panel) for panel in plot.panels)
    assert {line.get_drawstyle() for line in first.lines} == {"steps-post"}
    assert {line.get_drawstyle() for line in last.lines} == {"default"}


@pytest.mark.usefixtures("undrawn")
def test_every_figure_and_table_has_its_numbers(tmp_path: Path) -> None:
    directory = write_learned(tmp_path / "study")
    text = write_report(directory).with_suffix(".md").read_text()
    assert "nan" not in text
    assert text.index("## Results") < text.index("## Schedules") < text.index("## The same accuracy?")
    linked = set(re.findall(r"\]\(([\w-]+\.(?:svg|csv))\)", text))
    assert linked == {path.name for path in directory.iterdir() if path.suffix in {".svg", ".csv"}}
    tables = {"schedules", "schedule-differences", "schedule-scores", "schedule-learning"}
    assert {f"{name}.csv" for name in (*tables, "learned-schedules", "schedule-agents")} < linked
    numbers = {name: pd.read_csv(directory / f"{name}.csv") for name in tables}
    assert len(numbers["schedules"]) == 13
    ppo = numbers["schedules"].query("schedule == 'ppo' and requested_sparsity == 0.9")
    assert float(ppo["accuracy"].iloc[0]) == pytest.approx(sum(DENSE) / 3 - 0.1)
    scores = numbers["schedule-scores"].set_index(["schedule", "requested_sparsity", "measurement"])
    assert scores.loc[("ppo", 0.9, "whole_test"), "mean"] == pytest.approx(0.805)
    assert scores.loc[("random", 0.5, "replay_test"), "n"] == 3
    assert set(numbers["schedule-learning"]["dense_trainings"]) == {1.5}


def test_an_unfinished_run_names_its_file_by_its_stem(tmp_path: Path) -> None:
    directory = write_learned(tmp_path / "study")
    (directory / "runs" / "waiting").mkdir()
    recipe = "method: {mp-rr: {schedule: learning/mp-rr/0.9/ppo.json}}\nsparsity: [0.9]\nseed: [7]\n"
    (directory / "runs" / "waiting" / "recipe.yaml").write_text(recipe)
    assert "`mp-rr(schedule=ppo)` at 90 %, seed 7" in unfinished(read(directory))[0]
