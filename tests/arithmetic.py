"""An environment that is only arithmetic: quick to start in another process, for it loads no torch."""

from typing import Any

import gymnasium
import numpy as np


class Arithmetic(gymnasium.Env[Any, Any]):
    """Two numbers that follow the actions; an episode has five decisions."""

    action_space: Any = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    observation_space: Any = gymnasium.spaces.Box(-10, 10, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.network = (options or {"network": 0})["network"]
        self.log, self.trace = self, []
        self.taken, self.place = 0, np.full(2, 0.1 * (self.network % 5), np.float32)
        return self.place.copy(), {"seed": self.network}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action[0] == 0.5:
            raise ValueError("exactly one half is not for this environment")
        self.taken += 1
        self.trace.append(action.tolist())
        self.place = np.float32(0.5) * self.place + np.float32(0.5) * action
        return self.place.copy(), float(1 - np.square(self.place).sum()), self.taken == 5, False, {"seed": self.network}

    def record(self) -> dict[str, Any]:
        return {"seed": self.network, "densities": self.trace}
