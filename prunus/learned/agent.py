"""The agent: PPO by stable-baselines3, for a number of trainings, going on where it was stopped."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.utils import LinearSchedule

from prunus.learned.generators import Generators, set_states_, states
from prunus.learned.past import Past
from prunus.learned.settings import Settings
from prunus.learned.vector import Episodes
from prunus.storage import write_atomically, write_with

FORMAT = "prunus-agent/2"
CHECKPOINT, EPISODES, PAST = "agent.pt", "episodes.jsonl", "past"
Record = dict[str, Any]
Hear = Callable[[Record], None]


@dataclass(frozen=True)
class Learned:
    """A policy, the episodes that it learned from, each as one line of JSON has it, and how often it was updated."""

    policy: BasePolicy
    episodes: list[Record]
    updates: int


def learn(
    environments: Episodes,
    trainings: int,
    settings: Settings,
    *,
    decisions: int,
    folder: Path | None = None,
    policy: type[BasePolicy] = ActorCriticPolicy,
    seed: int = 0,
    hear: Hear = lambda record: None,
) -> Learned:
    """Learn a policy from exactly ``trainings`` episodes of so many ``decisions``.

    ``hear`` gets the record of each episode as it ends, with its number as "episode". In ``folder`` a checkpoint is
    written after every rollout, with the records up to then beside it as JSON lines, and every episode that has ended
    since; called again with the same arguments, it goes on from there, bit for bit: those episodes are heard of again
    and not run again. Raises ValueError for a checkpoint of other arguments.
    """
    if trainings < 1:
        raise ValueError(f"an agent learns from at least one training, got {trainings}")
    told = json.dumps([asdict(settings), trainings, decisions, seed, policy.__name__])
    with Generators(seed).use():  # stable-baselines3 draws from the global ones
        model = _ppo(environments, settings, policy, seed)
        count = _Count(trainings, hear)
        held = None
        if folder is not None:
            environments.past, held = Past(folder / PAST), _load(folder, told)
        _begin_(model, count, trainings * decisions, held)

        def save() -> None:
            if folder is not None:
                _save(folder, model, count, told)

        if held is None:
            save()
        while not count.done and model.collect_rollouts(environments, count, model.rollout_buffer, model.n_steps):
            left = 1 - model.num_timesteps / (trainings * decisions)
            model._current_progress_remaining = max(0.0, left)
            model.train()
            count.updates += 1
            save()
        save()
    return Learned(model.policy, count.episodes, count.updates)


class _Count(BaseCallback):
    """Keeps the records of episodes as they end, and says when there are enough."""

    def __init__(self, trainings: int, hear: Hear) -> None:
        super().__init__()
        self.trainings, self.hear = trainings, hear
        self.episodes: list[Record] = []
        self.updates = 0

    @property
    def done(self) -> bool:
        return len(self.episodes) >= self.trainings

    def _on_step(self) -> bool:
        for info, ended in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if ended and not self.done:
                record = {"episode": len(self.episodes), **(info["record"] or {})}
                self.episodes.append(record)
                self.hear(record)
        assert isinstance(self.model, PPO)
        full = self.model.rollout_buffer.pos == self.model.n_steps - 1  # with this decision: worth an update
        return not self.done or full


def _ppo(environments: Episodes, settings: Settings, policy: type[BasePolicy], seed: int) -> PPO:
    rate = settings.learning_rate
    return PPO(
        cast(type[ActorCriticPolicy], policy),
        environments,
        learning_rate=LinearSchedule(rate, 0.0, 1.0) if settings.linear else rate,
        n_steps=settings.steps(environments.num_envs),
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip,
        ent_coef=settings.entropy,
        vf_coef=settings.value,
        max_grad_norm=settings.gradient_norm,
        target_kl=settings.target_kl,
        policy_kwargs={"net_arch": list(settings.hidden), "log_std_init": settings.log_deviation},
        seed=seed,
        device="cpu",
    )


def _begin_(model: PPO, count: _Count, total: int, held: dict[str, Any] | None) -> None:
    """Where nothing is held, the first episodes; else back to the end of the rollout after which it was saved."""
    environments = model.env
    assert isinstance(environments, Episodes)
    if held is None:
        model._setup_learn(total, count)
        return
    model.policy.load_state_dict(held["policy"])
    model.policy.optimizer.load_state_dict(held["optimizer"])
    model.num_timesteps, count.episodes, count.updates = held["decisions"], held["episodes"], held["updates"]
    if count.done:
        return
    model._last_obs = environments.restore_(held["environments"])
    model._last_episode_starts = np.array(held["starts"])
    model._setup_learn(total, count, reset_num_timesteps=False)
    set_states_(held["generators"])


def _save(folder: Path, model: PPO, count: _Count, told: str) -> None:
    environments, starts = model.env, model._last_episode_starts
    assert isinstance(environments, Episodes)
    state = {
        "format": FORMAT,
        "told": told,
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "decisions": model.num_timesteps,
        "episodes": count.episodes,
        "updates": count.updates,
        "environments": environments.state(),
        "starts": [] if starts is None else starts.tolist(),
        "generators": states(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / EPISODES, "".join(f"{json.dumps(record)}\n" for record in count.episodes))
    write_with(folder / CHECKPOINT, lambda file: torch.save(state, file))
    if environments.past is not None:
        environments.past.forget_()


def _load(folder: Path, told: str) -> dict[str, Any] | None:
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if (state["format"], state["told"]) != (FORMAT, told):
        raise ValueError(
            f"{path} must be of the same learning to go on with, got one of {state['told']}, here {told}; choose "
            "another folder, or remove it to begin anew"
        )
    return state
