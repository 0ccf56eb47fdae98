"""What a policy does when it does not explore."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prunus.learned.environment import SparsityEnv
from prunus.learned.log import Log


class Policy(Protocol):
    """Something that predicts actions, as a policy of stable-baselines3 does."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[NDArray[Any], Any]:
        """The action for an observation, and a state."""


def closed_loop(policy: Policy, environment: SparsityEnv, seed: int) -> Log:
    """One episode on the network of ``seed``, each decision the mean action for what is seen at the time."""
    observation, _ = environment.reset(options={"network": seed})
    done = False
    while not done:
        action, _ = policy.predict(observation, deterministic=True)
        observation, _, done, _, _ = environment.step(np.asarray(action, np.float32))
    return environment.log
