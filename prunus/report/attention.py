"""What a reader must not overlook, in sentences: collapsed layers, missed sparsities, leaks, runs not there."""

import numpy as np

from prunus.report import wording
from prunus.report.results import Results
from prunus.report.streams import plan_misses
from prunus.report.tables import collapsed, misses, records, sparser


def warnings(results: Results) -> list[str]:
    """What a reader must not overlook: a leak, collapsed layers, missed sparsities, results that are not finite."""
    sparsity = [*miss_warnings(results), *plan_warnings(results)]
    return [*leak_warnings(results), *collapse_warnings(results), *sparsity, *finite_warnings(results)]


def leak_warnings(results: Results) -> list[str]:
    """A sentence per learned schedule whose agent was shown the test set."""
    return [
        f"LEAKY: the policy of `{lesson['agent']}` for `{lesson['method']}` at {wording.sparsity(lesson['sparsity'])} "
        "was shown the test set, as in the paper: its test accuracies are no estimate of those on unseen data"
        for lesson in results.learned["lessons"]
        if lesson["leaky"]
    ]


def collapse_warnings(results: Results) -> list[str]:
    """A sentence per method, sparsity and layer that some run left at its floor of one weight."""
    return [
        f"COLLAPSED to one weight: `{row['method']}` at {wording.sparsity(row['requested_sparsity'])}, "
        f"layer `{row['layer']}`, in {wording.runs_of(row['runs'], row['n'])}"
        for row in records(collapsed(results))
    ]


def miss_warnings(results: Results) -> list[str]:
    """A sentence per method whose sparsity is not the requested one."""
    return [
        f"SPARSITY MISSED: `{row['method']}` was asked for {wording.sparsity(row['requested_sparsity'])} and realised "
        f"{wording.realised(row['realised_sparsity'], row['realised_sparsity_sd'], row['n'])} "
        f"({wording.runs_of(row['runs'], row['n'])} over 0.5 points off)"
        for row in records(misses(results))
    ]


def plan_warnings(results: Results) -> list[str]:
    """A sentence per method that did not have the sparsity of its plan while the data arrived."""
    return [
        f"PLAN MISSED: `{row['method']}` at {wording.sparsity(row['requested_sparsity'])} was over 0.5 points off its "
        f"plan after {row['megabatches']} of {row['of']} megabatches in {wording.runs_of(row['runs'], row['n'])}; "
        f"furthest after megabatch {row['furthest']}: planned {wording.zeros(row['planned_sparsity'])} %, realised "
        f"{wording.zeros(row['realised_sparsity'])} %"
        for row in records(plan_misses(results))
    ]


def sparser_schedules(results: Results) -> str:
    """Which learned schedules went beyond the sparsity asked for; nothing where none did."""
    names = [
        f"`{row['method']}` at {wording.sparsity(row['requested_sparsity'])} realised "
        f"{wording.realised(row['realised_sparsity'], row['realised_sparsity_sd'], row['n'])}"
        for row in records(sparser(results))
    ]
    return f"Sparser than requested, as learned schedules may be: {wording.listed(names)}." if names else ""


def finite_warnings(results: Results) -> list[str]:
    """A sentence per run that diverged."""
    runs = results.runs
    broken = runs[~np.isfinite(runs[["accuracy", "nll", "calibration_error"]].to_numpy(dtype=float)).all(axis=1)]
    return [
        f"NOT FINITE: run `{row['run']}` (`{row['method']}` at {wording.sparsity(row['requested_sparsity'])}, "
        f"seed {row['seed']})"
        for row in records(broken)
    ]


def unfinished(results: Results) -> list[str]:
    """A sentence per run that has no result and is in no number of the report; those not begun share one."""
    rows = records(results.unfinished)
    begun = [
        f"`runs/{row['run']}`" + (f" ({row['what']})" if row["what"] else "") + f": last logged step {row['step']:,}"
        for row in rows
        if row["begun"]
    ]
    waiting = [f"`{row['run']}`" for row in rows if not row["begun"]]
    return [*begun, *([f"not begun: {wording.listed(waiting)}"] if waiting else [])]


def strays(results: Results) -> str:
    """The runs in the directory that are no part of the study; nothing where there are none."""
    names = wording.listed([f"`{name}`" for name in results.strays])
    return f"Left out, for they belong to another recipe: runs {names}." if results.strays else ""
