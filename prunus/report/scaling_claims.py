"""The five findings of Lee et al. 2021, and whether a study supports them: by rules on its intervals."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from prunus.report import wording
from prunus.report.scaling_evidence import (
    Evidence,
    Verdict,
    larger_bend,
    momentum_bears_more,
    more_steps,
    same_bend,
    three_regions,
)
from prunus.report.scaling_results import ScalingResults


def all_of(evidence: Sequence[Evidence]) -> Verdict:
    """Supported where all are, contradicted where one is."""
    verdicts = {each.verdict for each in evidence}
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts == {"supported"} else "not decided"


def often(evidence: Sequence[Evidence]) -> Verdict:
    """Supported where one is and none contradicts, contradicted where one is and none supports."""
    decided = {each.verdict for each in evidence} - {"not decided"}
    return decided.pop() if len(decided) == 1 else "not decided"


@dataclass(frozen=True)
class Claim:
    """A finding of the paper, the rule by which it is judged, the evidence and how this adds up."""

    number: str
    claim: str
    rule: str
    evidence: Callable[[ScalingResults], Iterator[Evidence]]
    verdict: Callable[[Sequence[Evidence]], Verdict] = all_of


CLAIMS = (
    Claim(
        "i",
        "the same three regions at every sparsity and with every optimizer",
        "Supported where every curve was measured from below the interval of the end of perfect scaling to above that "
        "of the beginning of maximal data parallelism. Contradicted where, over seeds, one falls by more than 10 % "
        "faster than perfect scaling between its two smallest batch sizes, or rises by more than 10 % between its two "
        "largest.",
        three_regions,
    ),
    Claim(
        "ii",
        "higher sparsity needs more steps at every batch size",
        "Supported where, from each sparsity to the next and with every optimizer, the interval of the paired ratio of "
        "steps lies above 1 and the mean ratio at each batch size too. Contradicted where one interval lies below 1.",
        more_steps,
    ),
    Claim(
        "iii",
        "the bend is at a similar batch size at every sparsity",
        "Supported where every interval of R_B lies within a factor of 2 of 1, contradicted where one lies wholly "
        "outside. A bend that was extrapolated decides nothing.",
        same_bend,
    ),
    Claim(
        "iv",
        "with momentum the critical batch is often larger for highly sparse networks",
        "On R_B with momentum from 90 % sparsity on: supported where an interval lies above 1 and none below, "
        "contradicted where one lies below and none above. A bend that was extrapolated decides nothing.",
        larger_bend,
        often,
    ),
    Claim(
        "v",
        "momentum makes use of larger batches than SGD at every sparsity",
        "On the batch size of half the efficiency with momentum over that without: supported where every interval lies "
        "above 1, contradicted where one lies below. A bend that was extrapolated decides nothing.",
        momentum_bears_more,
    ),
)


def judged_claims(results: ScalingResults) -> list[tuple[Claim, Verdict, list[Evidence]]]:
    """Each finding of the paper, what this study says of it, and why; while cells are missing it supports none."""
    found = [(claim, list(claim.evidence(results))) for claim in CLAIMS]
    return [(claim, so_far(results, claim.verdict(evidence)), evidence) for claim, evidence in found]


def so_far(results: ScalingResults, verdict: Verdict) -> Verdict:
    """The verdict, which cells that are not done may still turn against the paper."""
    return "not decided" if verdict == "supported" and results.unfinished else verdict


def claim_cells(results: ScalingResults) -> pd.DataFrame:
    """A row per finding."""
    return pd.DataFrame(
        [
            {"finding": f"({claim.number})", "of the paper": claim.claim, "this study": verdict}
            for claim, verdict, _ in judged_claims(results)
        ]
    )


def verdicts(results: ScalingResults) -> list[tuple[str, str]]:
    """The number of each finding, and the verdict."""
    return [(claim.number, verdict) for claim, verdict, _ in judged_claims(results)]


def evidence_rows(results: ScalingResults) -> pd.DataFrame:
    """A row per piece of evidence, with the verdict on its finding."""
    rows = [
        {"finding": claim.number, "finding_is": verdict, **piece._asdict()}
        for claim, verdict, evidence in judged_claims(results)
        for piece in evidence
    ]
    return pd.DataFrame(rows, columns=["finding", "finding_is", *Evidence._fields])


def evidence_cells(results: ScalingResults) -> pd.DataFrame:
    """The evidence as text."""
    rows = evidence_rows(results)
    return pd.DataFrame(
        {
            "finding": [f"({number})" for number in rows["finding"]],
            "optimizer": rows["optimizer"],
            "sparsity": [wording.sparsity(sparsity) for sparsity in rows["sparsity"]],
            "verdict": rows["verdict"],
            "found": rows["found"],
        }
    )
