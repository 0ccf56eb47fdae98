"""What sparsity changes about a curve, as ratios to dense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.scaling.sizes import mean_ratio
from prunus.scaling.trials import Cell, steps_to_result
from prunus.scaling.uncertainty import CurveEstimate, Estimate, over_seeds


@dataclass(frozen=True)
class Ratios:
    """R_K, R_B and R_E = R_K R_B: fewest steps, critical batch and fewest examples, each over that of dense.

    "The bend stays where it is" is R_B = 1, "sparse networks bear larger batches" R_B > 1. Both curves must have the
    same sharpness, see `prunus.scaling.censored.common_sharpness`.
    """

    least_steps: Estimate
    critical_batch: Estimate
    least_examples: Estimate


def ratios(sparse: CurveEstimate, dense: CurveEstimate) -> Ratios:
    """The three ratios with intervals. Raises ValueError for curves of different sharpness or other uncertainty."""
    sharpnesses = (sparse.fit.curve.sharpness, dense.fit.curve.sharpness)
    if sharpnesses[0] != sharpnesses[1]:
        raise ValueError(
            f"critical batches compare only at one sharpness, got {sharpnesses[0]} and {sharpnesses[1]}; fit both with "
            "that of common_sharpness"
        )
    if sparse.over != dense.over:
        raise ValueError(f"intervals must be of one kind, got over {sparse.over} and {dense.over}; estimate both alike")
    return Ratios(
        sparse.over_dense(dense, lambda curve: curve.least_steps),
        sparse.over_dense(dense, lambda curve: curve.critical_batch),
        sparse.over_dense(dense, lambda curve: curve.least_examples),
    )


def table(cells: Sequence[Cell]) -> dict[int, float]:
    """Steps-to-result by batch size, of cells of one optimizer, sparsity and seed; unreached cells have none."""
    winners = {cell.batch_size: steps_to_result(cell) for cell in cells}
    return {batch: float(winner.steps) for batch, winner in sorted(winners.items()) if winner is not None}


def steps_ratio(sparse: Sequence[Cell], dense: Sequence[Cell]) -> Estimate:
    """The geometric mean of K(B, s) / K(B, 0) over common batch sizes, for each seed, and its interval over seeds."""
    tables, others = _by_seed(sparse), _by_seed(dense)
    return over_seeds([mean_ratio(tables[seed], others[seed]) for seed in sorted(tables.keys() & others.keys())])


def _by_seed(cells: Sequence[Cell]) -> Mapping[int, Mapping[int, float]]:
    return {seed: table([cell for cell in cells if cell.seed == seed]) for seed in {cell.seed for cell in cells}}
