"""What a report says of a steps-to-result study: its curves, fits, ratios, trials, and the paper's findings."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from steps_studies import BATCHES, CURVES, GOAL, Made, exact

from prunus.report import print_findings, print_table, write_report, write_scaling_report
from prunus.report.scaling_attention import unfinished, warnings
from prunus.report.scaling_best import best_of_rows, best_rows
from prunus.report.scaling_claims import evidence_rows, verdicts
from prunus.report.scaling_goals import goal_cells, goal_rows
from prunus.report.scaling_results import ScalingResults, read_scaling
from prunus.report.scaling_study import scaling_document
from prunus.report.scaling_tables import (
    cell_cells,
    cell_rows,
    cost_rows,
    edges,
    fit_cells,
    fit_rows,
    ratio_cells,
    ratio_rows,
    space_cells,
)
from prunus.scaling.curve import Curve

TWO = {("momentum", 0.0): CURVES["momentum", 0.0], ("momentum", 0.9): CURVES["momentum", 0.9]}
SMALL = Made(TWO, batches=(64, 1024), repeats=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ScalingResults:
    return read_scaling(Made()(tmp_path_factory.mktemp("scaling") / "study"))


def row(table: pd.DataFrame, **chosen: object) -> "pd.Series[object]":
    """The one row with these values."""
    for name, value in chosen.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def judged(made: Made, home: Path) -> dict[str, str]:
    return dict(verdicts(read_scaling(made(home / "study"))))


def test_fits_are_the_curves_they_were_made_from(results: ScalingResults) -> None:
    for (optimizer, sparsity), curve in CURVES.items():
        found = row(fit_rows(results), optimizer=optimizer, sparsity=sparsity)
        assert found["least_steps"] == pytest.approx(curve.least_steps, rel=0.02)
        assert found["critical_batch"] == pytest.approx(curve.critical_batch, rel=0.02)
        assert found["least_examples"] == pytest.approx(curve.least_examples, rel=0.02)
        assert found["least_steps_low"] < found["least_steps"] < found["least_steps_high"]
        assert (found["seeds"], found["intervals_over"], found["bend_was_measured"]) == (3, "seeds", True)


def test_ratios_are_over_dense_of_the_same_optimizer(results: ScalingResults) -> None:
    found = row(ratio_rows(results), optimizer="momentum", sparsity=0.9)
    assert found["R_K"] == pytest.approx(2.5, rel=0.02)
    assert found["R_B"] == pytest.approx(360 / 256, rel=0.02)
    assert found["R_E"] == pytest.approx(2.5 * 360 / 256, rel=0.02)
    dense, sparse = CURVES["momentum", 0.0], CURVES["momentum", 0.9]
    logs = pd.Series([sparse(batch) / dense(batch) for batch in BATCHES]).apply("log")
    assert found["steps"] == pytest.approx(2.718281828 ** logs.mean(), rel=0.01)
    text = row(ratio_cells(results), requested="90 %", optimizer="momentum")
    assert text["R_B"].endswith(", above 1")
    assert list(fit_cells(results)["requested"]) == ["0 %", "0 %", "90 %", "90 %"]


def test_the_plot_data_have_the_columns_that_others_read(results: ScalingResults) -> None:
    table = cell_rows(results)
    assert list(table.columns) == [
        *("dataset", "model", "optimizer", "sparsity", "batch_size", "k_star", "k_prev_eval"),
        *("n_complete", "n_incomplete", "n_infeasible", "seed", "learning_rate", "momentum"),
    ]
    found = row(table, optimizer="sgd", sparsity=0.0, batch_size=64)
    assert (found["dataset"], found["model"], found["k_star"], found["k_prev_eval"]) == ("digits", "mlp", 200, 199)
    assert (found["n_complete"], found["n_incomplete"], found["n_infeasible"]) == (2, 1, 1)
    assert found["learning_rate"] == pytest.approx(0.1)
    assert pd.isna(found["momentum"])


def test_repeats_stand_beside_their_search(results: ScalingResults) -> None:
    found = row(cell_cells(results), optimizer="sgd", requested="0 %", batch="64")
    assert (found["steps"], found["after"], found["again"]) == ("200", "199", "208; 194")


def test_cost_is_summed_by_curve(results: ScalingResults) -> None:
    found = row(cost_rows(results), optimizer="sgd", sparsity=0.9)
    assert (found["cells"], found["trained"], found["evaluated"]) == (6, 1000 * sum(BATCHES), 3000)


def test_spaces_are_those_of_the_recipe(results: ScalingResults) -> None:
    found = row(space_cells(results), optimizer="momentum", metaparameter="momentum")
    assert list(found[["from", "to", "spread"]]) == ["0.9", "0.9999", "logarithmic in its distance to 1"]


def test_edges_are_named_until_the_space_was_wide_enough(tmp_path: Path) -> None:
    study = SMALL(tmp_path / "study")
    path = study / "cells" / "momentum-0.9-64" / "cell.json"
    record = json.loads(path.read_text())
    record["cell"]["trials"][1]["metaparameters"]["learning_rate"] = 0.9
    path.write_text(json.dumps(record))
    (said,) = edges(read_scaling(study))
    assert "`momentum` at 90 %, batch 64" in said
    assert said.endswith("still at the high end: learning_rate 0.9.")
    record["widened"] = [{"name": "learning_rate", "side": "high", "value": 0.9}]
    path.write_text(json.dumps(record))
    (said,) = edges(read_scaling(study))
    assert said.endswith("widened learning_rate (high end).")


def test_best_settings_and_fewer_trials(results: ScalingResults) -> None:
    best = row(best_rows(results), optimizer="momentum", sparsity=0.0, batch_size=64)
    assert best["effective rate"] == pytest.approx(best["learning rate"] / best["1 - momentum"])
    one = row(best_of_rows(results), optimizer="sgd", sparsity=0.0, trials=1)
    assert one["unreached"] == 0.5  # two of four arrive
    assert one["steps"] == pytest.approx(1.5)  # the best, or twice as many
    assert row(best_of_rows(results), optimizer="sgd", sparsity=0.0, trials=4)["steps"] == 1.0


def test_other_goals_come_from_stored_curves(results: ScalingResults) -> None:
    own = row(goal_rows(results), optimizer="sgd", sparsity=0.0, goal=GOAL, batch_size=64)
    easier = row(goal_rows(results), optimizer="sgd", sparsity=0.0, goal=2 * GOAL, batch_size=64)
    assert own["steps"] == pytest.approx((200 * 208 * 194) ** (1 / 3))
    assert easier["steps"] == pytest.approx((198 * 206 * 192) ** (1 / 3))
    assert set(goal_rows(results)["goal"]) == {20, 22, 25, 30, 40}  # nothing tells of a harder one
    text = row(goal_cells(results), optimizer="sgd", requested="90 %", **{"wrong at most": "20 (the study's)"})
    assert text["cells that can tell"] == "18 of 18"
    assert text["steps over dense"].endswith(", above 1")


def test_a_study_that_agrees_supports_all_findings(results: ScalingResults) -> None:
    assert dict(verdicts(results)) == dict.fromkeys(("i", "ii", "iii", "iv", "v"), "supported")
    found = evidence_rows(results)
    assert set(found["verdict"]) == {"supported"} | {"not decided"} - {"not decided"}
    assert len(found[found["finding"] == "v"]) == 2


@pytest.mark.parametrize(
    ("finding", "key", "curve"),
    [
        ("ii", ("sgd", 0.9), Curve(40.0, 70.0)),
        ("iii", ("sgd", 0.9), Curve(250.0, 20.0)),
        ("iv", ("momentum", 0.9), Curve(250.0, 100.0)),
        ("v", ("momentum", 0.0), Curve(100.0, 30.0)),
    ],
)
def test_a_curve_that_disagrees_contradicts_its_finding(
    finding: str, key: tuple[str, float], curve: Curve, tmp_path: Path
) -> None:
    assert judged(Made({**CURVES, key: curve}), tmp_path)[finding] == "contradicted"


def test_steps_that_rise_with_the_batch_contradict_the_regions(tmp_path: Path) -> None:
    def rising(curve: Curve, batch: int, number: int) -> float:
        return exact(curve, batch, number) * (1.5 if batch == BATCHES[-1] else 1.0)

    assert judged(Made(steps=rising), tmp_path)["i"] == "contradicted"


def test_noise_decides_nothing(tmp_path: Path) -> None:
    def noisy(curve: Curve, batch: int, number: int) -> float:
        factor = (1.0, 6.0, 0.2)[(number + int(curve.critical_batch)) % 3]
        return replace(curve, critical_batch=curve.critical_batch * factor)(batch) * factor

    assert set(judged(Made(steps=noisy), tmp_path).values()) == {"not decided"}


def test_a_bend_outside_what_was_measured_decides_nothing(tmp_path: Path) -> None:
    results = read_scaling(Made(batches=BATCHES[3:])(tmp_path / "study"))
    assert dict(verdicts(results))["v"] == "not decided"
    assert "EXTRAPOLATED: the bend of `sgd` at 90 %" in "\n".join(warnings(results))
    assert row(fit_cells(results), requested="90 %", optimizer="sgd")["bend"] == "extrapolated (256 to 4096)"


def test_unmet_and_unfinished_cells_are_named(tmp_path: Path) -> None:
    made = Made(TWO, unmet=(("momentum", 0.9, 4),), without=(("momentum", 0.9, 16),))
    results = read_scaling(made(tmp_path / "study"))
    (said,) = warnings(results)
    assert said == "NOT MET: `momentum` at 90 %, batch 4, seed 0: no trial met the goal in 100,000 steps"
    assert unfinished(results) == ["`momentum` at 90 %: batch 16"]
    unmet = row(cell_rows(results), sparsity=0.9, batch_size=4)
    assert pd.isna(unmet["k_star"])
    assert row(cell_cells(results), requested="90 %", batch="4")["steps"] == "> 100,000"
    # a contradiction stays, but what is missing may still speak against what is there
    assert "supported" not in dict(verdicts(results)).values()
    assert dict(verdicts(replace_unfinished(results)))["ii"] == "supported"


def replace_unfinished(results: ScalingResults) -> ScalingResults:
    """The same as if nothing more had been planned."""
    scaling = results.recipe["scaling"] | {"batch_sizes": [4, 64, 256, 1024, 4096]}
    return replace(results, recipe={**results.recipe, "scaling": scaling})


@pytest.mark.usefixtures("undrawn")
def test_a_study_without_any_curve_has_a_report(tmp_path: Path) -> None:
    everywhere = tuple(("momentum", sparsity, batch) for sparsity in (0.0, 0.9) for batch in (64, 1024))
    study = replace(SMALL, unmet=everywhere)(tmp_path / "study")
    assert "there is nothing to fit" in write_report(study).read_text()
    print_findings(study, Console(file=io.StringIO()))


@pytest.mark.usefixtures("undrawn")
def test_a_raced_study_says_that_its_trials_were_stopped(tmp_path: Path) -> None:
    study = replace(SMALL, raced=True)(tmp_path / "study")
    write_scaling_report(study)
    text = (study / "report.md").read_text()
    assert "each ended when its first trial arrived" in text
    assert "intervals are over trials" in text  # two seeds alone
    assert row(best_of_rows(read_scaling(study)), sparsity=0.9, trials=2)["unreached"] == 0.5


def test_files_are_the_same_twice_and_have_every_figure(tmp_path: Path) -> None:
    points = [[1000, 3.0], [2000, 5.0]]
    written = []
    for name in ("one", "two"):
        study = replace(SMALL, unmet=(("momentum", 0.9, 64),))(tmp_path / name / "study")
        one = {"sparsity": 0.9, "optimizer": "momentum", "batch_size": 64, "points": points}
        (study / "lipschitz.json").write_text(json.dumps([one]))
        write_report(study)
        written.append({path.name: path.read_bytes() for path in study.iterdir() if path.is_file()})
    assert written[0] == written[1]
    assert {name.removesuffix(".svg") for name in written[0] if name.endswith(".svg")} == {
        *("scaling-curves", "scaling-sparsities", "scaling-examples", "scaling-best", "scaling-best-of"),
        *("scaling-goals", "scaling-lipschitz", "scaling-trials-momentum-0", "scaling-trials-momentum-90"),
    }
    assert all(name.replace(".svg", ".csv") in written[0] for name in written[0])


def test_the_answer_is_a_sentence_with_intervals(results: ScalingResults, tmp_path: Path) -> None:
    document = scaling_document(Made()(tmp_path / "study"))
    assert document.answer.startswith("To a validation error of 2 %, mlp on digits at 90 % sparsity needs the steps of")
    assert "its critical batch is that of dense times 1.09 with `sgd` (" in document.answer
    assert document.answer.endswith("this study supports (i), (ii), (iii), (iv) and (v).")


def test_terminal_has_fits_ratios_and_findings(results: ScalingResults, tmp_path: Path) -> None:
    shown = io.StringIO()
    print_table(Made()(tmp_path / "study"), Console(file=shown, width=200))
    text = shown.getvalue()
    assert "study: steps to the goal" in text
    assert "Over dense" in text
    assert "(iv)" in text
    assert "`momentum` at 90 % sparsity: critical batch 360 (" in text


def test_errors_are_one_line(tmp_path: Path) -> None:
    study = SMALL(tmp_path / "study")
    with pytest.raises(ValueError, match="has its own report, got 2 directories"):
        write_report(study, study)
    record = (study / "cells" / "momentum-0.9-64" / "cell.json").read_text()
    (study / "cells" / "again").mkdir()
    (study / "cells" / "again" / "cell.json").write_text(record)
    with pytest.raises(ValueError, match="got two of `momentum` at 90 %, batch 64, seed 0"):
        read_scaling(study)
    (study / "cells" / "again" / "cell.json").write_text(record.replace("prunus-cell/1", "prunus-cell/0"))
    with pytest.raises(ValueError, match="must be of format 'prunus-cell/1'"):
        read_scaling(study)


def test_cells_of_another_recipe_are_left_out(tmp_path: Path) -> None:
    study = replace(SMALL, batches=(16, 64, 1024))(tmp_path / "study")
    recipe = (study / "recipe.yaml").read_text()
    (study / "recipe.yaml").write_text(recipe.replace("  - 16\n", ""))
    results = read_scaling(study)
    assert results.batch_sizes == [64, 1024]
    assert "LEFT OUT: 2 cells of another recipe" in warnings(results)
