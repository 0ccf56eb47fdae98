"""The curve over the batch size: closed forms, regions, the theory's sharp curve, and what a table shows."""

import math

import numpy as np
import pytest
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.scaling.curve import Curve, regions
from prunus.scaling.sizes import half_efficiency_batch, mean_ratio, normalised, perfect_scaling, slopes
from prunus.scaling.theory import CappedCurve, Theory

POSITIVE = st.floats(1e-3, 1e6)
CURVES = st.builds(Curve, POSITIVE, POSITIVE, st.floats(0.5, 8.0))
CASES = golden("scaling")["fits"]["cases"]


def table(case: str) -> dict[int, float]:
    return dict(zip(map(int, CASES[case]["B"]), CASES[case]["K"], strict=True))


@settings(max_examples=50, deadline=None)
@given(curve=CURVES, batch=POSITIVE, factor=st.floats(1.01, 100))
def test_more_batch_never_needs_more_steps_nor_fewer_examples(curve: Curve, batch: float, factor: float) -> None:
    assert curve(batch * factor) <= curve(batch)
    assert batch * factor * curve(batch * factor) >= batch * curve(batch) * (1 - 1e-12)
    assert curve(batch) >= curve.least_steps


@settings(max_examples=50, deadline=None)
@given(curve=CURVES, batch=POSITIVE)
def test_efficiency_and_slope_are_those_of_the_steps(curve: Curve, batch: float) -> None:
    assert curve.efficiency(batch) == pytest.approx(curve.least_examples / (batch * curve(batch)), rel=1e-9)
    step = 1e-5
    rise = math.log(curve(batch * math.exp(step)) / curve(batch * math.exp(-step))) / (2 * step)
    assert curve.slope(batch) == pytest.approx(rise, abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(curve=CURVES, efficiency=st.floats(0.05, 0.99), slack=st.floats(0.01, 3))
def test_batch_at_inverts(curve: Curve, efficiency: float, slack: float) -> None:
    assert curve.efficiency(curve.batch_at(efficiency)) == pytest.approx(efficiency, rel=1e-6)
    assert curve(curve.batch_within(slack)) == pytest.approx((1 + slack) * curve.least_steps, rel=1e-6)


def test_regions_of_the_plain_curve() -> None:
    found = regions(Curve(400, 256))
    assert found.perfect_until == pytest.approx(256 / 9, rel=1e-12)
    assert found.maximal_from == pytest.approx(2560, rel=1e-12)
    assert found.doublings == pytest.approx(math.log2(90), rel=1e-12)
    assert [Curve(1, 256).efficiency(b) for b in (0.0, 256, 768)] == [1.0, 0.5, 0.25]


@settings(max_examples=50, deadline=None)
@given(curve=CURVES.filter(lambda curve: curve.sharpness > 1.1))
def test_sharper_curve_has_a_shorter_transition(curve: Curve) -> None:
    assert regions(curve).doublings < regions(Curve(curve.least_steps, curve.critical_batch)).doublings


def test_plain_curve_is_the_sharp_one_at_one() -> None:
    assert Curve(400, 256, 1 + 1e-12)(64) == pytest.approx(Curve(400, 256)(64))
    assert Curve(400, 256, 3)(1e-300) == pytest.approx(400 * 256 / 1e-300)


THEORIES = st.builds(Theory, *[st.floats(0.01, 100)] * 6)


@settings(max_examples=50, deadline=None)
@given(theory=THEORIES, batch=POSITIVE)
def test_best_capped_step_size_gives_the_capped_curve(theory: Theory, batch: float) -> None:
    capped = theory.capped
    best = theory.rate(batch)
    assert theory.steps(batch, best) == pytest.approx(capped(batch), rel=1e-6)
    for other in (0.5, 0.9, 0.99):
        assert theory.steps(batch, best * other) >= capped(batch) * (1 - 1e-9)
    if best < theory.cap:
        assert theory.steps(batch, min(theory.cap, best * 1.01)) >= capped(batch) * (1 - 1e-9)


@settings(max_examples=50, deadline=None)
@given(theory=THEORIES)
def test_constants_of_the_theory(theory: Theory) -> None:
    assert theory.critical_batch == pytest.approx(theory.linear / theory.plateau, rel=1e-9)
    first, batch = theory.first_order, 1e6 * theory.critical_batch
    assert first(batch) == pytest.approx(theory.linear / batch + theory.plateau, rel=1e-9)
    assert theory.steps(batch, theory.cap) == pytest.approx(first(batch), rel=1e-9)
    assert theory.steps(theory.critical_batch * 0.99, theory.cap) == math.inf


def test_capped_curve() -> None:
    curve = CappedCurve(linear=100_000.0, plateau=400.0)
    assert curve.critical_batch == 250
    assert curve(500) == pytest.approx(800) == pytest.approx(curve(500.0001))
    assert curve(100) == 4000
    assert curve.efficiency(500) == pytest.approx(1)
    assert curve.batch_at(0.5) == pytest.approx((4 + 2 * math.sqrt(2)) * 250, rel=1e-12)
    assert curve.efficiency(curve.batch_at(0.3)) == pytest.approx(0.3, rel=1e-12)
    assert curve(1e12) == pytest.approx(400)


@pytest.mark.parametrize("case", CASES)
def test_half_efficiency_batch(case: str) -> None:
    expected = CASES[case]["half_efficiency_B_interp"]
    assert half_efficiency_batch(table(case)) == pytest.approx(expected, rel=1e-10)


def test_half_efficiency_is_not_extrapolated() -> None:
    assert half_efficiency_batch({1: 1000, 2: 500, 4: 300}) is None


def test_lines_and_ratios() -> None:
    sparse, dense = {64: 2000.0, 8: 9000.0, 512: 800.0}, {8: 6000.0, 64: 1000.0}
    assert perfect_scaling(sparse) == {8: 9000, 64: 1125, 512: 140.625}
    assert perfect_scaling(sparse, anchor=64) == {8: 16000, 64: 2000, 512: 250}
    assert normalised(sparse, 64) == {8: 4.5, 64: 1, 512: 0.4}
    assert mean_ratio(sparse, dense) == pytest.approx(math.sqrt(1.5 * 2))
    with pytest.raises(ValueError, match="must share a batch size, got"):
        mean_ratio(sparse, {1: 5})


@settings(max_examples=50, deadline=None)
@given(curve=CURVES)
def test_slopes_of_a_table_lie_between_perfect_and_none(curve: Curve) -> None:
    found = slopes({batch: curve(batch) for batch in (1, 4, 32)})
    assert np.allclose(list(found), [2, math.sqrt(128)])
    assert all(-1 - 1e-9 <= slope <= 1e-9 for slope in found.values())
