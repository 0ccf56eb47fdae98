"""The report on a steps-to-result study: its sections, with their prose, tables and plots."""

from pathlib import Path

from prunus.report.blocks import Block, Code, Document, Folded, Items, Section, Table, Text
from prunus.report.scaling_attention import UNFINISHED, calm, unfinished, warnings
from prunus.report.scaling_best import best_of_plot, best_plot
from prunus.report.scaling_claims import CLAIMS, claim_cells, evidence_cells, evidence_rows, verdicts
from prunus.report.scaling_curves import alone_plot, examples_plot, optimizers_plot, sparsities_plot
from prunus.report.scaling_goals import LEAD as GOALS
from prunus.report.scaling_goals import goal_cells, goals_plot
from prunus.report.scaling_lipschitz import lipschitz_plot
from prunus.report.scaling_results import ScalingResults, read_scaling
from prunus.report.scaling_search import trial_plots
from prunus.report.scaling_tables import (
    cell_cells,
    cell_rows,
    cost_cells,
    cost_rows,
    edges,
    fit_cells,
    fit_rows,
    ratio_cells,
    ratio_rows,
    space_cells,
)
from prunus.report.scaling_wording import headline, sentences

INTERVALS = (
    "Intervals are at 95 %: over seeds, by Student's t in the logarithms, where every curve of an optimizer has three, "
    'else over resamples of the trials, which miss the noise of other weights. "Not decided": the interval contains '
    "1. The first seed is the one that was searched, whose best is the best of many and flatters it a little. "
    "Sparsity is the fraction of zeros among the prunable weights."
)
CLAIMED = "What this study says of the five findings of Lee et al. 2021."
RULES = (
    "By these rules; while cells are unfinished no finding is supported. The intervals are not corrected for their "
    "number."
)
FITS = (
    "K(B) = K_min (1 + (B_crit / B)^p)^(1/p) steps at batch size B, by the likelihood of the interval between two "
    "evaluations in which the goal was met; the curves of one optimizer share p, 1 unless another is clearly likelier. "
    "K_min is in steps, B_crit, where they bend, in examples a step, and E_min = K_min B_crit is what the smallest "
    "batches need in examples. A bend outside the batch sizes that met the goal is an extrapolation."
)
RATIOS = (
    "Each over dense training with the same optimizer: R_K, R_B and R_E of K_min, B_crit and E_min, and the geometric "
    "mean over batch sizes of the steps of pairs with the same seed."
)
NO_FIT = "No curve met its goal at two batch sizes: there is nothing to fit."
COUNTS = (
    "Steps are the fewest of a cell's trials, known to lie after the evaluation before; again are those of the best "
    "settings from other weights. Complete trials met the goal, incomplete ones did not, infeasible ones lost their "
    "loss to NaN or infinity."
)
RACED = " Cells raced: each ended when its first trial arrived, so incomplete says stopped, not slow for good."
SPACES = "What was searched first, the same quasi-random points in every cell."
AT_EDGES = "Cells that were searched again in a wider space, and best settings that lie at an edge of the widest:"
NO_EDGES = "No best setting lies at an edge of its space, and no space was widened."
COST = "What searches and repeats trained and evaluated, in examples, and their time on the clock of each cell."


def scaling_document(directory: Path) -> Document:
    """The whole report on the study in ``directory``."""
    results = read_scaling(directory)
    told = sentences(results)
    return Document(
        title=results.study,
        subject=f"{results.workload}, steps to a validation error of {100 * results.goal:.4g} %",
        answer=headline(results, verdicts(results)),
        blocks=[Items(told) if told else Text(NO_FIT), Text(INTERVALS)],
        sections=sections(results),
    )


def sections(results: ScalingResults) -> list[Section]:
    """Everything below the answer."""
    found = [
        Section("Attention", attention(results)),
        Section("The paper's findings", claims(results)),
        Section("Steps to the goal", curves(results)),
        Section("Fits", fits(results)),
        Section("Trials", trials(results)),
        Section("Metaparameters", metaparameters(results)),
        Section("Other goals", [Text(GOALS), Table(goal_cells(results)), goals_plot(results)]),
        Section("Local Lipschitz constant", [lipschitz_plot(results)] if results.lipschitz else []),
        Section("Cost", [Text(COST), Table(cost_cells(results), "scaling-cost", cost_rows(results))]),
        Section("To reproduce", reproduce(results)),
    ]
    return [section for section in found if section.blocks]


def attention(results: ScalingResults) -> list[Block]:
    """What must not be overlooked."""
    warned, missing = warnings(results), unfinished(results)
    blocks: list[Block] = [Items(warned, loud=True) if warned else Text(calm(results))]
    told = [Items([UNFINISHED], loud=True), Items(missing)] if missing else [Text("No cell is unfinished.")]
    return [*blocks, *told]


def claims(results: ScalingResults) -> list[Block]:
    """The verdicts, the rules behind them, and the evidence."""
    verdict = Table(claim_cells(results), "scaling-findings", evidence_rows(results))
    evidence = Folded("The evidence, curve by curve", Table(evidence_cells(results)))
    rules = Items([f"({claim.number}) {claim.rule}" for claim in CLAIMS])
    return [Text(CLAIMED), verdict, evidence, Text(RULES), rules]


def curves(results: ScalingResults) -> list[Block]:
    """Figures 1 to 3, and examples."""
    optimizers = optimizers_plot(results)
    together = [optimizers] if optimizers.panels else []
    return [alone_plot(results), sparsities_plot(results), *together, examples_plot(results)]


def fits(results: ScalingResults) -> list[Block]:
    """The fitted curves and their ratios to dense."""
    if not results.findings:
        return [Text(NO_FIT)]
    blocks: list[Block] = [Text(FITS), Table(fit_cells(results), "scaling-fits", fit_rows(results))]
    ratios = ratio_cells(results)
    return [*blocks, Text(RATIOS), Table(ratios, "scaling-ratios", ratio_rows(results))] if len(ratios) else blocks


def trials(results: ScalingResults) -> list[Block]:
    """The cells, and whether fewer trials would have done."""
    counts = Table(cell_cells(results), "scaling-cells", cell_rows(results))
    blocks: list[Block] = [Text(COUNTS + RACED * results.raced), counts]
    best_of = best_of_plot(results)
    return [*blocks, best_of] if len(best_of.data) else blocks


def metaparameters(results: ScalingResults) -> list[Block]:
    """The spaces, whether they were wide enough, the best settings, and all trials."""
    found, best = list(edges(results)), best_plot(results)
    at_edges: list[Block] = [Text(AT_EDGES), Items(found)] if found else [Text(NO_EDGES)]
    shown: list[Block] = [best] if best.panels else []
    folded = [Folded(summary, plot) for summary, plot in trial_plots(results).items()]
    return [Text(SPACES), Table(space_cells(results)), *at_edges, *shown, *folded]


def reproduce(results: ScalingResults) -> list[Block]:
    """The command and the recipe."""
    return [
        Text("In this study's directory:"),
        Code("prunus scaling run recipe.yaml --out again"),
        Text("`recipe.yaml`:"),
        Code(results.text.strip(), "yaml"),
    ]
