"""Curricula: the agents that are called by a name, and how each of them learns."""

from dataclasses import dataclass

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from prunus.learned.observations import Layerwise, Observe, Paper, Plus
from prunus.learned.settings import Settings, paper, plus
from prunus.learned.shared_policy import SharedPolicy


@dataclass(frozen=True)
class Curriculum:
    """How an agent learns: its settings, what it sees and is paid for, its policy, and how many learn together."""

    settings: Settings
    observe: Observe
    reward: str
    policy: type[BasePolicy]
    environments: int


def curriculum(agent: str, *, decisions: int, trainings: int, layers: int, reward: str) -> Curriculum:
    """That of ``ppo``, ``ppo-paper`` or ``ppo-shared``, for a network of so many layers.

    The paper's has an observation and a reward of its own, and one environment. Others have two where the trainings are
    even: episodes of two end together, and one too many would be learned from.
    """
    if agent == "ppo-paper":
        return Curriculum(paper(), Paper(), "acc", ActorCriticPolicy, environments=1)
    environments = 1 if trainings % 2 else 2  # whatever the number of processes, which changes nothing
    shared = agent == "ppo-shared"
    settings = plus(decisions, trainings, reward=reward, shared=shared)
    if shared:
        return Curriculum(settings, Layerwise(layers), reward, SharedPolicy, environments)
    return Curriculum(settings, Plus(), reward, ActorCriticPolicy, environments)
