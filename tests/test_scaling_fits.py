"""Fits: the golden tables, exact curves found again, and steps that are known only between two evaluations."""

import math

import numpy as np
import pytest
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scaling_curve import table

from prunus.scaling.censored import (
    Measurement,
    common_sharpness,
    fit_best,
    fit_censored,
    measurement,
    measurements,
)
from prunus.scaling.curve import Curve
from prunus.scaling.fits import fit, fit_linear
from prunus.scaling.trials import Cell, Trial

CASES = golden("scaling")["fits"]["cases"]
BATCHES = [2**power for power in range(15)]


def censored(curve: Curve, interval: int = 1, batches: list[int] = BATCHES) -> list[Measurement]:
    """A curve seen on a grid of evaluations."""
    steps = {batch: math.ceil(curve(batch) / interval) * interval for batch in batches}
    return [Measurement(batch, k, k - interval) for batch, k in steps.items()]


@pytest.mark.parametrize("case", CASES)
def test_golden_fits(case: str) -> None:
    expected, steps = CASES[case], table(case)
    squares, huber, sharp = fit(steps), fit(steps, huber=0.05), fit(steps, sharpness=None)
    linear = fit_linear(steps)
    assert squares.curve.least_steps == pytest.approx(expected["fit_log_lsq"]["K_min"], rel=1e-6)
    assert squares.curve.critical_batch == pytest.approx(expected["fit_log_lsq"]["B_crit"], rel=1e-6)
    assert squares.curve.least_examples == pytest.approx(expected["fit_log_lsq"]["E_min"], rel=1e-6)
    assert squares.residual == pytest.approx(expected["fit_log_lsq"]["rms_log_resid"], rel=1e-6, abs=1e-12)
    assert linear.least_steps == pytest.approx(expected["fit_rel_linear"]["c2"], rel=1e-10)
    assert linear.least_examples == pytest.approx(expected["fit_rel_linear"]["c1"], rel=1e-10)
    assert huber.curve.critical_batch == pytest.approx(expected["fit_huber"]["B_crit"], rel=1e-6)
    assert huber.curve.least_steps == pytest.approx(expected["fit_huber"]["K_min"], rel=1e-6)
    assert sharp.curve.critical_batch == pytest.approx(expected["fit_sharpness"]["B_crit"], rel=1e-5)
    assert sharp.curve.sharpness == pytest.approx(expected["fit_sharpness"]["p"], rel=1e-5)


def test_golden_censored_fit() -> None:
    expected = CASES["quantised_100"]["fit_interval_censored_q100"]
    found = fit_censored([Measurement(b, int(k), int(k) - 100) for b, k in table("quantised_100").items()])
    assert found.curve.least_steps == pytest.approx(expected["K_min"], rel=1e-4)
    assert found.curve.critical_batch == pytest.approx(expected["B_crit"], rel=1e-4)
    assert found.spread == pytest.approx(expected["sigma"], rel=1e-4)
    assert found.bend_was_measured


def test_outlier_moves_the_squares_and_not_huber() -> None:
    steps = table("noisy")
    steps[16] *= 1.8
    assert fit(steps).curve.critical_batch == pytest.approx(282.7, abs=0.05)
    assert fit(steps, huber=0.05).curve.critical_batch == pytest.approx(259.3, abs=0.05)


def test_grid_floor_is_no_plateau() -> None:
    seen = censored(Curve(90, 256), interval=100)
    naive = fit({found.batch_size: found.steps for found in seen}).curve
    assert (naive.least_steps, naive.critical_batch) == pytest.approx((123, 192), abs=0.5)
    found = fit_censored(seen).curve
    assert (found.least_steps, found.critical_batch) == pytest.approx((91.7, 252), rel=0.02)
    assert found.critical_batch == pytest.approx(256, rel=0.03)


@settings(max_examples=15, deadline=None)
@given(least=st.floats(1, 1e4), critical=st.floats(4, 4096), sharpness=st.floats(0.5, 6))
def test_exact_curves_are_found_again(least: float, critical: float, sharpness: float) -> None:
    curve = Curve(least, critical, sharpness)
    steps = {batch: curve(batch) for batch in BATCHES}
    known = fit(steps, sharpness=sharpness).curve
    assert (known.least_steps, known.critical_batch) == pytest.approx((least, critical), rel=1e-6)
    found = fit(steps, sharpness=None).curve
    assert (found.least_steps, found.critical_batch, found.sharpness) == pytest.approx(
        (least, critical, sharpness), rel=1e-5
    )


