"""The report on several studies: what came out side by side, what differs between them, then each in full."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from prunus.report import statements, wording
from prunus.report.across import changes, merged, same_workload, settings
from prunus.report.across_plot import across_plot
from prunus.report.blocks import Block, Document, Items, Section, Table, Text
from prunus.report.cells import Row
from prunus.report.drawing import Plot
from prunus.report.headline import headline, workload
from prunus.report.results import Results
from prunus.report.study import answer, sections
from prunus.report.tables import CELL, records

SAME = (
    "The studies share model and data, so runs of the same method, sparsity and seed are compared in pairs: the change "
    "is test accuracy less that in `{first}`, mean ± sd of the pairs, with a 95 % t-interval of the mean. The "
    "intervals are not corrected for their number."
)
OTHER = (
    "The studies differ in model or data: compare their distances to dense, which pair runs of the same seed within a "
    "study, and not their accuracies. With a 95 % t-interval of the mean, not corrected for their number."
)
SETTINGS = "Every key of the recipes whose value is not the same in all studies; empty where it is not set."
EQUAL = "The recipes are the same."


def studies_document(studies: Sequence[Results], labels: Sequence[str]) -> Document:
    """The report on several studies under these names."""
    named = [replace(results, study=label) for results, label in zip(studies, labels, strict=True)]
    return Document(
        title=wording.listed(list(labels)),
        subject=wording.listed(list(dict.fromkeys(map(workload, named)))),
        answer=verdicts(named),
        blocks=[
            Items([f"{results.study}: {headline(results)}" for results in named]),
            Text(" ".join(dict.fromkeys(map(statements.resolution, named)))),
        ],
        sections=[side_by_side(named), different(named), *map(whole, named)],
    )


def verdicts(studies: Sequence[Results]) -> str:
    """In how many cells each study is lower or higher than the first, in a sentence; or that nobody can compare."""
    if not same_workload(studies):
        return "The studies differ in model or data: each is compared to its own dense training."
    moved = changes(studies)
    clauses = []
    for results in studies[1:]:
        rows = moved[moved["study"] == results.study]
        lower, higher = int((rows["change_high"] < 0).sum()), int((rows["change_low"] > 0).sum())
        clauses.append(
            f"{results.study} is higher in {higher} and lower in {lower} of the {len(rows)} pairs of method and "
            f"sparsity that it shares with {studies[0].study}, and no difference is shown in the others"
        )
    return f"In test accuracy, {'; '.join(clauses)}."


def side_by_side(studies: Sequence[Results]) -> Section:
    """Accuracy and time, a column per study."""
    table = merged(studies)
    same = same_workload(studies)
    names = [results.study for results in studies]
    lead = Text(SAME.format(first=names[0]) if same else OTHER)
    compared = names[1:] if same else names
    title = "change in {}, points" if same else "to dense in {}, points"
    groups = list(table.groupby(CELL, sort=False, dropna=False))
    rows = [row(cells, names, {study: title.format(study) for study in compared}) for _, cells in groups]
    times = Table(pd.DataFrame([time_row(cells, names) for _, cells in groups]))
    return Section("Side by side", [lead, Table(pd.DataFrame(rows)), across_plot(studies), times])


def row(cells: pd.DataFrame, studies: Sequence[str], changes: dict[str, str]) -> dict[str, str]:
    """One method at one sparsity: its accuracy in each study, then its changes under these titles."""
    by_study = {found["study"]: found for found in records(cells)}
    reached = {f"{study}, test accuracy, %": accuracy(by_study.get(study)) for study in studies}
    return start(cells) | reached | {title: change(by_study.get(study)) for study, title in changes.items()}


def start(cells: pd.DataFrame) -> dict[str, str]:
    """The first two columns."""
    return {
        "requested": wording.sparsity(float(cells["requested_sparsity"].iloc[0])),
        "method": str(cells["method"].iloc[0]),
    }


def accuracy(found: Row | None) -> str:
    """What a method reached in a study; nothing where it did not run."""
    return "" if found is None else wording.sample(100 * found["accuracy"], 100 * found["accuracy_sd"], found["n"])


def change(found: Row | None) -> str:
    """'-0.52 ± 0.21 (-1.04 to +0.00): below'; nothing where there is no pair."""
    if found is None or pd.isna(found["pairs"]):
        return ""
    moved = wording.points(found["change"], found["change_sd"], found["pairs"])
    if pd.isna(found["change_low"]):
        return f"{moved}, one pair: cannot say"
    low, high = found["change_low"], found["change_high"]
    verdict = "lower" if high < 0 else "higher" if low > 0 else "no difference shown"
    return f"{moved} ({100 * low:+.2f} to {100 * high:+.2f}), {verdict}"


def time_row(cells: pd.DataFrame, studies: Sequence[str]) -> dict[str, str]:
    """One method at one sparsity: the throughput and the time of its training in each study."""
    by_study = {found["study"]: found for found in records(cells)}
    times: dict[str, str] = {}
    for study in studies:
        found = by_study.get(study)
        times[f"{study}, throughput"] = "" if found is None else throughput(found)
        times[f"{study}, training, s"] = "" if found is None else seconds(found)
    return start(cells) | times


def throughput(found: Row) -> str:
    """Throughput beside dense in the same study."""
    if found["name"] == "dense" and pd.isna(found["throughput_ratio"]):
        return "1.00× (reference)"
    return wording.throughput(*(found[f"throughput_{name}"] for name in ("ratio", "low", "high")))


def seconds(found: Row) -> str:
    """Time of training."""
    return wording.spread(found["train_seconds"], found["train_seconds_sd"], found["n"])


def different(studies: Sequence[Results]) -> Section:
    """What differs between the recipes."""
    table = settings(studies)
    blocks: list[Block] = [Text(SETTINGS), Table(table)] if len(table) else [Text(EQUAL)]
    return Section("What differs", blocks)


def whole(results: Results) -> Section:
    """The report of one study as a part of this one; its files carry its name."""
    parts = [replace(part, blocks=own(part, results.study)) for part in sections(results)]
    return Section(results.study, answer(results), parts)


def own(part: Section, study: str) -> list[Block]:
    """The blocks of a section, files named after their study."""
    return [
        replace(block, name=f"{study}-{block.name}") if isinstance(block, Plot | Table) and block.name else block
        for block in part.blocks
    ]
