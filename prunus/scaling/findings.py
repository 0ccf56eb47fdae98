"""What a study found: a curve for each optimizer and sparsity, how sure it is, and how it compares to dense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.scaling.censored import common_sharpness, measurements
from prunus.scaling.ratios import Ratios, ratios, steps_ratio
from prunus.scaling.trials import REPEATS, Cell, by_curve, steps_to_result
from prunus.scaling.uncertainty import CurveEstimate, Estimate, estimate_over_seeds, estimate_over_trials

RESAMPLES = 100
Key = tuple[str, float]  # optimizer and sparsity


@dataclass(frozen=True)
class Finding:
    """The curve of one optimizer and sparsity, and the ``cells`` of all batch sizes and seeds that it is fitted to.

    ``to_dense`` and ``steps_to_dense`` compare it to the dense curve of the same optimizer; None for dense itself, and
    where no seed has both.
    """

    optimizer: str
    sparsity: float
    cells: tuple[Cell, ...]
    estimate: CurveEstimate
    to_dense: Ratios | None
    steps_to_dense: Estimate | None


def findings(cells: Sequence[Cell]) -> list[Finding]:
    """All curves of a study that met its goal at two batch sizes or more, dense first within each optimizer.

    Those of one optimizer share the sharpness of their bend, so that critical batches compare. A search takes the best
    of many trials, which flatters it, so curves are those of the repeats alone where every curve of the optimizer has
    three seeds of them; else of the searches, with intervals over three seeds or more, or over trials.
    """
    curves = {key: found for key, found in by_curve(cells).items() if _sizes_met(found) > 1}
    found: list[Finding] = []
    for optimizer in dict.fromkeys(name for name, _ in curves):
        whole = {key: found for key, found in curves.items() if key[0] == optimizer}
        own = judged(whole)
        estimates = _estimates(own)
        found += [_finding(key, own, estimates) for key in sorted(own, key=lambda key: key[1])]
    return found


def judged(own: Mapping[Key, tuple[Cell, ...]]) -> Mapping[Key, tuple[Cell, ...]]:
    """Of the curves of an optimizer the cells that they are fitted to: those of repeats, or those of searches."""
    repeats = {key: tuple(cell for cell in cells if cell.seed >= REPEATS) for key, cells in own.items()}
    if all(len(_seeds(cells)) > 2 for cells in repeats.values()):
        return repeats
    searches = {key: tuple(cell for cell in cells if cell.seed < REPEATS) for key, cells in own.items()}
    return {key: cells for key, cells in searches.items() if _sizes_met(cells) > 1}


def _estimates(own: Mapping[Key, tuple[Cell, ...]]) -> dict[Key, CurveEstimate]:
    sharpness = common_sharpness([measurements(cells) for cells in own.values()])
    if all(len(_seeds(cells)) > 2 for cells in own.values()):
        return {
            key: estimate_over_seeds([cell for cell in cells if cell.seed in _seeds(cells)], sharpness)
            for key, cells in own.items()
        }
    return {key: estimate_over_trials(cells, sharpness, resamples=RESAMPLES) for key, cells in own.items()}


def _finding(key: Key, own: Mapping[Key, tuple[Cell, ...]], estimates: Mapping[Key, CurveEstimate]) -> Finding:
    optimizer, sparsity = key
    dense = (optimizer, 0.0)
    if sparsity == 0.0 or dense not in own:
        return Finding(optimizer, sparsity, own[key], estimates[key], None, None)
    pairs = estimates[key].curves.keys() & estimates[dense].curves.keys()
    to_dense = ratios(estimates[key], estimates[dense]) if len(pairs) > 1 else None
    return Finding(optimizer, sparsity, own[key], estimates[key], to_dense, paired_steps(own[key], own[dense]))


def paired_steps(sparse: Sequence[Cell], dense: Sequence[Cell]) -> Estimate | None:
    """The `steps_ratio` of the seeds that met the goal in both at a batch size; None for fewer than two of them."""
    both = _met(sparse) & _met(dense)
    seeds = {seed for seed, _ in both}
    if len(seeds) < 2:
        return None
    return steps_ratio(*([cell for cell in cells if cell.seed in seeds] for cells in (sparse, dense)))


def _met(cells: Sequence[Cell]) -> set[tuple[int, int]]:
    return {(cell.seed, cell.batch_size) for cell in cells if steps_to_result(cell)}


def _seeds(cells: Sequence[Cell]) -> set[int]:
    """The seeds that met the goal at two batch sizes or more."""
    seeds = {cell.seed for cell in cells}
    return {seed for seed in seeds if _sizes_met([cell for cell in cells if cell.seed == seed]) > 1}


def _sizes_met(cells: Sequence[Cell]) -> int:
    return len({cell.batch_size for cell in cells if steps_to_result(cell)})
