"""Observations: what a policy sees of a training, as a vector of float32 in [-10, 10]."""

from dataclasses import dataclass
from math import log, log10, prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prunus.learned.episode import Measured
from prunus.learned.network import Network, Values

Observation = NDArray[np.float32]
LIMIT = 10.0
FEATURES = 15  # of a layer, in the observation of the policy that layers share
GLOBALS = 5  # beside them


@dataclass(frozen=True)
class Moment:
    """A training between two decisions: densities decided, densities of non-zero weights, held-out loss and accuracy.

    ``smooth`` are averages of loss and accuracy in which the newest counts half, ``change`` what the newest added to
    them. ``progress`` is the share of decisions made, ``churn`` the share of each layer's mask that the last changed.
    """

    decided: Values
    nonzero: Values
    measured: Measured
    smooth: Measured
    change: Measured
    progress: float
    churn: Values

    @classmethod
    def first(cls, measured: Measured, network: Network) -> "Moment":
        """Before the first decision, of the untrained network."""
        nothing = np.zeros(len(network.names))
        return cls(network.middle, network.middle, measured, measured, Measured(0.0, 0.0), 0.0, nothing)

    def then(self, measured: Measured, *, decided: Values, nonzero: Values, churn: Values, progress: float) -> "Moment":
        """The moment after the next decision and its steps."""
        smooth = Measured(*(0.5 * old + 0.5 * new for old, new in zip(self.smooth, measured, strict=True)))
        change = Measured(*(new - old for old, new in zip(self.smooth, smooth, strict=True)))
        return Moment(decided, nonzero, measured, smooth, change, progress, churn)


class Observe(Protocol):
    """A kind of observation."""

    def size(self, network: Network) -> int:
        """How many numbers it has."""

    def width(self, network: Network) -> int:
        """How many numbers an action has."""

    def __call__(self, moment: Moment, network: Network) -> Observation:
        """The observation."""


@dataclass(frozen=True)
class Paper:
    """Densities decided, densities of non-zero weights, loss, accuracy, all raw: 2L + 2 (Tessera et al. 2022)."""

    def size(self, network: Network) -> int:
        """2L + 2."""
        return 2 * len(network.names) + 2

    def width(self, network: Network) -> int:
        """One a layer."""
        return len(network.names)

    def __call__(self, moment: Moment, network: Network) -> Observation:
        return _bounded([*moment.decided, *moment.nonzero, *moment.measured])


@dataclass(frozen=True)
class Plus:
    """The paper's, each about in [-1, 1], with the progress, the newest changes and the overall density: 2L + 6.

    In order: 2A - 1 (L), 2D - 1 (L), min(loss / ln C, 3) - 1, 2 acc - 1, 2k/K - 1, 10 Δacc, Δloss, 2d - 1. Loss and
    accuracy are the smooth ones, changes lie in [-1, 1].
    """

    def size(self, network: Network) -> int:
        """2L + 6."""
        return 2 * len(network.names) + 6

    def width(self, network: Network) -> int:
        """One a layer."""
        return len(network.names)

    def __call__(self, moment: Moment, network: Network) -> Observation:
        changes = (10 * moment.change.accuracy, moment.change.loss)
        return _bounded(
            [
                *(2 * moment.decided - 1),
                *(2 * moment.nonzero - 1),
                *_state(moment, network),
                2 * moment.progress - 1,
                *np.clip(changes, -1.0, 1.0),
                2 * network.overall(moment.nonzero) - 1,
            ]
        )


@dataclass(frozen=True)
class Layerwise:
    """Each layer by itself, for a policy that layers share: ``most`` rows of 15 features, which rows count, 5 globals.

    Row by row: is a convolution, is linear, is first, is last, place in [0, 1], log10 of weights / 8, of fan-in / 5, of
    fan-out / 5, share of weights, share of operations, lowest and highest density, density decided, density of
    non-zero weights, share of the mask that changed. Rows beyond the layers are zero, and 0 says that they do not
    count. The globals: progress, loss, accuracy, Δacc, overall density, as in `Plus`.
    """

    most: int

    def size(self, network: Network) -> int:
        """16 ``most`` + 5. Raises ValueError for a network of more layers."""
        return (FEATURES + 1) * self.width(network) + GLOBALS

    def width(self, network: Network) -> int:
        """``most``."""
        if len(network.names) > self.most:
            raise ValueError(f"most must be at least the {len(network.names)} layers of the network, got {self.most}")
        return self.most

    def __call__(self, moment: Moment, network: Network) -> Observation:
        rows = np.zeros((self.most, FEATURES))
        layers = len(network.names)
        changing = (moment.decided, moment.nonzero, moment.churn)
        rows[:layers] = np.column_stack([_features(network), network.low, network.high, *changing])
        counts = np.arange(self.most) < layers
        shared = (
            2 * moment.progress - 1,
            *_state(moment, network),
            np.clip(10 * moment.change.accuracy, -1.0, 1.0),
            2 * network.overall(moment.nonzero) - 1,
        )
        return _bounded([*rows.ravel(), *counts, *shared])


def _state(moment: Moment, network: Network) -> tuple[float, float]:
    loss = min(moment.smooth.loss / log(network.classes), 3.0) - 1
    return loss, 2 * moment.smooth.accuracy - 1


def _features(network: Network) -> Values:
    """What of a layer does not change, (layers, 10)."""
    shapes, whole = list(network.shapes.values()), network.sizes.sum()
    last = len(shapes) - 1
    return np.array(
        [
            [
                len(shape) > 2,
                len(shape) == 2,
                place == 0,
                place == last,
                place / last if last else 0.0,
                log10(prod(shape)) / 8,
                log10(prod(shape[1:])) / 5,
                log10(shape[0] * prod(shape[2:])) / 5,
                prod(shape) / whole,
                share,
            ]
            for place, (shape, share) in enumerate(zip(shapes, network.shares, strict=True))
        ],
        dtype=np.float64,
    )


def _bounded(values: list[float]) -> Observation:
    return np.clip(np.array(values, dtype=np.float32), -LIMIT, LIMIT)
