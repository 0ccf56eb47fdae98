"""The environment: an episode is one training, an action sets the density of every layer."""

import math
import time
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from prunus.learned.actions import Actions
from prunus.learned.episode import Episode, Layer, Make, Measured
from prunus.learned.generators import Generators
from prunus.learned.log import Log
from prunus.learned.network import Network, Values
from prunus.learned.observations import LIMIT, Moment, Observation, Observe, Plus
from prunus.learned.rewards import Outcome, Reward, delta
from prunus.training import NonFiniteLossError

DIVERGED = -1.0  # the reward of the decision whose loss was not finite
Action = NDArray[np.float32]


class SparsityEnv(gymnasium.Env[Observation, Action]):
    """Trainings whose densities are decided between their steps (Tessera et al. 2022, Sec. 2).

    ``make`` builds a fresh network and its training for a seed. ``low`` and ``high`` bound densities: of all layers, or
    one each. ``actions``, ``observe`` and ``reward`` are what an action means, what a policy sees, and what it is paid
    for. An action holds for ``hold`` updates of the masks. The training ends with the last: an episode is terminated,
    never truncated. One whose loss is no longer finite ends there, with reward -1.

    `reset` takes the seed of the network from ``options={"network": seed}``, or else draws one. All that it returns
    depends on that seed and the actions alone; `log` has the time as well.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as gymnasium has it

    def __init__(
        self,
        make: Make,
        *,
        low: float | tuple[float, ...] = 0.01,
        high: float | tuple[float, ...] = 1.0,
        actions: Actions = Actions(),  # noqa: B008  # frozen
        observe: Observe = Plus(),  # noqa: B008
        reward: Reward = delta,
        hold: int = 1,
    ) -> None:
        if hold < 1:
            raise ValueError(f"an action holds for at least one update, got {hold}")
        self._make, self._actions, self._observe, self._reward, self._hold = make, actions, observe, reward, hold
        with Generators(0).use():
            first = make(0)
        self.network = Network.of(first, low, high)
        actions.check(self.network)
        self.updates = first.decisions
        self.steps = math.ceil(first.decisions / hold)  # actions in an episode
        width, size = observe.width(self.network), observe.size(self.network)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (width,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (size,), np.float32)
        self._episode: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A fresh network, untrained and dense, and what held-out data say of it."""
        super().reset(seed=seed)
        chosen = (options or {}).get("network")
        network_seed = int(self.np_random.integers(2**31)) if chosen is None else int(chosen)
        began = time.perf_counter()
        self._generators = Generators(network_seed)
        with self._generators.use():
            self._episode = self._make(network_seed)
            measured = self._episode.measure()
        self._moment = Moment.first(measured, self.network)
        self._densities: Values | None = None
        self._active = np.ones(len(self.network.names))
        self.log = Log(network_seed, self.network.names, seconds=time.perf_counter() - began)
        return self._observe(self._moment, self.network), {"seed": network_seed, **measured._asdict()}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide, train, measure. Raises ValueError for NaN; what is outside [-1, 1] is clipped and counted."""
        episode = self._running()
        began = time.perf_counter()
        asked = self._checked(action)
        with self._generators.use():
            measured = self._train_(episode, asked)
        layers = episode.layers()
        reward = self._reward(self._outcome(measured, layers)) if measured else DIVERGED
        self._look_(episode, measured or self._moment.measured, layers)
        done = measured is None or episode.number == episode.decisions
        info = self._info(episode, layers)
        self.log.rewards.append(reward)
        self.log.steps.append(self._info(episode, layers))  # not the same objects: the caller may change its own
        self.log.seconds += time.perf_counter() - began
        if done:
            self._episode = None
        return self._observe(self._moment, self.network), reward, done, False, info

    def _running(self) -> Episode:
        if self._episode is None:
            raise RuntimeError("an episode must be begun before its decisions, and ends with the last; call reset()")
        return self._episode

    def _checked(self, action: Action) -> Values:
        layers = len(self.network.names)
        asked = np.asarray(action, np.float64)
        if asked.shape != self.action_space.shape or np.isnan(asked[:layers]).any():
            raise ValueError(f"an action is a number in [-1, 1] for each of {layers} layers, got {action}")
        asked = asked[:layers]
        self.log.clipped += int((np.abs(asked) > 1.0).sum())
        return asked

    def _train_(self, episode: Episode, action: Values) -> Measured | None:
        """The updates and steps of one action; what was measured at their end, None where the loss was not finite."""
        try:
            for _ in range(min(self._hold, episode.decisions - episode.number)):
                self._densities = densities = self._actions(action, self._densities, self.network)
                row = densities.tolist()
                self.log.densities.append(row)
                episode.decide_(dict(zip(self.network.names, row, strict=True)))
                episode.train_()
            measured = episode.measure()
        except NonFiniteLossError:
            measured = None
        self.log.diverged = measured is None or not math.isfinite(measured.loss)
        return None if self.log.diverged else measured

    def _outcome(self, measured: Measured, layers: dict[str, Layer]) -> Outcome:
        active = np.array([layer.active for layer in layers.values()])
        kept = float(active @ self.network.shares)
        before = self._moment.measured.accuracy
        return Outcome(measured.accuracy, before, self.network.overall(active), kept)

    def _look_(self, episode: Episode, measured: Measured, layers: dict[str, Layer]) -> None:
        assert self._densities is not None
        active, nonzero = (np.array(column) for column in zip(*((a, d) for a, d, _ in layers.values()), strict=True))
        churn, self._active = np.abs(active - self._active), active
        progress = episode.number / episode.decisions
        self._moment = self._moment.then(
            measured, decided=self._densities, nonzero=nonzero, churn=churn, progress=progress
        )

    def _info(self, episode: Episode, layers: dict[str, Layer]) -> dict[str, Any]:
        dense, sparse = episode.flops()
        return {
            **self._moment.measured._asdict(),
            "decided": dict(zip(self.network.names, self.log.densities[-1], strict=True)),
            "active": {name: layer.active for name, layer in layers.items()},
            "nonzero": {name: layer.nonzero for name, layer in layers.items()},
            "n_active": {name: layer.kept for name, layer in layers.items()},
            "train_steps": episode.training.taken,
            "dense_flops": dense,
            "sparse_flops": sparse,
            "seed": self.log.seed,
            "clipped": self.log.clipped,
            "diverged": self.log.diverged,
        }
