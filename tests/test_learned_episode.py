"""Episodes: decisions are those of a schedule, bit for bit, and the environment is one of gymnasium's."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic import Arithmetic
from cases import equal, plain
from episodes import environment, make, points, trained
from gymnasium.utils.env_checker import check_env

from prunus.cadence import Decisions
from prunus.carriers import Masked
from prunus.criteria import magnitude, random
from prunus.learned.actions import Actions
from prunus.learned.environment import SparsityEnv
from prunus.learned.generators import Generators
from prunus.learned.log import Log, exported
from prunus.learned.observations import Layerwise, Paper
from prunus.learned.rewards import Budget, accuracy
from prunus.learned.rollouts import closed_loop
from prunus.methods import METHODS
from prunus.plans import ByLayer
from prunus.schedules import Table
from prunus.training import NonFiniteLossError
from prunus.updates import Resize

DROP = {"rp-rr": random, "mp-rr": magnitude}
SEED = 7
both = pytest.mark.parametrize("method", DROP)


def run_through(env: SparsityEnv, actions: list[list[float]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Masks and parameters after an episode."""
    env.reset(options={"network": SEED})
    episode = env._episode
    assert episode is not None
    for action in actions:
        *_, done, truncated, _ = env.step(np.array(action, np.float32))
    assert (done, truncated) == (True, False)
    return episode.sparsifier.masks, plain(episode.training.model)


