"""The training of one stage: it remembers its best weights, may end early, and watches the gap."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunus.data import Labelled
from prunus.loop import Loop
from prunus.masks import Masks
from prunus.training import Loss, Step
from prunus.updates import START_TOLERANCE

BETTER = 0.001  # of accuracy, by which an evaluation must exceed the best so that patience begins anew (ALMA)


@dataclass
class Running:
    """A loss that counts, without waiting for the device, how many examples training got right since it was asked."""

    loss: Loss
    right: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    seen: int = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.right = self.right.to(outputs.device) + (outputs.detach().argmax(1) == targets).sum()
        self.seen += len(targets)
        return self.loss(outputs, targets)

    def accuracy(self) -> float:
        """The share that was right since the last call."""
        found = int(self.right) / max(1, self.seen)
        self.right, self.seen = torch.zeros_like(self.right), 0
        return found


@dataclass(frozen=True)
class Best:
    """The weights of the best evaluation so far, its masks, and the accuracy."""

    step: int
    accuracy: float
    weights: dict[str, Tensor]
    masks: Masks | None


@dataclass
class StageLoop(Loop):
    """The steps of stage ``number``: at ``target`` sparsity the best evaluation is kept, unless the last is to be.

    ``sample`` are training images by which the gap is followed; ``patience`` are epochs, from when ``target`` is
    reached.
    """

    number: int = 0
    target: float = 0.0
    sample: Labelled | None = None
    keep_best: bool = True
    patience: float | None = None
    best: Best | None = field(default=None, init=False)
    waited_from: int = field(default=0, init=False)  # the step of the last evaluation that was better by enough
    hurdle: float = field(default=0.0, init=False)
    reached: float = field(default=-1.0, init=False)  # the highest sparsity at an evaluation, up to the target
    released_gap: float = field(default=float("nan"), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.running = Running(self.prepared.training.loss)
        self.prepared.training.loss = self.running

    def ended(self, number: int) -> bool:
        """Whether step ``number`` was the last, or patience is at its end."""
        waited = (number - self.waited_from) / self.prepared.epoch_steps
        return super().ended(number) or (self.patience is not None and self._arrived() and waited >= self.patience)

    def more(self) -> dict[str, Any]:
        """The stage, the accuracy on a sample of its training images, and the one of training itself."""
        assert self.sample is not None
        seen, running = self.prepared.quality(self.sample).accuracy, self.running.accuracy()
        self.released_gap = running - self.accuracy
        return {"megabatch": self.number, "train_accuracy": seen, "running_accuracy": running}

    def _evaluate(self, step: Step, loss: float) -> None:
        super()._evaluate(step, loss)
        sparsifier = self.prepared.sparsifier
        reached = min(self.target, sparsifier.sparsity()) if sparsifier else self.target
        if reached > self.reached:  # what was better before was not as sparse as it is to be
            self.reached, self.best, self.hurdle, self.waited_from = reached, None, 0.0, step.number
        if self.accuracy > self.hurdle:
            self.hurdle, self.waited_from = self.accuracy + BETTER, step.number
        if self.keep_best and self._at_target() and (self.best is None or self.accuracy > self.best.accuracy):
            self.best = self._present(step.number)

    def _at_target(self) -> bool:
        return self.reached >= self.target - START_TOLERANCE

    def _arrived(self) -> bool:
        """Whether no pruning is to come: what is missing at the target is what layers may round."""
        masks = self.prepared.sparsifier.masks.values() if self.prepared.sparsifier else []
        return self.reached >= self.target - len(masks) / max(1, sum(mask.numel() for mask in masks))

    def _present(self, number: int) -> Best:
        model, sparsifier = self.prepared.model, self.prepared.sparsifier
        masks = None
        if sparsifier is not None:
            masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
            if number < self.prepared.training.steps:
                model = copy.deepcopy(model)
                sparsifier.finalize(model)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return Best(number, self.accuracy, weights, masks)

    def _state(self) -> dict[str, Any]:
        best = None if self.best is None else vars(self.best)
        running = {"right": int(self.running.right), "seen": self.running.seen}
        waited = {"waited_from": self.waited_from, "hurdle": self.hurdle, "reached": self.reached}
        return {"best": best, "running": running} | waited

    def _restore_(self, state: dict[str, Any]) -> None:
        device = self.prepared.device
        self.waited_from, self.hurdle, self.reached = state["waited_from"], state["hurdle"], state["reached"]
        self.running.right = torch.tensor(state["running"]["right"], device=device)
        self.running.seen = state["running"]["seen"]
        if state["best"] is not None:
            self.best = Best(**state["best"])