@settings(max_examples=10, deadline=None)
@given(least=st.floats(500, 1e4), critical=st.floats(4, 4096))
def test_censored_fit_finds_the_curve_behind_a_fine_grid(least: float, critical: float) -> None:
    found = fit_censored(censored(Curve(least, critical)))
    assert (found.curve.least_steps, found.curve.critical_batch) == pytest.approx((least, critical), rel=0.01)
    assert found.spread == pytest.approx(0.01)


def test_sharpness_is_reported_where_it_earns_its_parameter() -> None:
    sharp = fit_best(censored(Curve(400, 256, 3)))
    assert sharp.curve.sharpness == pytest.approx(3, rel=0.05)
    assert sharp.curve.critical_batch == pytest.approx(256, rel=0.01)
    noisy = [Measurement(b, round(k), round(k) - 1) for b, k in table("noisy").items()]
    assert fit_best(noisy).curve.sharpness == 1
    assert fit_best(censored(Curve(400, 256, 3), batches=[8, 4096])).curve.sharpness == 1


def test_curves_share_a_sharpness() -> None:
    few = [4, 32, 128, 256, 512, 4096]
    sharp = [censored(Curve(400, 256, 3), batches=few), censored(Curve(900, 128, 3), batches=few)]
    assert common_sharpness(sharp) == pytest.approx(3, rel=0.05)
    assert common_sharpness([censored(Curve(400, 256), batches=few)]) == 1


def test_unreached_cells_push_the_curve_up() -> None:
    seen = censored(Curve(400, 256), batches=[4, 16, 64, 256])
    alone = fit_censored(seen).curve
    free = fit_censored([*seen, Measurement(4096, 100, 100, reached=False)]).curve
    held = fit_censored([*seen, Measurement(4096, 800, 0, reached=False)]).curve
    assert free(4096) == pytest.approx(alone(4096), rel=1e-3)
    assert held(4096) > 1.3 * alone(4096)


def test_fits_that_say_nothing() -> None:
    seen = censored(Curve(400, 256), batches=[1, 2, 4])
    assert not fit_censored(seen).bend_was_measured or fit_censored(seen).curve.critical_batch < 4
    with pytest.raises(ValueError, match=r"met at 2 batch sizes or more, got \[1\]"):
        fit_censored([seen[0], Measurement(2, 10, 10, reached=False)])
    with pytest.raises(ValueError, match="3 parameters needs as many batch sizes, got 2"):
        fit({1: 10, 2: 5}, sharpness=None)
    with pytest.raises(ValueError, match="steps must fall with the batch size and flatten"):
        fit_linear({1: 10, 2: 20})


def test_order_of_measurements_does_not_matter() -> None:
    seen = censored(Curve(400, 256), interval=50)
    again = fit_censored(seen[::-1])
    assert again.curve.critical_batch == pytest.approx(fit_censored(seen).curve.critical_batch, rel=1e-4)


def test_gradient_of_the_likelihood() -> None:
    from prunus.scaling.censored import _Grid

    seen = [*censored(Curve(400, 256), interval=100), Measurement(99, 900, 900, reached=False), Measurement(3, 1, 0)]
    grid, point = _Grid.of(seen, 2), np.array([7.3, 5.1, 0.3, -1.0])
    for place, step in enumerate(np.eye(4) * 1e-5):
        rise = (grid._cost(point + step)[0] - grid._cost(point - step)[0]) / 2e-5
        assert grid._cost(point)[1][place] == pytest.approx(rise, rel=1e-5)


def test_cells_become_measurements() -> None:
    arrived = Trial(0, {}, "complete", 30, 20)
    late = Trial(1, {}, "incomplete", 40, 30)
    broken = Trial(2, {}, "infeasible", 10, 0)
    cell = Cell("sgd", 0.0, 8, 0, 5, (late, arrived, broken), raced=True)
    never = Cell("sgd", 0.0, 4, 0, 5, (late, broken), raced=False)
    assert measurement(cell) == Measurement(8, 30, 20)
    assert measurement(never) == Measurement(4, 40, 40, reached=False)
    assert measurements([cell, never]) == (measurement(never), measurement(cell))
