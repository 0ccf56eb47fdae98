"""What a report says of a steps-to-result study: its curves, fits, ratios, trials, and the paper's findings."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from steps_studies import BATCHES, CURVES, GOAL, Made, exact

from prunus.report import print_findings, print_table, write_report
from prunus.report.markdown import block
from prunus.report.scaling_attention import strays, unfinished, warnings
from prunus.report.scaling_best import best_of_plot, best_of_rows, best_plot, best_rows
from prunus.report.scaling_claims import evidence_rows, verdicts
from prunus.report.scaling_curves import alone_plot, sparsities_plot
from prunus.report.scaling_evidence import more_steps, off_the_curve
from prunus.report.scaling_goals import goal_cells, goal_rows
from prunus.report.scaling_lipschitz import lipschitz_plot
from prunus.report.scaling_results import ScalingResults, read_scaling
from prunus.report.scaling_search import trial_plots
from prunus.report.scaling_study import trials
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
from prunus.report.scaling_wording import headline
from prunus.scaling.curve import Curve
from prunus.scaling.findings import Finding, paired_steps
from prunus.scaling.uncertainty import Estimate

TWO = {("momentum", 0.0): CURVES["momentum", 0.0], ("momentum", 0.9): CURVES["momentum", 0.9]}
SMALL = Made(TWO, batches=(64, 1024))
Verdicts = dict[str, str]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ScalingResults:
    return read_scaling(Made()(tmp_path_factory.mktemp("scaling") / "study"))


def row(table: pd.DataFrame, **chosen: object) -> "pd.Series[object]":
    """The one row with these values."""
    for name, value in chosen.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


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
    assert set(found["verdict"]) == {"supported"}
    assert len(found[found["finding"] == "v"]) == 2


def with_bend(results: ScalingResults, key: tuple[str, float], factor: float, over: tuple[float, float]) -> Verdicts:
    """The verdicts where the bend of one curve is so many times as far, and R_B has this interval."""

    def moved(found: Finding) -> Finding:
        if (found.optimizer, found.sparsity) != key:
            return found
        estimate = found.estimate
        curves = {seed: Curve(one.least_steps, one.critical_batch * factor) for seed, one in estimate.curves.items()}
        bend = Estimate(sum(over) / 2, *over)
        ratios = replace(found.to_dense, critical_batch=bend) if found.to_dense else None
        return replace(found, estimate=replace(estimate, curves=curves), to_dense=ratios)

    return judged(results, [moved(found) for found in results.findings])


def judged(results: ScalingResults, findings: list[Finding]) -> Verdicts:
    """The verdicts on a study with these findings, which are not fitted again."""
    changed = replace(results)
    changed.__dict__["findings"] = findings
    return dict(verdicts(changed))


@pytest.mark.parametrize(
    ("key", "factor", "over", "expected"),
    [
        (("sgd", 0.9), 1.0, (0.2, 0.4), {"iii": "contradicted"}),
        (("sgd", 0.9), 1.0, (0.2, 0.6), {"iii": "not decided"}),
        (("sgd", 0.9), 1.0, (0.6, 1.8), {"iii": "supported", "iv": "supported"}),
        (("momentum", 0.9), 1.0, (1.2, 1.9), {"iii": "supported", "iv": "supported"}),
        (("momentum", 0.9), 1.0, (0.9, 1.9), {"iii": "supported", "iv": "not decided"}),
        (("momentum", 0.9), 1.0, (0.7, 0.9), {"iii": "supported", "iv": "contradicted"}),
        (("momentum", 0.9), 1.0, (2.1, 3.0), {"iii": "contradicted", "iv": "supported"}),
        (("momentum", 0.9), 0.1, (1.2, 1.9), {"v": "contradicted"}),
        (("sgd", 0.0), 4.0, (1.0, 1.0), {"v": "not decided"}),
        (("sgd", 0.0), 8.0, (1.0, 1.0), {"v": "contradicted"}),
    ],
)
def test_bends_are_judged_by_their_intervals(
    results: ScalingResults, key: tuple[str, float], factor: float, over: tuple[float, float], expected: Verdicts
) -> None:
    found = with_bend(results, key, factor, over)
    assert {number: found[number] for number in expected} == expected


def test_a_bend_outside_what_was_measured_decides_nothing(results: ScalingResults) -> None:
    def beyond(found: Finding) -> Finding:
        fit = replace(found.estimate.fit, smallest=1024)
        return replace(found, estimate=replace(found.estimate, fit=fit))

    found = replace(results)
    found.__dict__["findings"] = [beyond(one) for one in results.findings]
    assert set(dict(verdicts(found)).items()) >= {("iii", "not decided"), ("iv", "not decided"), ("v", "not decided")}
    assert "EXTRAPOLATED: the bend of `sgd` at 90 %" in "\n".join(warnings(found))
    assert row(fit_cells(found), requested="90 %", optimizer="sgd")["bend"] == "extrapolated (1024 to 4096)"


def test_regions_must_have_been_measured(results: ScalingResults) -> None:
    def cut(found: Finding) -> Finding:
        return replace(found, estimate=replace(found.estimate, fit=replace(found.estimate.fit, largest=1024)))

    assert judged(results, [cut(found) for found in results.findings])["i"] == "not decided"


def test_steps_off_the_curve_contradict_the_regions(tmp_path: Path) -> None:
    def off(curve: Curve, batch: int, number: int) -> float:
        return exact(curve, batch, number) * {4: 4.0, 4096: 1.5}.get(batch, 1.0)

    cells = read_scaling(Made(TWO, steps=off)(tmp_path / "study")).curves["momentum", 0.0]
    faster, rising = off_the_curve(cells)
    assert "from 4 to 16 steps fall faster than perfect scaling" in faster
    assert "from 1024 to 4096 steps rise to 1.28 (" in rising
    assert not list(off_the_curve([cell for cell in cells if cell.batch_size not in (4, 4096)]))


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (lambda batch, number: 1.0, "supported"),
        (lambda batch, number: 0.1, "contradicted"),
        (lambda batch, number: (1.0, 3.0, 0.1)[number], "not decided"),
        (lambda batch, number: 0.3 if batch == 64 else 1.0, "not decided"),
    ],
)
def test_more_steps_are_judged_by_pairs_and_at_every_batch_size(
    factor: Callable[[int, int], float], expected: str, tmp_path: Path
) -> None:
    def steps(curve: Curve, batch: int, number: int) -> float:
        return exact(curve, batch, number) * (factor(batch, number) if curve == CURVES["momentum", 0.9] else 1.0)

    (found,) = more_steps(read_scaling(Made(TWO, steps=steps)(tmp_path / "study")))
    assert found.verdict == expected
    assert ("not more of them at batch 64" in found.found) == (factor(64, 0) == 0.3)


def test_a_goal_that_only_the_sparser_met_speaks_against_more_steps(tmp_path: Path) -> None:
    (found,) = more_steps(read_scaling(Made(TWO, unmet=(("momentum", 0.0, 64),))(tmp_path / "dense")))
    assert found.verdict == "not decided"
    assert found.found.endswith("not more of them at batch 64")
    (found,) = more_steps(read_scaling(Made(TWO, unmet=(("momentum", 0.9, 64),))(tmp_path / "sparse")))
    assert found.verdict == "supported"


def test_curves_without_a_common_batch_size_have_no_ratio(tmp_path: Path) -> None:
    without = tuple((*key, batch) for key in TWO for batch in BATCHES if (batch > 64) == (key[1] == 0.9))
    results = read_scaling(Made(TWO, without=without)(tmp_path / "study"))
    assert paired_steps(results.curves["momentum", 0.9], results.curves["momentum", 0.0]) is None


def test_unmet_and_unfinished_cells_are_named(results: ScalingResults, tmp_path: Path) -> None:
    made = Made(TWO, unmet=(("momentum", 0.9, 4),), without=(("momentum", 0.9, 16),))
    found = read_scaling(made(tmp_path / "study"))
    found.__dict__["findings"] = [one for one in results.findings if one.optimizer == "momentum"]
    (said,) = warnings(found)
    assert said == "NOT MET: `momentum` at 90 %, batch 4, seed 0: no trial met the goal in 100,000 steps"
    assert unfinished(found) == ["`momentum` at 90 %: batch 16"]
    unmet = row(cell_rows(found), sparsity=0.9, batch_size=4)
    assert pd.isna(unmet["k_star"])
    assert row(cell_cells(found), requested="90 %", batch="4")["steps"] == "> 100,000"


def test_while_cells_are_unfinished_nothing_is_supported(results: ScalingResults) -> None:
    scaling = results.recipe["scaling"] | {"batch_sizes": [*BATCHES, 16384]}
    found = replace(results, recipe={**results.recipe, "scaling": scaling})
    assert set(judged(found, results.findings).values()) == {"not decided"}
    found.__dict__["findings"] = results.findings
    fewer = with_bend(found, ("momentum", 0.9), 1.0, (0.2, 0.4))
    assert (fewer["iii"], fewer["iv"]) == ("contradicted", "contradicted")  # what is missing cannot undo it


@pytest.mark.usefixtures("undrawn")
def test_a_study_without_any_curve_has_a_report(tmp_path: Path) -> None:
    everywhere = tuple(("momentum", sparsity, batch) for sparsity in (0.0, 0.9) for batch in (64, 1024))
    study = replace(SMALL, unmet=everywhere)(tmp_path / "study")
    assert "there is nothing to fit" in write_report(study).read_text()
    print_findings(study, Console(file=io.StringIO()))


@pytest.mark.usefixtures("undrawn")
def test_a_raced_study_says_that_its_trials_were_stopped(results: ScalingResults, tmp_path: Path) -> None:
    found = read_scaling(replace(SMALL, raced=True)(tmp_path / "study"))
    over = [replace(one, estimate=replace(one.estimate, over="trials")) for one in results.findings]
    found.__dict__["findings"] = [one for one in over if one.optimizer == "momentum"]
    assert "each ended when its first trial arrived" in "\n".join(map(block, trials(found)))
    assert "intervals are over trials" in "\n".join(warnings(found))
    assert row(best_of_rows(found), sparsity=0.9, trials=2)["unreached"] == 0.5


@pytest.fixture
def drawn_small(results: ScalingResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small study with a cell that met no goal, whose findings are not fitted again."""
    study = replace(SMALL, unmet=(("momentum", 0.9, 64),))(tmp_path / "study")
    one = {"sparsity": 0.9, "optimizer": "momentum", "batch_size": 64, "points": [[1000, 3.0], [2000, 5.0]]}
    (study / "lipschitz.json").write_text(json.dumps([one]))
    momentum = [found for found in results.findings if found.optimizer == "momentum"]
    monkeypatch.setattr("prunus.report.scaling_results.findings", lambda cells: momentum)
    return study


