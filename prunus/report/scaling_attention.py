"""What a reader of a steps-to-result study must not overlook, in sentences."""

from collections.abc import Iterator

from prunus.report import wording
from prunus.report.scaling_results import ScalingResults, named
from prunus.scaling.censored import measurement
from prunus.scaling.records import Place, place
from prunus.scaling.trials import steps_to_result

MANY = 12  # cells that are named one by one
UNFINISHED = "UNFINISHED: these cells are not done and are in no number of this report."


def warnings(results: ScalingResults) -> list[str]:
    """Unmet goals, curves without a fit, bends that were extrapolated, intervals without seeds, strays."""
    return [*unmet(results), *unfitted(results), *extrapolated(results), *without_seeds(results), *strays(results)]


def unmet(results: ScalingResults) -> Iterator[str]:
    """The searched cells in which no trial met the goal."""
    found = [cell for cell in results.searches if steps_to_result(cell) is None]
    for cell in found[:MANY]:
        yield f"NOT MET: {named(place(cell))}: no trial met the goal in {measurement(cell).steps:,} steps"
    if found[MANY:]:
        yield f"NOT MET: no trial in {len(found) - MANY} more cells"


def unfitted(results: ScalingResults) -> Iterator[str]:
    """The curves that met the goal at fewer than two batch sizes."""
    for optimizer, sparsity in results.curves:
        if results.finding(optimizer, sparsity) is None:
            at = f"`{optimizer}` at {wording.sparsity(sparsity)}"
            yield f"NO CURVE: {at} met the goal at fewer than two batch sizes"


def extrapolated(results: ScalingResults) -> Iterator[str]:
    """The curves whose bend lies outside what was measured."""
    for found in results.findings:
        fit = found.estimate.fit
        if not fit.bend_was_measured:
            yield (
                f"EXTRAPOLATED: the bend of `{found.optimizer}` at {wording.sparsity(found.sparsity)} lies outside the "
                f"batch sizes that met the goal, {fit.smallest} to {fit.largest}"
            )


def without_seeds(results: ScalingResults) -> Iterator[str]:
    """The optimizers whose intervals are over trials."""
    over = {found.optimizer: found.estimate.over for found in results.findings}
    names = [f"`{optimizer}`" for optimizer, kind in over.items() if kind == "trials"]
    if names:
        yield (
            f"FEW SEEDS: some curve of {wording.listed(names)} has fewer than three, so intervals are over trials and "
            "miss the noise of weights and data order"
        )


def strays(results: ScalingResults) -> Iterator[str]:
    """How many cells lie there of another recipe."""
    if results.strays:
        yield f"LEFT OUT: {results.strays} cell{'s' * (results.strays > 1)} of another recipe"


def calm(results: ScalingResults) -> str:
    """That there is nothing to warn of."""
    return f"All {len(results.searches)} cells met the goal, and every bend lies within what was measured."


def unfinished(results: ScalingResults) -> list[str]:
    """The cells that are not done, by curve: they are in no number of the report."""
    missing: dict[str, list[str]] = {}
    for at in results.unfinished:
        missing.setdefault(f"`{at.optimizer}` at {wording.sparsity(at.sparsity)}", []).append(cell_of(at))
    return [f"{curve}: {wording.listed(cells)}" for curve, cells in missing.items()]


def cell_of(at: Place) -> str:
    """'batch 64', with its seed where that is not 0."""
    return f"batch {at.batch_size}" + f" seed {at.seed}" * bool(at.seed)
