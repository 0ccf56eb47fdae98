"""Actions, observations and rewards: pure functions, and the golden numbers of the mapping."""

from math import log
from typing import Any

import numpy as np
import pytest
from golden import golden

from prunus.learned.actions import Actions
from prunus.learned.episode import Measured
from prunus.learned.network import Network
from prunus.learned.observations import FEATURES, Layerwise, Moment, Paper, Plus
from prunus.learned.rewards import Budget, Outcome, accuracy, delta


def network(low: float = 0.01, high: float = 0.5) -> Network:
    shapes: dict[str, Any] = {"conv": (4, 3, 3, 3), "linear": (10, 16)}
    return Network(shapes, np.array([0.9, 0.1]), np.full(2, low), np.full(2, high), classes=10)


@pytest.mark.parametrize("case", golden("actions")["cases"], ids=lambda case: str(case["a"]))
def test_actions_map_to_densities(case: dict[str, float]) -> None:
    found = Actions()(np.full(2, case["a"]), None, network(case["min_d"], case["max_d"]))
    np.testing.assert_allclose(found, [case["density"]] * 2, atol=1e-9)


def test_smooth_begins_at_the_middle() -> None:
    act = Actions(smooth=0.5)
    first = act(np.ones(2), None, network(0.0, 1.0))
    np.testing.assert_allclose(first, [0.75, 0.75])
    np.testing.assert_allclose(act(-np.ones(2), first, network(0.0, 1.0)), [0.375, 0.375])


def test_a_step_moves_the_density_before() -> None:
    act = Actions(step=0.05)
    first = act(np.array([1.0, -2.0]), None, network())
    np.testing.assert_allclose(first, [0.305, 0.205])
    np.testing.assert_allclose(act(np.array([0.0, 1.0]), np.array([0.49, 0.49]), network()), [0.49, 0.5])


@pytest.mark.parametrize(("monotone", "expected"), [("grow", [0.5, 0.4]), ("shrink", [0.3, 0.01])])
def test_monotone_densities_do_not_turn_back(monotone: Any, expected: list[float]) -> None:
    act, before = Actions(monotone=monotone), np.array([0.3, 0.4])
    np.testing.assert_allclose(act(np.array([1.0, -1.0]), before, network()), expected)
    np.testing.assert_allclose(act(np.array([1.0, -1.0]), None, network()), [0.5, 0.01])


def test_a_budget_scales_all_layers_until_it_holds() -> None:
    net = network(0.01, 1.0)
    np.testing.assert_allclose(Actions(budget=0.25)(np.ones(2), None, net), [0.25, 0.25])
    found = Actions(budget=0.1)(np.array([-1.0, 1.0]), None, net)
    assert found[0] == 0.01
    assert net.overall(found) == pytest.approx(0.1, abs=1e-6)


def test_smooth_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"share in \[0, 1\), got 1"):
        Actions(smooth=1.0)


def moment() -> Moment:
    begun = Moment.first(Measured(log(10), 0.1), network())
    decided, nonzero, churn = np.array([0.2, 0.3]), np.array([0.2, 0.25]), np.array([0.8, 0.7])
    return begun.then(Measured(1.0, 0.3), decided=decided, nonzero=nonzero, churn=churn, progress=0.25)


def test_the_papers_observation_is_raw() -> None:
    expected = [0.2, 0.3, 0.2, 0.25, 1.0, 0.3]
    assert Paper().size(network()) == 6
    np.testing.assert_allclose(Paper()(moment(), network()), expected, rtol=1e-6)


def test_the_better_observation_in_its_order() -> None:
    smooth = (log(10) + 1) / 2
    overall = (0.2 * 108 + 0.25 * 160) / 268
    expected = [-0.6, -0.4, -0.6, -0.5, smooth / log(10) - 1, 2 * 0.2 - 1, -0.5, 1.0, smooth - log(10), 2 * overall - 1]
    assert Plus().size(network()) == 10
    np.testing.assert_allclose(Plus()(moment(), network()), expected, rtol=1e-6)


def test_before_the_first_decision_the_middle_stands_for_densities() -> None:
    begun = Moment.first(Measured(1e9, 0.1), network())
    assert Plus()(begun, network())[:5].tolist() == pytest.approx([-0.49] * 4 + [2.0])
    assert Paper()(begun, network())[4] == 10.0


def test_the_observation_by_layer_and_its_padding() -> None:
    observe = Layerwise(3)
    found = observe(moment(), network())
    assert found.shape == (observe.size(network()),) == (3 * 16 + 5,)
    rows, counts, shared = np.split(found, [3 * FEATURES, 3 * FEATURES + 3])
    first, second, third = rows.reshape(3, FEATURES)
    fans = [np.log10(27) / 5, np.log10(36) / 5]
    expected = [1, 0, 1, 0, 0, np.log10(108) / 8, *fans, 108 / 268, 0.9, 0.01, 0.5, 0.2, 0.2, 0.8]
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    assert second[:5].tolist() == [0, 1, 0, 1, 1]
    assert not third.any()
    assert counts.tolist() == [1, 1, 0]
    np.testing.assert_allclose(shared, Plus()(moment(), network())[[6, 4, 5, 7, 9]])


def test_rewards() -> None:
    outcome = Outcome(accuracy=0.5, before=0.4, density=0.35, operations=0.2)
    assert accuracy(outcome) == 0.5
    assert delta(outcome) == pytest.approx(1.0)
    assert Budget(0.25)(outcome) == pytest.approx(0.9)
    assert Budget(0.5, operations=2.0)(outcome) == pytest.approx(0.6)
