"""From an action in [-1, 1] for each layer to a density for each layer."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunus.learned.network import Network, Values

DECIMALS = 6  # of a density, as many as the file of a learned schedule has
PATIENCE = 20  # scalings, each followed by the bounds, until densities fit the budget


@dataclass(frozen=True)
class Actions:
    """``(action, previous densities, network) -> densities``: -1 is the lowest density of a layer, 1 its highest.

    With ``step``, an action moves the previous density by as much at most, instead of setting it. ``smooth`` is the
    share of the previous density that stays. ``monotone`` lets densities only "grow" or only "shrink" after the first
    decision. ``budget`` bounds the density of the whole network: layers are scaled by one factor until it holds, which
    wins over growth. Before the first decision the middle of the bounds stands for the previous densities. Densities
    have six decimals, as the file of a schedule, so that it replays what was decided. Tessera et al. 2022, Eq. 1.

    >>> network = Network({"0.weight": (4, 4)}, np.ones(1), np.full(1, 0.01), np.full(1, 0.5), classes=2)
    >>> Actions()(np.array([0.0]), None, network)
    array([0.255])
    """

    step: float | None = None
    smooth: float = 0.0
    monotone: Literal["grow", "shrink"] | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.smooth < 1.0:
            raise ValueError(f"smooth is a share in [0, 1), got {self.smooth}; 0 follows every action at once")

    def __call__(self, action: Values, previous: Values | None, network: Network) -> Values:
        before = network.middle if previous is None else previous
        densities = self._asked(np.clip(action, -1.0, 1.0), before, network)
        densities = self.smooth * before + (1 - self.smooth) * densities
        if previous is not None and self.monotone is not None:
            densities = (np.maximum if self.monotone == "grow" else np.minimum)(previous, densities)
        return np.round(self._within_budget(densities, network), DECIMALS)

    def check(self, network: Network) -> None:
        """Raises ValueError where not even the lowest densities keep to the budget."""
        if self.budget is not None and network.overall(network.low) > self.budget:
            raise ValueError(
                f"a budget must leave room for the lowest densities, {network.overall(network.low):.4g} of all, "
                f"got {self.budget}; raise it, or lower the bounds"
            )

    def _asked(self, action: Values, before: Values, network: Network) -> Values:
        if self.step is not None:
            return np.clip(before + self.step * action, network.low, network.high)
        return network.low + 0.5 * (action + 1.0) * (network.high - network.low)

    def _within_budget(self, densities: Values, network: Network) -> Values:
        if self.budget is None:
            return densities
        for _ in range(PATIENCE):
            overall = network.overall(densities)
            if overall <= self.budget:
                break
            densities = np.clip(densities * self.budget / overall, network.low, network.high)
        return densities