def plainly(method: Masked, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same training by a method of its own, without decisions from outside."""
    with Generators(SEED).use():
        training, sparsifier = trained(SEED, method, **changes)
        training.run()
    return sparsifier.masks, plain(training.model)


@both
@pytest.mark.parametrize("rescale", [False, True])
def test_a_constant_action_is_the_method_without_a_schedule(method: str, rescale: bool) -> None:
    found = run_through(environment(method=method, low=0.0, rescale=rescale), [[-0.5] * 3] * 4)
    constant = METHODS[method](0.75, rescale=rescale)
    assert isinstance(constant, Masked)
    assert equal(list(found), list(plainly(constant)))


@both
@pytest.mark.parametrize("steps", [12, 14])
def test_the_table_of_an_episode_replays_bit_for_bit(method: str, steps: int) -> None:
    env = environment(method=method, steps=steps)
    actions = [[-0.9, 0.1, 0.3], [0.5, -0.8, 0.3], [-0.2, 0.9, 1.0], [0.1, 0.1, -1.0]]
    found = run_through(env, actions)
    table = env.log.table()
    assert table.shape == (4, 3)
    plan = ByLayer({name: Table(tuple(1 - table[:, place])) for place, name in enumerate(env.network.names)})
    assert equal(list(found), list(plainly(Masked(Resize(plan, DROP[method]), Decisions(3)), steps=steps)))


def test_the_steps_that_are_left_are_trained_by_the_last_decision() -> None:
    episode = make(0, steps=14, update_every=4)
    taken = []
    while episode.number < episode.decisions:
        episode.decide_(dict.fromkeys(episode.weights, 0.5))
        episode.train_()
        taken.append(episode.training.taken)
    assert taken == [4, 8, 14]


def test_batches_go_on_where_the_decision_before_left_them() -> None:
    episode, seen = make(0), []
    episode.training.batches = [points("list", number) for number in range(5)]
    episode.training.model.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].sum())))
    while episode.number < episode.decisions:
        episode.decide_(dict.fromkeys(episode.weights, 0.5))
        episode.train_()
    assert seen == [float(points("list", number % 5)[0].sum()) for number in range(12)]


def test_a_loss_is_looked_at_after_every_decision() -> None:
    episode = make(SEED, rate=1e30)
    episode.decide_(dict.fromkeys(episode.weights, 0.5))
    with pytest.raises(NonFiniteLossError, match="in the 3 steps before step 3"):
        episode.train_()


def test_a_method_that_follows_no_densities_is_refused() -> None:
    episode = make(SEED, method="set")
    with pytest.raises(ValueError, match=r"pass decided\(mp_rr\(0.5\)\)"):
        episode.decide_(dict.fromkeys(episode.weights, 0.5))


def test_an_episode_without_a_decision_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the 12 steps of the training, got 13"):
        make(0, update_every=13)


def test_it_is_an_environment_of_gymnasium() -> None:
    check_env(environment(), skip_render_check=True)
    check_env(environment(observe=Paper(), reward=accuracy), skip_render_check=True)
    check_env(environment(observe=Layerwise(5), hold=2), skip_render_check=True)


def test_what_a_step_tells() -> None:
    env = environment(low=0.0)
    env.reset(options={"network": SEED})
    observation, _, _, _, info = env.step(np.array([0.0, 0.5, -3.0], np.float32))
    assert info["decided"] == {"0.weight": 0.5, "3.weight": 0.75, "6.weight": 0.0}
    assert info["n_active"] == {"0.weight": 24, "3.weight": 30, "6.weight": 1}
    assert info["active"]["6.weight"] == 1 / 15
    assert (info["seed"], info["train_steps"], info["clipped"], info["diverged"]) == (SEED, 3, 1, False)
    assert info["dense_flops"] == 2 * 3 * 16 * 3 * (48 + 40 + 15)
    assert info["sparse_flops"] == 2 * 3 * 16 * 3 * (24 + 30 + 1)
    assert observation.dtype == np.float32
    json.dumps(env.log.record())


def test_an_action_held_is_decided_again_and_measured_once() -> None:
    env = environment(actions=Actions(smooth=0.5), hold=3)
    assert (env.steps, env.updates) == (2, 4)
    env.reset(options={"network": SEED})
    *_, first = env.step(np.ones(3, np.float32))
    *_, done, _, last = env.step(-np.ones(3, np.float32))
    assert (first["train_steps"], last["train_steps"], done) == (9, 12, True)
    assert len(env.log.densities) == 4
    np.testing.assert_allclose(np.diff(env.log.table()[:3, 0]), [0.12375, 0.061875], atol=1e-6)


def test_a_network_of_two_seeds_is_the_same_whatever_was_before_it() -> None:
    env, other = environment(), environment()
    run_through(env, [[0.9, -0.4, 0.2]] * 4)
    torch.rand(3)
    assert equal(list(run_through(env, [[0.1] * 3] * 4)), list(run_through(other, [[0.1] * 3] * 4)))


def test_an_episode_leaves_the_generators_of_others_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run_through(environment(), [[0.0] * 3] * 4)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_ends_the_episode() -> None:
    env = environment(rate=1e30)
    env.reset(options={"network": SEED})
    observation, reward, terminated, truncated, info = env.step(np.zeros(3, np.float32))
    assert (reward, terminated, truncated, info["diverged"]) == (-1.0, True, False, True)
    assert np.isfinite(observation).all()
    assert env.log.record()["diverged"]
    with pytest.raises(ValueError, match="diverged and is no schedule"):
        env.log.table()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(3, np.float32))
    env.reset()


@pytest.mark.parametrize("action", [[0.0, np.nan, 0.0], [0.0, 0.0]])
def test_actions_that_are_none_are_refused(action: list[float]) -> None:
    env = environment()
    env.reset()
    with pytest.raises(ValueError, match=r"a number in \[-1, 1\] for each of 3 layers"):
        env.step(np.array(action, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 0.5, "high": 0.2}, "0 <= low <= high <= 1"),
        ({"high": 1.5}, "0 <= low <= high <= 1"),
        ({"high": (0.5, 0.5)}, "one for each of 3 layers, got 2"),
        ({"hold": 0}, "at least one update"),
        ({"low": 0.2, "actions": Actions(budget=0.1)}, "room for the lowest densities"),
        ({"observe": Layerwise(2)}, "at least the 3 layers"),
    ],
)
def test_impossible_environments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environment(**changes)


def test_a_budget_is_kept_in_every_decision() -> None:
    env = environment(actions=Actions(budget=0.3), reward=Budget(0.3))
    env.reset(options={"network": SEED})
    for _ in range(4):
        *_, info = env.step(np.array([1.0, 0.2, -0.5], np.float32))
        assert sum(info["n_active"].values()) <= 0.3 * (48 + 40 + 15) + 2


class Steady:
    """A policy that always does the same."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        assert deterministic
        return np.array([0.5, 0.0, -0.5]), None


def test_a_schedule_is_the_mean_of_episodes() -> None:
    env = environment(low=0.0)
    logs = [closed_loop(Steady(), env, 2000), Log(1, env.network.names, [[0.25, 1.0, 0.25]] * 4)]
    assert logs[0].seed == 2000
    np.testing.assert_allclose(exported(logs), [[0.5, 0.75, 0.25]] * 4)
    with pytest.raises(ValueError, match="at least one episode"):
        exported([])


def test_the_arithmetic_environment_is_one() -> None:
    assert Arithmetic().reset()[0] in Arithmetic().observation_space
