"""An episode: one training, whose masks somebody decides on between its steps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunus.cadence import Decisions, Never
from prunus.carriers import Masked
from prunus.evaluation import layer_costs
from prunus.masks import Weights, prunable
from prunus.operations import Operations
from prunus.plans import Fixed
from prunus.sparsifier import Sparsifier
from prunus.training import Step, Training
from prunus.updates import Resize


class Measured(NamedTuple):
    """What held-out images say of a network: mean loss in nats, accuracy in [0, 1]."""

    loss: float
    accuracy: float


class Layer(NamedTuple):
    """The fractions of a layer's weights that are active, and that are active and not zero; how many are active."""

    active: float
    nonzero: float
    kept: int


def decided(method: Masked) -> Masked:
    """The method with all decisions left to whoever holds it, such as ``decided(mp_rr(0.9))``."""
    return replace(method, cadence=Never())


def counter(model: nn.Module, weights: Weights, example: Tensor) -> Operations:
    """A counter of the operations of training ``model`` with ``weights`` sparse; ``example`` is a batch of one."""
    costs = {cost.name: cost.macs for cost in layer_costs(model, prunable(model) | weights, example)}
    return Operations(sum(costs.values()), {name: costs[name] for name in weights})


@dataclass
class Episode:
    """A training between whose steps densities are decided, ``update_every`` steps apart; iterated, never copied.

    The method of ``sparsifier`` is `decided`, its rule a `Resize`: each decision takes the place of its plan, so that
    masks change as they would under a schedule. There are K = steps // update_every decisions, and the steps that are
    left after them belong to the last. ``measure`` looks at held-out data in eval mode. ``examples`` are those of one
    step, ``classes`` those that the network tells apart. Raises ValueError where K is zero.

    The loss is looked at after every decision, in place of ``check_every`` steps: `train_` raises NonFiniteLossError.
    """

    training: Training
    sparsifier: Sparsifier
    measure: Callable[[], Measured]
    operations: Operations
    update_every: int = 100
    examples: int = 1
    classes: int = 10
    _steps: Iterator[Step] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Decisions(self.update_every)(0, self.training.steps)
        self.training.check_every = self.update_every
        self._steps = iter(self.training)  # one for all decisions: batches must not begin anew

    @property
    def decisions(self) -> int:
        """K, of the whole episode."""
        return self.training.steps // self.update_every

    @property
    def number(self) -> int:
        """The decision that is due, from 0; K at the end."""
        return self.training.taken // self.update_every

    @property
    def weights(self) -> Weights:
        """The prunable weights by name."""
        return self.sparsifier.site.weights

    def decide_(self, densities: Mapping[str, float]) -> None:
        """Give every layer its density in [0, 1], changing its mask by the difference alone."""
        method, clock = self.sparsifier.method, self.training.taken
        if not isinstance(method, Masked) or not isinstance(method.update, Resize):
            raise ValueError(
                f"an episode needs a method that follows densities, got {method}; pass decided(mp_rr(0.5))"
            )
        (progress,) = Decisions(self.update_every)(clock, self.training.steps)
        method.change_(replace(method.update, plan=Fixed(densities)), clock, progress)
        self.operations.count_(self.sparsifier.masks, clock, jumped=True)

    def train_(self) -> None:
        """The steps of the decision just made."""
        last = self.number == self.decisions - 1
        end = self.training.steps if last else self.training.taken + self.update_every
        try:
            while self.training.taken < end:
                next(self._steps)
        finally:
            self.operations.count_(self.sparsifier.masks, self.training.taken, jumped=True)

    def layers(self) -> dict[str, Layer]:
        """Every layer as it is."""
        masks = self.sparsifier.masks
        counts = [tensor.count_nonzero() for name, weight in self.weights.items() for tensor in (masks[name], weight)]
        found = torch.stack(counts).tolist()  # waits for the device once
        sizes = [weight.numel() for weight in self.weights.values()]
        pairs = zip(self.weights, sizes, found[::2], found[1::2], strict=True)
        return {name: Layer(active / size, nonzero / size, active) for name, size, active, nonzero in pairs}

    def flops(self) -> tuple[int, int]:
        """Of the training so far: as if it were dense, and if zeros cost nothing. Two for a multiply-add."""
        return 2 * self.operations.dense(self.examples), 2 * self.operations.training(self.examples, 0, 0)


Make = Callable[[int], Episode]  # a fresh network and its training, for a seed