@pytest.mark.usefixtures("undrawn")
def test_files_are_the_same_twice_and_have_every_figure(drawn_small: Path, tmp_path: Path) -> None:
    def written(name: str) -> dict[str, bytes]:
        home = write_report(drawn_small, out=tmp_path / name).parent
        return {path.name: path.read_bytes() for path in home.iterdir()}

    files = written("one")
    assert files == written("two")
    assert {name.removesuffix(".svg") for name in files if name.endswith(".svg")} == {
        *("scaling-curves", "scaling-sparsities", "scaling-examples", "scaling-best", "scaling-best-of"),
        *("scaling-goals", "scaling-lipschitz", "scaling-trials-momentum-0", "scaling-trials-momentum-90"),
    }
    assert all(name.replace(".svg", ".csv") in files for name in files)


def test_every_kind_of_panel_is_drawn(drawn_small: Path) -> None:
    found = read_scaling(drawn_small)
    *_, trials_of_sparse = trial_plots(found).values()
    curve, sparsities = alone_plot(found), sparsities_plot(found)
    best, lipschitz = best_plot(found), lipschitz_plot(found)
    assert "diminishing" in curve.panels[0].svg
    assert curve.panels[0].svg == alone_plot(found).panels[0].svg
    assert "search, B=1024: " in curve.panels[1].svg  # and at 64 a bound
    assert "0 %, steps at batch size: B=64: " in sparsities.panels[1].svg
    assert "0 %: 0.1, 0.1" in best.panels[0].svg
    assert "best: " in trials_of_sparse.panels[1].svg
    assert "90 %: 3 to 5" in lipschitz.panels[0].svg
    assert "1.5" in best_of_plot(found).panels[0].svg


def test_one_metaparameter_is_drawn_against_steps(results: ScalingResults) -> None:
    assert "not met" in trial_plots(results)["sgd at 0 %: 24 trials"].panels[0].svg


def test_the_answer_is_a_sentence_with_intervals(results: ScalingResults) -> None:
    said = headline(results, verdicts(results))
    assert said.startswith("To a validation error of 2 %, mlp on digits at 90 % sparsity needs the steps of dense")
    assert "its critical batch is that of dense times 1.09 with `sgd` (" in said
    assert said.endswith("this study supports (i), (ii), (iii), (iv) and (v).")


def test_terminal_has_fits_ratios_and_findings(drawn_small: Path) -> None:
    shown = io.StringIO()
    print_table(drawn_small, Console(file=shown, width=200))
    text = shown.getvalue()
    assert "study: steps to the goal" in text
    assert "Over dense" in text
    assert "(iv)" in text
    assert "`momentum` at 90 % sparsity: critical batch 360 (" in text
    assert "NOT MET: `momentum` at 90 %, batch 64" in text


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
    assert list(strays(results)) == ["LEFT OUT: 2 cells of another recipe"]
