"""One policy for all layers: the same small network looks at each, so that it fits networks of any depth."""

from collections.abc import Callable, Sequence
from functools import partial
from math import e, log, pi
from typing import Any

import gymnasium
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from prunus.learned.observations import FEATURES, GLOBALS


class SharedPolicy(BasePolicy):
    """The mean action of a layer from its features and the globals of `Layerwise`; the value from the mean of layers.

    All layers have one deviation. Rows that do not count get action 0 and enter neither log-probability nor entropy,
    nor the value. For stable-baselines3's PPO, in the place of an actor-critic policy.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Box,
        lr_schedule: Callable[[float], float],
        use_sde: bool = False,
        net_arch: Sequence[int] = (64, 64),
        log_std_init: float = -0.7,
    ) -> None:
        super().__init__(observation_space, action_space)
        assert not use_sde, "exploration is Gaussian"
        self.encoder = _perceptron(FEATURES + GLOBALS, net_arch)
        self.mean = nn.Linear(net_arch[-1], 1)
        self.value_encoder = _perceptron(FEATURES + GLOBALS, net_arch)
        self.value = nn.Sequential(_perceptron(net_arch[-1] + GLOBALS, net_arch[-1:]), nn.Linear(net_arch[-1], 1))
        self.log_std = nn.Parameter(torch.tensor(log_std_init))
        for module, gain in ((self, 2**0.5), (self.mean, 0.01), (self.value[-1], 1.0)):
            module.apply(partial(self.init_weights, gain=gain))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)

    def forward(self, observation: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (batch, rows), values (batch, 1) and the actions' log-probabilities (batch)."""
        rows, counts, shared = parts(observation)
        means = self._means(rows, shared)
        noise = 0.0 if deterministic else torch.randn_like(means) * self.log_std.exp()
        actions = (means + noise) * counts
        return actions, self._value(rows, counts, shared), self._log_chances(actions, means, counts)

    def evaluate_actions(self, observation: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (batch, 1), log-probabilities of the actions and entropies (batch)."""
        rows, counts, shared = parts(observation)
        chances = self._log_chances(actions, self._means(rows, shared), counts)
        entropy = (self.log_std + 0.5 * log(2 * pi * e)) * counts.sum(1)
        return self._value(rows, counts, shared), chances, entropy

    def predict_values(self, observation: Tensor) -> Tensor:
        """Values (batch, 1)."""
        return self._value(*parts(observation))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        actions: Tensor = self.forward(observation, deterministic)[0]
        return actions

    def _means(self, rows: Tensor, shared: Tensor) -> Tensor:
        means: Tensor = self.mean(self.encoder(_joined(rows, shared))).squeeze(2)
        return means

    def _log_chances(self, actions: Tensor, means: Tensor, counts: Tensor) -> Tensor:
        each = -0.5 * ((actions - means) / self.log_std.exp()) ** 2 - self.log_std - 0.5 * log(2 * pi)
        return (each * counts).sum(1)

    def _value(self, rows: Tensor, counts: Tensor, shared: Tensor) -> Tensor:
        each = self.value_encoder(_joined(rows, shared)) * counts.unsqueeze(2)
        value: Tensor = self.value(torch.cat([each.sum(1) / counts.sum(1, keepdim=True), shared], 1))
        return value


def parts(observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of observations of `Layerwise`: features (batch, rows, 15), which count (batch, rows), globals (batch, 5)."""
    most = (observation.shape[1] - GLOBALS) // (FEATURES + 1)
    rows, counts, shared = torch.split(observation.float(), [most * FEATURES, most, GLOBALS], 1)
    return rows.view(-1, most, FEATURES), counts, shared


def _joined(rows: Tensor, shared: Tensor) -> Tensor:
    return torch.cat([rows, shared.unsqueeze(1).expand(-1, rows.shape[1], -1)], 2)


def _perceptron(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(width, following), nn.Tanh()]
    return nn.Sequential(*layers)
