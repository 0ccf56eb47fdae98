"""The loop, as an iterator over optimizer steps. Evaluate, prune, log or stop between two steps, in ordinary code."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The tensor itself: the mean over one rank."""
    return tensor


class Step(NamedTuple):
    """One optimizer step: its number from 1, its mean loss (a detached scalar on the device), its learning rate."""

    number: int
    loss: Tensor
    learning_rate: float


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass
class Training:
    """Trains ``model`` for ``steps`` optimizer steps on ``batches``, endlessly repeated; iterate it, or call `run`.

    ``learning_rate`` maps progress (steps taken / steps) to the rate of the first parameter group; the others keep
    their ratio to it. ``accumulate`` batches make one step, their mean loss its loss. ``clip`` bounds the gradient
    norm; it acts in the optimizer's pre-step hooks, after those of a sparsifier attached earlier, hence on kept
    gradients alone. ``backward`` takes the place of ``loss.backward()``, for Fabric and AMP. Model and optimizer may be
    wrapped.

    A non-finite loss raises `NonFiniteLossError`. It is looked for every ``check_every`` steps and at the end, because
    looking makes the device wait; ``mean`` is the mean over the ranks then, so that all of them see it at once.

    >>> model = nn.Linear(2, 1)
    >>> batches = [(torch.ones(4, 2), torch.ones(4, 1))]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> [step.number for step in Training(model, optimizer, batches, nn.functional.mse_loss, steps=3)]
    [1, 2, 3]
    """

    model: nn.Module
    optimizer: Optimizer
    batches: Batches
    loss: Loss
    steps: int
    learning_rate: Callable[[float], float] | None = None
    accumulate: int = 1
    clip: float | None = None
    backward: Callable[[Tensor], Any] = torch.Tensor.backward
    check_every: int = 50
    mean: Callable[[Tensor], Tensor] = alone
    taken: int = 0
    _rates: list[float] = field(default_factory=list, init=False, repr=False)
    _seen: Tensor | None = field(default=None, init=False, repr=False)  # the losses since the last check, summed

    def __iter__(self) -> Iterator[Step]:
        ratios = self._ratios()
        batches = _endless(self.batches)
        clipping = self.optimizer.register_step_pre_hook(self._clip_) if self.clip is not None else None
        try:
            while self.taken < self.steps:
                self._set_rate_(ratios)
                loss = self._step_(batches)
                self.taken += 1
                self._seen = loss if self._seen is None else self._seen + loss  # stays non-finite once it was
                if self.taken % self.check_every == 0 or self.taken == self.steps:
                    self._check(self.mean(self._seen))
                    self._seen = None
                yield Step(self.taken, loss, float(self.optimizer.param_groups[0]["lr"]))  # a method may have set it
        finally:
            if clipping is not None:
                clipping.remove()

    def run(self) -> Step:
        """All the steps that are left; the last one. Raises RuntimeError where none is left."""
        last = None
        for step in self:
            last = step
        if last is None:
            raise RuntimeError(f"this training has taken all its {self.steps} steps; make a new one, or raise steps")
        return last

    def state_dict(self) -> dict[str, Any]:
        """Steps taken and what the next one needs of them; model, optimizer and batches keep their own state."""
        return {"taken": self.taken, "rates": self._rates, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the steps that ``state`` counts; iterate anew after it."""
        self.taken, self._rates, self._seen = state["taken"], state["rates"], state["seen"]

    def _step_(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | None = None
        for _ in range(self.accumulate):
            inputs, targets = next(batches)
            loss = self.loss(self.model(inputs), targets) / self.accumulate
            self.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        self.optimizer.step()
        assert total is not None
        return total

    def _ratios(self) -> list[float]:
        # kept from the first iteration on, because a rate of zero would forget the ratio
        self._rates = self._rates or [group["lr"] for group in self.optimizer.param_groups]
        return [rate / self._rates[0] if self._rates[0] else 1.0 for rate in self._rates]

    def _set_rate_(self, ratios: list[float]) -> None:
        if self.learning_rate is not None:
            rate = self.learning_rate(self.taken / self.steps)
            for group, ratio in zip(self.optimizer.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio

    def _clip_(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)

    def _check(self, seen: Tensor) -> None:
        if not bool(seen.isfinite()):
            raise NonFiniteLossError(
                f"the loss became {float(seen)} in the {self.check_every} steps before step {self.taken}; lower the "
                "learning rate, warm it up, or clip the gradients"
            )


def _endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("batches gave nothing; a generator is exhausted after one pass, pass a loader or a stream")
