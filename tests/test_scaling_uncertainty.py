"""Intervals over seeds and trials, ratios to dense, and what they mean for a number of workers."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.scaling.censored import Fit
from prunus.scaling.curve import Curve
from prunus.scaling.ratios import ratios, steps_ratio, table
from prunus.scaling.trials import Cell, Trial
from prunus.scaling.uncertainty import (
    CurveEstimate,
    Estimate,
    estimate_over_seeds,
    estimate_over_trials,
    over_resamples,
    over_seeds,
)
from prunus.scaling.worth import worth, worth_of_noise

BATCHES = (8, 32, 128, 512, 2048)
FACTORS = (1.5, 1.0, 1.1, 3.0, 2.0)  # of the trials' steps


def cells(curve: Curve, *, sparsity: float = 0.0, seed: int = 0) -> list[Cell]:
    """A search whose best trial lies on the curve, evaluated at every step."""
    return [
        Cell("sgd", sparsity, batch, seed, 10, tuple(map(trial, range(len(FACTORS)), scaled(curve(batch)))), False)
        for batch in BATCHES
    ]


def scaled(steps: float) -> list[int]:
    return [math.ceil(steps * factor) for factor in FACTORS]


def trial(number: int, steps: int) -> Trial:
    return Trial(number, {}, "complete", steps, steps - 1)


DENSE = [cell for seed, least in enumerate((400, 420, 390)) for cell in cells(Curve(least, 256), seed=seed)]
SPARSE = [
    cell for seed, least in enumerate((800, 820, 800)) for cell in cells(Curve(least, 300), sparsity=0.9, seed=seed)
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 1e4), min_size=2, max_size=6))
def test_interval_over_seeds_is_that_of_student(values: list[float]) -> None:
    from scipy.stats import t

    logs = [math.log(value) for value in values]
    mean = sum(logs) / len(logs)
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1) / len(logs))
    reach = t.ppf(0.975, len(logs) - 1) * error
    expected = (math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))
    found = over_seeds(values)
    assert (found.value, found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_intervals_need_seeds() -> None:
    with pytest.raises(ValueError, match="needs two or more, got 1"):
        over_seeds([3.0])
    assert over_resamples(5.0, list(range(101))) == Estimate(5.0, pytest.approx(2.5), pytest.approx(97.5))


@pytest.mark.parametrize(("least", "critical"), [(600, 100), (3000, 700)])
def test_interval_contains_an_exact_truth(least: float, critical: float) -> None:
    exact = [cell for seed in range(3) for cell in cells(Curve(least, critical), seed=seed)]
    for estimate in (estimate_over_seeds(exact), estimate_over_trials(exact[:5], resamples=20)):
        for statistic, truth in ((lambda curve: curve.least_steps, least), (lambda c: c.critical_batch, critical)):
            found = estimate.of(statistic)
            assert found.low * 0.99 <= truth <= found.high * 1.01
            assert found.low <= found.high


def test_seeds_make_the_interval() -> None:
    found = estimate_over_seeds(DENSE).of(lambda curve: curve.least_steps)
    assert (found.value, found.low, found.high) == pytest.approx(
        (lambda e: (e.value, e.low, e.high))(over_seeds([400, 420, 390])), rel=0.01
    )


def test_resamples_are_reproducible_and_biased_upward() -> None:
    one = estimate_over_trials(DENSE[:5], resamples=40)
    assert one == estimate_over_trials(DENSE[:5], resamples=40)
    assert one != estimate_over_trials(DENSE[:5], resamples=40, seed=1)
    steps = one.of(lambda curve: curve(128))
    assert steps.low >= one.fit.curve(128) * 0.98
    assert steps.high > steps.value * 1.02
    for number, curve in list(one.curves.items())[:3]:
        assert number < 40
        assert curve(8) >= one.fit.curve(8) * 0.98


def test_resamples_without_a_winner_are_censored() -> None:
    raced = [
        replace(
            cell,
            raced=True,
            trials=tuple(
                t if t.number == 1 else replace(t, status="incomplete", steps=cell.trials[1].steps) for t in cell.trials
            ),
        )
        for cell in DENSE[:5]
    ]
    found = estimate_over_trials(raced, resamples=40)
    assert 30 < len(found.curves) <= 40
    assert found.of(lambda curve: curve(128)).high > found.fit.curve(128)


def test_ratios_to_dense() -> None:
    found = ratios(estimate_over_seeds(SPARSE), estimate_over_seeds(DENSE))
    expected = over_seeds([2.0, 820 / 420, 800 / 390])
    assert found.least_steps.value == pytest.approx(expected.value, rel=0.01)
    assert (found.least_steps.low, found.least_steps.high) == pytest.approx((expected.low, expected.high), rel=0.02)
    assert found.critical_batch.value == pytest.approx(300 / 256, rel=0.01)
    assert found.least_examples.value == pytest.approx(found.least_steps.value * found.critical_batch.value, rel=1e-9)


def test_ratios_pair_seeds_by_their_number() -> None:
    extra = cells(Curve(4000, 256), seed=7)
    one = ratios(estimate_over_seeds(SPARSE), estimate_over_seeds(DENSE))
    more = estimate_over_seeds([*DENSE, *extra])
    assert ratios(estimate_over_seeds(SPARSE), more) == one
    assert ratios(more, estimate_over_seeds(DENSE)).least_steps.value == pytest.approx(1)


def test_ratios_over_resamples_are_paired_by_draw() -> None:
    doubled = [
        replace(cell, sparsity=0.9, trials=tuple(trial(t.number, 2 * t.steps) for t in cell.trials))
        for cell in DENSE[:5]
    ]
    found = ratios(estimate_over_trials(doubled, resamples=20), estimate_over_trials(DENSE[:5], resamples=20))
    assert (found.least_steps.low, found.least_steps.high) == pytest.approx((2, 2), rel=0.02)


def test_ratios_of_unlike_estimates() -> None:
    seeds = estimate_over_seeds(DENSE)
    sharp = CurveEstimate(replace(seeds.fit, curve=Curve(400, 256, 2)), seeds.curves, "seeds")
    with pytest.raises(ValueError, match="only at one sharpness, got 2 and 1"):
        ratios(sharp, seeds)
    with pytest.raises(ValueError, match="of one kind, got over trials and seeds"):
        ratios(replace(seeds, over="trials"), seeds)


def test_steps_ratio_over_common_batches() -> None:
    found = steps_ratio([cell for cell in SPARSE if cell.batch_size > 8], DENSE)
    per_seed = [
        math.exp(sum(math.log(a[b] / d[b]) for b in a) / len(a))
        for a, d in (
            (table([c for c in SPARSE if c.seed == s and c.batch_size > 8]), table([c for c in DENSE if c.seed == s]))
            for s in range(3)
        )
    ]
    assert found == over_seeds(per_seed)


def exactly(curve: Curve) -> CurveEstimate:
    fit = Fit(curve, 0.01, 0.0, smallest=8, largest=2048)
    return CurveEstimate(fit, {0: curve, 1: curve}, "seeds")


def test_worth_of_an_exact_curve() -> None:
    found = worth(exactly(Curve(400, 256)), 64)
    assert found.workers == Estimate(4, 4, 4)
    assert [row.workers for row in found.rows] == [1, 2, 4, 8]
    one, _, four, eight = found.rows
    assert four == found.at_most
    assert (one.speedup.value, one.efficiency.value, one.cost.value) == pytest.approx((1, 0.8, 1))
    assert four.batch_size == 256
    assert four.steps is not None
    assert four.examples is not None
    assert (four.steps.value, four.examples.value) == pytest.approx((800, 204_800))
    assert (four.speedup.value, four.efficiency.value, four.cost.value) == pytest.approx((2.5, 0.5, 1.6))
    assert eight.efficiency.value == pytest.approx(1 / 3)
    assert found.sentence == (
        "With a batch of 64 per worker it pays up to 4 workers (between 4 and 4), 256 examples a step: 2.5 times fewer "
        "steps than one worker, for 1.6 times the examples; beyond that the efficiency falls below 50%."
    )


def test_worth_of_a_batch_that_is_too_large() -> None:
    found = worth(exactly(Curve(400, 256)), 1024)
    assert found.workers == Estimate(0, 0, 0)
    assert [row.workers for row in found.rows] == [1]
    assert found.sentence == (
        "A batch of 1024 per worker is too large already, with an efficiency of 20%: 50% is reached at 256 examples a "
        "step, of all workers together."
    )


@given(
    critical=st.floats(1, 1e5),
    sharpness=st.floats(0.5, 4),
    batch=st.integers(1, 4096),
    threshold=st.floats(0.05, 0.95),
)
@settings(max_examples=20, deadline=None)
def test_it_pays_up_to_the_threshold(critical: float, sharpness: float, batch: int, threshold: float) -> None:
    curve = Curve(100, critical, sharpness)
    most = int(worth(exactly(curve), batch, workers=[1], threshold=threshold).workers.value)
    if most:
        assert curve.efficiency(most * batch) >= threshold * (1 - 1e-6)
    assert curve.efficiency((most + 1) * batch) < threshold * (1 + 1e-6)


def test_worth_carries_the_interval_and_says_where_it_extrapolates() -> None:
    estimate = estimate_over_seeds(SPARSE)
    found = worth(estimate, 8, workers=[1, 16])
    assert found.workers.low <= found.workers.value <= found.workers.high
    row = found.rows[1]
    for each in (row.speedup, row.efficiency, row.cost, row.steps, row.examples):
        assert each is not None
        assert each.low <= each.value <= each.high
    assert "extrapolation" not in found.sentence
    far = worth(estimate, 1024, threshold=0.05).sentence
    assert far.endswith(" This is an extrapolation: the largest batch that was measured is 2048.")


def test_worth_of_a_noise_scale() -> None:
    found = worth_of_noise(Estimate(256, 128, 512), 64)
    assert found.workers == Estimate(4, 2, 8)
    assert found.rows[2].steps is None
    assert found.rows[2].examples is None
    assert found.rows[2].efficiency == Estimate(pytest.approx(1 / 2), pytest.approx(1 / 3), pytest.approx(2 / 3))
    with pytest.raises(ValueError, match="above 0 and finite, got 5 to inf"):
        worth_of_noise(Estimate(9, 5, math.inf), 64)
