"""The agent and its workers: a death, of theirs or of ours, changes nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic import Arithmetic
from cases import equal
from episodes import environment
from stable_baselines3.common.buffers import RolloutBuffer

from prunus.learned.agent import CHECKPOINT, EPISODES, PAST, Learned, learn
from prunus.learned.observations import Layerwise
from prunus.learned.rollouts import closed_loop
from prunus.learned.settings import Settings, paper, plus
from prunus.learned.shared_policy import SharedPolicy
from prunus.learned.vector import Episodes
from prunus.learned.workers import Worker

SMALL = replace(plus(5, 12), rollout=16, batch_size=8, epochs=2, hidden=(8,))
KEPT = ("episode", "seed", "return", "densities")


class Killed(BaseException):
    """What ends a process."""


def walk(episodes: Episodes, count: int, first: int = 0) -> list[tuple[Any, ...]]:
    """What so many decisions come to, each by its number."""
    found = []
    for number in range(first, first + count):
        actions = np.random.default_rng(number).uniform(-1, 0.9, (episodes.num_envs, 2)).astype(np.float32)
        observations, rewards, dones, infos = episodes.step(actions)
        found.append((observations.tolist(), rewards.tolist(), dones.tolist(), [info["seed"] for info in infos]))
    return found


def test_networks_are_numbered_in_the_order_of_episodes() -> None:
    episodes = Episodes([Arithmetic, Arithmetic], first=3)
    episodes.reset()
    seeds = [seeds for *_, seeds in walk(episodes, 15)]
    assert seeds[::5] == [[3, 4], [5, 6], [7, 8]]


def test_a_worker_killed_in_an_episode_changes_nothing() -> None:
    alone, others = Episodes([Arithmetic] * 3), Episodes([Arithmetic] * 3, workers=2)
    try:
        assert np.array_equal(alone.reset(), others.reset())
        assert walk(alone, 7) == walk(others, 7)
        worker = others.hosts[1]
        assert isinstance(worker, Worker)
        before = worker.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        assert walk(alone, 6, 7) == walk(others, 6, 7)
        assert worker.pid != before
        with pytest.raises(ValueError, match="exactly one half is not for this environment"):
            others.step(np.full((3, 2), 0.5, np.float32))
    finally:
        others.close()


@pytest.mark.slow
def test_a_worker_killed_in_a_training_changes_nothing() -> None:
    def walked(workers: int, fatal: int | None) -> list[Any]:
        episodes = Episodes([environment] * 2, workers=workers)
        found: list[Any] = [episodes.reset().tolist()]
        for number in range(7):
            if number == fatal:
                host = episodes.hosts[1]
                assert isinstance(host, Worker)
                assert host.pid is not None
                os.kill(host.pid, signal.SIGKILL)
            actions = np.random.default_rng(number).uniform(-1, 1, (2, 3)).astype(np.float32)
            observations, rewards, dones, infos = episodes.step(actions)
            for info in infos:
                (info.get("record") or {}).pop("seconds", None)
            found.append((observations.tolist(), rewards.tolist(), dones.tolist(), str(infos)))
        episodes.close()
        return found

    assert walked(2, 6) == walked(2, None) == walked(0, None)


def test_a_state_restores_episodes_under_way() -> None:
    undisturbed, restored = Episodes([Arithmetic] * 2), Episodes([Arithmetic] * 2)
    undisturbed.reset()
    walk(undisturbed, 7)
    state = json.loads(json.dumps(undisturbed.state()))
    expected = walk(undisturbed, 1, 6)  # what was seen last is not in the state: it follows
    assert np.array_equal(restored.restore_(state), restored.restore_(state))
    assert walk(restored, 1, 6) == expected
    with pytest.raises(ValueError, match="of 2 environments, here are 1"):
        Episodes([Arithmetic]).restore_(state)


def test_environments_together_have_the_same_spaces() -> None:
    with pytest.raises(ValueError, match="same spaces"):
        Episodes([environment, partial(environment, widths=(8, 5, 5))])
    with pytest.raises(ValueError, match="of which there is one or more"):
        Episodes([Arithmetic], workers=2)


def learned(makes: list[Any], folder: Path | None = None, fatal: int | None = None, **changes: Any) -> Learned:
    """A policy of 12 episodes; with ``fatal``, killed when that episode ends."""

    def hear(record: dict[str, Any]) -> None:
        if record["episode"] == fatal:
            raise Killed

    arguments: dict[str, Any] = {"trainings": 12, "settings": SMALL, "decisions": 5} | changes
    return learn(Episodes(makes), folder=folder, hear=hear, **arguments)


def outcome(learned: Learned) -> list[Any]:
    records = [{key: record.get(key) for key in KEPT} for record in learned.episodes]
    return [dict(learned.policy.state_dict()), records]


def test_a_learning_killed_and_resumed_is_the_undisturbed_one(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        learned([Arithmetic] * 2, tmp_path, fatal=4)
    assert len((tmp_path / EPISODES).read_text().splitlines()) == 2
    resumed = learned([Arithmetic] * 2, tmp_path)
    assert equal(outcome(resumed), outcome(learned([Arithmetic] * 2)))
    assert equal(outcome(learned([Arithmetic] * 2, tmp_path, fatal=0)), outcome(resumed))  # nothing is left to do


@pytest.mark.parametrize(("fatal", "ended"), [(1, {0, 1}), (4, {2, 3, 4, 5}), (7, {6, 7})])
def test_an_episode_that_has_ended_is_not_run_again(fatal: int, ended: set[int], tmp_path: Path) -> None:
    begun: list[int] = []

    class Counted(Arithmetic):
        def reset(self, **kwargs: Any) -> Any:
            begun.append(kwargs["options"]["network"])
            return super().reset(**kwargs)

    with pytest.raises(Killed):
        learned([Counted] * 2, tmp_path, fatal=fatal)
    assert {int(path.stem.split("-")[1]) for path in (tmp_path / PAST).iterdir()} == ended, "those since it was saved"
    begun.clear()
    with pytest.raises(Killed):  # and once more, amid what was restored
        learned([Counted] * 2, tmp_path, fatal=fatal + 2)
    resumed = learned([Counted] * 2, tmp_path)
    assert not ended & set(begun)
    assert equal(outcome(resumed), outcome(learned([Arithmetic] * 2)))
    assert not any((tmp_path / PAST).iterdir()), "all is in the checkpoint"


def test_a_learning_of_real_trainings_resumes_in_an_episode(tmp_path: Path) -> None:
    changes = {"trainings": 5, "decisions": 4, "settings": replace(SMALL, rollout=6, batch_size=6)}
    with pytest.raises(Killed):
        learned([environment], tmp_path, fatal=2, **changes)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["environments"]["places"][0]["actions"]
    resumed = learned([environment], tmp_path, **changes)
    assert [record["seed"] for record in resumed.episodes] == list(range(5))
    assert equal(outcome(resumed), outcome(learned([environment], **changes)))


def test_a_checkpoint_of_other_arguments_is_refused(tmp_path: Path) -> None:
    learned([Arithmetic], tmp_path, trainings=2)
    with pytest.raises(ValueError, match="of the same learning"):
        learned([Arithmetic], tmp_path, trainings=3)
    with pytest.raises(ValueError, match="at least one training"):
        learned([Arithmetic], trainings=0)


@pytest.mark.parametrize(("trainings", "environments"), [(1, 1), (3, 2), (16, 1)])
def test_an_agent_learns_from_exactly_so_many_episodes(trainings: int, environments: int) -> None:
    found = learned([Arithmetic] * environments, trainings=trainings)
    assert [record["episode"] for record in found.episodes] == list(range(trainings))


def test_the_last_full_rollout_counts() -> None:
    settings = replace(SMALL, rollout=10, batch_size=10, linear=False)
    one, two = (learned([Arithmetic], trainings=count, settings=settings) for count in (2, 4))
    assert not equal(outcome(one)[0], outcome(two)[0])
    assert not equal(outcome(one)[0], outcome(learned([Arithmetic], trainings=1, settings=settings))[0])


def test_an_agent_leaves_the_generators_of_others_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    learned([Arithmetic], trainings=1)
    assert torch.equal(torch.rand(2), expected)


def test_an_agent_learns() -> None:
    """The reward is highest at 0; policies begin near it, so the start is moved away."""
    settings = replace(plus(5, 60), rollout=40, batch_size=40, learning_rate=1e-2, linear=False, hidden=(8,))
    found = learned([Arithmetic], trainings=80, settings=settings)
    action, _ = found.policy.predict(np.array([0.9, 0.9], np.float32), deterministic=True)
    assert (action < -0.05).all()


def test_the_papers_advantages_are_one_step_errors() -> None:
    settings = paper()
    episodes = Episodes([Arithmetic])
    buffer = RolloutBuffer(
        4, episodes.observation_space, episodes.action_space, "cpu", settings.gae_lambda, settings.gamma
    )
    values = [0.5, 0.4, 0.3, 0.2]
    for value, reward, start in zip(values, [1.0, 2.0, 3.0, 4.0], [True, False, False, True], strict=True):
        scalar = torch.tensor([value])
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.array([reward]), np.array([start]), scalar, scalar)
    buffer.compute_returns_and_advantage(torch.tensor([0.7]), np.array([False]))
    following = [0.99 * 0.4, 0.99 * 0.3, 0.0, 0.99 * 0.7]
    expected = [r + f - v for r, f, v in zip([1.0, 2.0, 3.0, 4.0], following, values, strict=True)]
    np.testing.assert_allclose(buffer.advantages[:, 0], expected, rtol=1e-6)


def test_the_papers_settings() -> None:
    settings = paper()
    assert (settings.steps(1), settings.batch_size, settings.epochs) == (64, 64, 1)
    assert 351 // settings.rollout == 5  # updates of an episode of the paper; the rest is carried over
    assert (settings.gamma, settings.learning_rate, settings.entropy, settings.value) == (0.99, 1e-3, 0.01, 1.0)
    assert np.exp(settings.log_deviation) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("settings", "environments", "steps", "rate", "gamma"),
    [
        (plus(50, 50), 1, 128, 3e-3, 0.95),
        (plus(78, 100), 2, 96, 1e-3, 0.95),
        (plus(351, 50, reward="acc"), 1, 704, 1e-3, 0.99),
    ],
)
def test_the_better_settings(settings: Settings, environments: int, steps: int, rate: float, gamma: float) -> None:
    assert settings.steps(environments) == steps
    assert (settings.learning_rate, settings.gamma, settings.target_kl) == (rate, gamma, 0.05)


def spaces(most: int) -> tuple[Any, Any]:
    env = environment(observe=Layerwise(most))
    return env.observation_space, env.action_space


def shared(most: int) -> SharedPolicy:
    torch.manual_seed(1)
    policy = SharedPolicy(*spaces(most), lambda _: 1e-3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def seen(most: int) -> torch.Tensor:
    env = environment(observe=Layerwise(most))
    env.reset(options={"network": 0})
    action = np.zeros(most, np.float32)
    action[:2] = -0.5, 0.5
    return torch.tensor(env.step(action)[0])[None]


def test_padding_changes_nothing_and_layers_are_equal_before_the_policy() -> None:
    tight, wide = shared(3), shared(5)
    wide.load_state_dict(tight.state_dict())
    three, five = seen(3), seen(5)
    actions = torch.tensor([[0.3, -0.2, 0.7, 9.0, -9.0]])
    value, chance, entropy = tight.evaluate_actions(three, actions[:, :3])
    padded = wide.evaluate_actions(five, actions)
    torch.testing.assert_close(padded, (value, chance, entropy))
    each = tight.evaluate_actions(three, actions[:, :3])[1]
    assert not torch.equal(each, tight.evaluate_actions(three, actions[:, :3] + 0.1)[1])
    filled = five.clone()
    filled[:, 3 * 15 : 5 * 15] = 4.0  # what padding holds
    torch.testing.assert_close(wide.evaluate_actions(filled, actions), padded)
    assert wide(filled, deterministic=True)[0][0, 3:].tolist() == [0.0, 0.0]
    order = [2, 0, 1]
    rows = three[:, :45].view(1, 3, 15)[:, order].reshape(1, 45)
    turned = torch.cat([rows, three[:, 45:]], 1)
    torch.testing.assert_close(tight(turned, deterministic=True)[0], tight(three, deterministic=True)[0][:, order])
    torch.testing.assert_close(tight.predict_values(turned), tight.predict_values(three))


def test_log_probabilities_are_those_of_gaussians() -> None:
    policy, observation = shared(3), seen(3)
    means = policy(observation, deterministic=True)[0]
    actions = means + torch.tensor([[0.1, 0.2, -0.3]])
    gaussian = torch.distributions.Normal(means, policy.log_std.exp())
    _, chance, entropy = policy.evaluate_actions(observation, actions)
    torch.testing.assert_close(chance, gaussian.log_prob(actions).sum(1))
    torch.testing.assert_close(entropy, gaussian.entropy().sum(1))
    torch.manual_seed(0)
    drawn, _, likely = policy(observation)
    torch.testing.assert_close(likely, gaussian.log_prob(drawn).sum(1))


def test_a_policy_shared_by_layers_goes_from_two_layers_to_four() -> None:
    make = partial(environment, observe=Layerwise(4), widths=(5,))
    settings = replace(SMALL, rollout=6, batch_size=6, hidden=(8,))
    found = learned([make], trainings=3, decisions=4, settings=settings, policy=SharedPolicy)
    table = closed_loop(found.policy, environment(observe=Layerwise(4), widths=(8, 5, 5)), 1000).table()
    assert table.shape == (4, 4)
    assert len(np.unique(table)) > 4


def test_ppo_takes_the_shared_policy_of_two_networks() -> None:
    makes = [partial(environment, observe=Layerwise(4), widths=widths) for widths in ((5,), (8, 5, 5))]
    settings = replace(SMALL, rollout=8, batch_size=8)
    found = learned(makes, trainings=4, decisions=4, settings=settings, policy=SharedPolicy)
    assert {len(record["layers"]) for record in found.episodes} == {2, 4}


WORK = """
import sys, time
from prunus.learned.workers import Worker
if __name__ == "__main__":
    from arithmetic import Arithmetic
    worker = Worker({0: Arithmetic})
    print(worker.pid, flush=True)
    time.sleep(60)
"""


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(WORK)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['gymnasium'] = None\n"
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'gymnasium' else found(name)\n"
        "import prunus\n"
        "import prunus.learned.agent\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    expected = "ModuleNotFoundError: learning schedules needs gymnasium; pip install 'prunus[rl]'"
    assert done.stderr.strip().splitlines()[-1] == expected


def test_only_this_package_imports_what_the_extra_brings() -> None:
    package = Path(__file__).parents[1] / "prunus"
    wanted = re.compile(r"^\s*(import|from) (gymnasium|stable_baselines3|cloudpickle)", re.MULTILINE)
    found = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if wanted.search(path.read_text())}
    assert found == {"learned"}


@pytest.mark.parametrize(("trainings", "updates"), [(2, 0), (4, 1), (12, 3)])
def test_updates_are_whole_rollouts_and_counted_over_deaths(trainings: int, updates: int, tmp_path: Path) -> None:
    assert learned([Arithmetic] * 2, trainings=trainings).updates == updates
    with pytest.raises(Killed):
        learned([Arithmetic] * 2, tmp_path, fatal=trainings - 1, trainings=trainings)
    assert learned([Arithmetic] * 2, tmp_path, trainings=trainings).updates == updates
