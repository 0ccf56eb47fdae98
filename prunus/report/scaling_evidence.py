"""What each curve or pair of curves of a study says of the findings of Lee et al. 2021, by its intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from prunus.report import wording
from prunus.report.scaling_results import ScalingResults, mean_steps
from prunus.report.scaling_wording import factor, interval, side
from prunus.scaling.curve import Curve, regions
from prunus.scaling.findings import Finding, paired_steps
from prunus.scaling.ratios import table
from prunus.scaling.trials import Cell
from prunus.scaling.uncertainty import Estimate, over_seeds

Verdict = Literal["supported", "contradicted", "not decided"]
SIMILAR = 2.0  # batch sizes are measured in doublings at best
HIGHLY_SPARSE = 0.9
SLACK = 1.1  # of the steps, as the regions have it
ABOVE: Mapping[str, Verdict] = {"above": "supported", "below": "contradicted", "not decided": "not decided"}


class Evidence(NamedTuple):
    """What one curve or pair of curves says of a finding; ``found`` in words."""

    optimizer: str
    sparsity: float
    found: str
    verdict: Verdict


def three_regions(results: ScalingResults) -> Iterator[Evidence]:
    """Whether each curve was measured from perfect scaling to maximal data parallelism, and goes on as they say."""
    yield from unfitted(results)
    for found in results.findings:
        perfect = found.estimate.of(lambda curve: regions(curve).perfect_until)
        maximal = found.estimate.of(lambda curve: regions(curve).maximal_from)
        fit = found.estimate.fit
        said = (
            f"perfect until {interval(perfect)}, maximal from {interval(maximal)}, measured from {fit.smallest} to "
            f"{fit.largest}"
        )
        both = fit.smallest <= perfect.low and fit.largest >= maximal.high
        against = list(off_the_curve(found.cells))
        verdict: Verdict = "contradicted" if against else "supported" if both else "not decided"
        yield Evidence(found.optimizer, found.sparsity, "; ".join([said, *against]), verdict)


def unfitted(results: ScalingResults) -> Iterator[Evidence]:
    """The curves that cannot be fitted decide nothing."""
    for optimizer, sparsity in results.curves:
        if results.finding(optimizer, sparsity) is None:
            yield Evidence(optimizer, sparsity, "the goal was met at fewer than two batch sizes", "not decided")


def off_the_curve(cells: Sequence[Cell]) -> Iterator[str]:
    """Where steps fall faster than perfect scaling at the small end, or rise at the large one, over seeds."""
    batches = list(mean_steps(cells))
    low, high = batches[:2], batches[-2:]
    gained = step_change(cells, low[0], low[1])
    if gained is not None and side(scaled(gained, low[1] / low[0]), 1 / SLACK) == "below":
        yield f"from {low[0]} to {low[1]} steps fall faster than perfect scaling, to {factor(gained)} of them"
    lost = step_change(cells, high[0], high[1])
    if lost is not None and side(lost, SLACK) == "above":
        yield f"from {high[0]} to {high[1]} steps rise to {factor(lost)} times as many"


def step_change(cells: Sequence[Cell], low: int, high: int) -> Estimate | None:
    """K(high) / K(low) over the seeds that have both; None for fewer than two."""
    seeds = {cell.seed for cell in cells}
    tables = [table([cell for cell in cells if cell.seed == seed]) for seed in sorted(seeds)]
    both = [found[high] / found[low] for found in tables if {low, high} <= found.keys()]
    return over_seeds(both) if len(both) > 1 else None


def scaled(estimate: Estimate, by: float) -> Estimate:
    """An estimate times a number."""
    return Estimate(estimate.value * by, estimate.low * by, estimate.high * by)


def more_steps(results: ScalingResults) -> Iterator[Evidence]:
    """The paired ratio of steps between neighbouring sparsities, and at which batch sizes it is not above 1."""
    for optimizer in results.optimizers:
        for low, high in pairwise(results.sparsities):
            sparse, denser = results.curves.get((optimizer, high), ()), results.curves.get((optimizer, low), ())
            overall = paired_steps(fitted(results, optimizer, high), fitted(results, optimizer, low))
            if overall is None:
                yield Evidence(optimizer, high, "fewer than two seeds to compare", "not decided")
                continue
            yield Evidence(optimizer, high, *steps_verdict(overall, not_more(sparse, denser), low))


def fitted(results: ScalingResults, optimizer: str, sparsity: float) -> Sequence[Cell]:
    """The cells that a curve is fitted to, all where there is none."""
    found = results.finding(optimizer, sparsity)
    return results.curves.get((optimizer, sparsity), ()) if found is None else found.cells


def not_more(sparse: Sequence[Cell], denser: Sequence[Cell]) -> list[str]:
    """The batch sizes at which the sparser needs no more steps, or met the goal and the denser did not."""
    more, fewer = mean_steps(sparse), mean_steps(denser)
    both = sorted({cell.batch_size for cell in denser} & more.keys())
    return [str(size) for size in both if more[size] <= fewer.get(size, math.inf)]


def steps_verdict(overall: Estimate, exceptions: list[str], low: float) -> tuple[str, Verdict]:
    """The ratio to the steps at a sparsity in words, with the batch sizes that speak against it, and the verdict."""
    said = f"{factor(overall)} times the steps at {wording.sparsity(low)}"
    said += f"; not more of them at batch {wording.listed(exceptions)}" if exceptions else ""
    verdict = ABOVE[side(overall)]
    return said, "not decided" if verdict == "supported" and exceptions else verdict


def same_bend(results: ScalingResults) -> Iterator[Evidence]:
    """R_B of each sparse curve: whether all of its interval lies within a factor of two of 1."""
    yield from unfitted(results)
    for found, bend in bends(results):
        verdict: Verdict = "supported" if bend.low >= 1 / SIMILAR and bend.high <= SIMILAR else "not decided"
        verdict = "contradicted" if bend.low > SIMILAR or bend.high < 1 / SIMILAR else verdict
        yield judged(found, f"R_B {factor(bend)}", verdict, found, results.finding(found.optimizer, 0.0))


def larger_bend(results: ScalingResults) -> Iterator[Evidence]:
    """R_B of the highly sparse curves that were trained with momentum."""
    momentum, _ = with_momentum(results)
    for found, bend in bends(results):
        if found.optimizer in momentum and found.sparsity >= HIGHLY_SPARSE:
            dense = results.finding(found.optimizer, 0.0)
            yield judged(found, f"R_B {factor(bend)}", ABOVE[side(bend)], found, dense)


def momentum_bears_more(results: ScalingResults) -> Iterator[Evidence]:
    """The batch of half the efficiency with momentum over that without, at each sparsity."""
    momentum, plain = with_momentum(results)
    for name in momentum:
        for other in plain:
            for sparsity in results.sparsities:
                with_, without = results.finding(name, sparsity), results.finding(other, sparsity)
                if with_ is None or without is None or not comparable(with_, without):
                    yield Evidence(name, sparsity, f"no curve to compare with {other}", "not decided")
                    continue
                found = with_.estimate.over_dense(without.estimate, half_efficiency)
                yield judged(with_, f"{factor(found)} times that of {other}", ABOVE[side(found)], with_, without)


def bends(results: ScalingResults) -> Iterator[tuple[Finding, Estimate]]:
    """The curves that compare to dense, with R_B."""
    yield from ((found, found.to_dense.critical_batch) for found in results.findings if found.to_dense)


def judged(found: Finding, said: str, verdict: Verdict, *curves: Finding | None) -> Evidence:
    """Evidence on bends, which decides nothing where one of the ``curves`` has its bend outside what was measured."""
    if all(curve is None or curve.estimate.fit.bend_was_measured for curve in curves):
        return Evidence(found.optimizer, found.sparsity, said, verdict)
    return Evidence(found.optimizer, found.sparsity, f"{said}, by a bend that was extrapolated", "not decided")


def comparable(one: Finding, other: Finding) -> bool:
    """Whether two curves have intervals of one kind and two seeds or resamples in common."""
    common = one.estimate.curves.keys() & other.estimate.curves.keys()
    return one.estimate.over == other.estimate.over and len(common) > 1


def half_efficiency(curve: Curve) -> float:
    """The batch size with half the efficiency, which curves of different sharpness share; B_crit where p = 1."""
    return curve.batch_at(0.5)


def with_momentum(results: ScalingResults) -> tuple[list[str], list[str]]:
    """The optimizers of SGD with momentum, and those without."""
    found: tuple[list[str], list[str]] = ([], [])
    for name in results.optimizers:
        tuned = results.recipe["scaling"]["optimizers"][name]
        plain = tuned["optimizer"]
        kind, arguments = (plain, {}) if isinstance(plain, str) else next(iter(plain.items()))
        if kind == "sgd":
            moving = "momentum" in tuned["space"] or (arguments or {}).get("momentum", 0.0) > 0.0
            found[0 if moving else 1].append(name)
    return found
