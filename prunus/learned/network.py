"""What stays the same in all episodes of one kind: the layers of the network and the densities allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from prunus.learned.episode import Episode

Values = NDArray[np.float64]  # one number a layer


@dataclass(frozen=True, eq=False)
class Network:
    """The prunable layers in order: shapes, shares of the multiply-adds of a forward pass, bounds of density.

    ``classes`` is how many classes the network tells apart.
    """

    shapes: Mapping[str, tuple[int, ...]]
    shares: Values
    low: Values
    high: Values
    classes: int

    @classmethod
    def of(cls, episode: Episode, low: float | tuple[float, ...], high: float | tuple[float, ...]) -> "Network":
        """That of an episode, with bounds for all layers or one for each. Raises ValueError for impossible bounds."""
        shapes = {name: tuple(weight.shape) for name, weight in episode.weights.items()}
        whole = episode.operations.whole
        shares = np.array([episode.operations.layers[name] / whole for name in shapes])
        return cls(shapes, shares, *_bounds(low, high, len(shapes)), episode.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers."""
        return tuple(self.shapes)

    @property
    def sizes(self) -> Values:
        """How many weights each layer has."""
        return np.array([float(prod(shape)) for shape in self.shapes.values()])

    @property
    def middle(self) -> Values:
        """Densities halfway between the bounds, which stand for those before the first decision."""
        return (self.low + self.high) / 2

    def overall(self, densities: Values) -> float:
        """The density of the whole network."""
        return float(densities @ self.sizes / self.sizes.sum())


def _bounds(low: float | tuple[float, ...], high: float | tuple[float, ...], layers: int) -> tuple[Values, Values]:
    for bound in (low, high):
        if isinstance(bound, tuple) and len(bound) != layers:
            raise ValueError(f"bounds must be one number, or one for each of {layers} layers, got {len(bound)}")
    lowest, highest = (np.broadcast_to(np.asarray(bound, np.float64), layers) for bound in (low, high))
    if not ((lowest >= 0) & (lowest <= highest) & (highest <= 1)).all():
        raise ValueError(f"densities need 0 <= low <= high <= 1, got {low} and {high}")
    return lowest, highest
