"""What an interval shows, in words: it is decided on which side of a number it lies, or it is not."""

from collections.abc import Sequence
from typing import Literal

from prunus.report import wording
from prunus.report.scaling_results import ScalingResults
from prunus.scaling.findings import Finding
from prunus.scaling.ratios import Ratios
from prunus.scaling.uncertainty import Estimate

UNDECIDED = "not decided"
Side = Literal["above", "below", "not decided"]


def side(estimate: Estimate, of: float = 1.0) -> Side:
    """On which side of a number the whole interval lies."""
    return "above" if estimate.low > of else "below" if estimate.high < of else "not decided"


def interval(estimate: Estimate) -> str:
    """A number with its interval: '148 (120 to 183)'."""
    value, low, high = map(wording.count, (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def ratio(estimate: Estimate) -> str:
    """A ratio with its interval and what that shows: '3.30 (1.20 to 9.11), above 1'."""
    verdict = side(estimate)
    return f"{factor(estimate)}, {verdict if verdict == UNDECIDED else f'{verdict} 1'}"


def factor(estimate: Estimate) -> str:
    """A ratio with its interval: '3.30 (1.20 to 9.11)'."""
    return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


def sentences(results: ScalingResults) -> list[str]:
    """What was found, a sentence for each optimizer and sparsity that has a curve."""
    return [sentence(finding) for finding in results.findings]


def sentence(finding: Finding) -> str:
    """One curve: its critical batch, and against dense the steps and the bend."""
    critical = interval(finding.estimate.of(lambda curve: curve.critical_batch))
    said = f"`{finding.optimizer}` at {wording.sparsity(finding.sparsity)} sparsity: critical batch {critical}"
    said += "" if finding.estimate.fit.bend_was_measured else ", an extrapolation"
    against = [*steps_said(finding), *bend_said(finding.to_dense)]
    return f"{said}{'; ' * bool(against)}{'; '.join(against)}."


def steps_said(finding: Finding) -> list[str]:
    """'5.74 (1.57 to 21) times the steps of dense'; nothing without a pair."""
    found = finding.steps_to_dense
    return [f"{factor(found)} times the steps of dense{doubt(found, 'more or fewer')}"] if found else []


def bend_said(to_dense: Ratios | None) -> list[str]:
    """'its critical batch is 0.47 (0.23 to 0.98) times that of dense'."""
    if to_dense is None:
        return []
    found = to_dense.critical_batch
    return [f"its critical batch is {factor(found)} times that of dense{doubt(found, 'larger or smaller')}"]


def doubt(estimate: Estimate, sides: str) -> str:
    """Said where the interval contains 1."""
    return f", whether {sides} is {UNDECIDED}" if side(estimate) == UNDECIDED else ""


def headline(results: ScalingResults, verdicts: Sequence[tuple[str, str]]) -> str:
    """What the highest sparsity costs with each optimizer, and which of the paper's findings come out."""
    goal = f"a validation error of {100 * results.goal:.4g} %"
    highest = max(results.sparsities)
    found = [each for name in results.optimizers if (each := results.finding(name, highest)) and each.steps_to_dense]
    if not found:
        told = f"No sparse curve of {results.workload} to {goal} can be compared to dense"
    else:
        told = f"To {goal}, {results.workload} at {wording.sparsity(highest)} sparsity needs {clauses(found)}"
    return f"{told}. Of the paper's five findings this study {counted(verdicts)}."


def clauses(found: Sequence[Finding]) -> str:
    """Steps and critical batch against dense, by optimizer."""
    steps = [f"times {against(each.steps_to_dense, each.optimizer)}" for each in found if each.steps_to_dense]
    bends = [f"times {against(each.to_dense.critical_batch, each.optimizer)}" for each in found if each.to_dense]
    bend = f"; its critical batch is that of dense {wording.listed(bends)}" if bends else ""
    return f"the steps of dense {wording.listed(steps)}{bend}"


def against(estimate: Estimate, optimizer: str) -> str:
    """'5.74 with `sgd` (1.57 to 21)', or with the remark that it may be on either side of 1."""
    remark = f", {UNDECIDED}" if side(estimate) == UNDECIDED else ""
    return f"{estimate.value:.3g} with `{optimizer}` ({estimate.low:.3g} to {estimate.high:.3g}{remark})"


def counted(verdicts: Sequence[tuple[str, str]]) -> str:
    """'supports (ii), contradicts (iv) and does not decide (i), (iii) and (v)'."""
    verbs = {"supported": "supports", "contradicted": "contradicts", UNDECIDED: "does not decide"}
    parts = []
    for verdict, verb in verbs.items():
        names = [f"({number})" for number, found in verdicts if found == verdict]
        if names:
            parts.append(f"{verb} {wording.listed(names)}")
    return wording.listed(parts)
