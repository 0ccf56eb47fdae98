"""Masks that change by a rule at its cadence: shared by the carriers that hold masks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from prunus.cadence import Cadence
from prunus.carriers.site import Site
from prunus.masks import Masks, Tensors, full_masks, pack, sparsity_of, unpack
from prunus.randomness import seeded
from prunus.signals import Gradient
from prunus.updates import State, Update


class Evolution:
    """The masks of a site, the rule that changes them, and the gradients that the rule remembers.

    A rule that reads the gradients of training runs when they are ready (``gradients=True``), any other as soon as the
    clock says so. Masks change in place and keep the memory layout of their weights.
    """

    def __init__(self, update: Update, cadence: Cadence, site: Site) -> None:
        self.update, self.cadence, self.site = update, cadence, site
        self.masks = full_masks(site.weights)
        for name, mask in (site.start or {}).items():
            self.masks[name].copy_(mask)
        self.floor = sparsity_of(self.masks.values()) if site.start else 0.0
        self.memory: Tensors = {}
        self.changes = 0

    def remember_(self) -> None:
        """Add the present gradients to the rule's memory, if it keeps one."""
        signal = self.update.signal
        if isinstance(signal, Gradient) and signal.memory > 0:
            for name, gradient in self._gradients().items():
                if name not in self.memory:
                    self.memory[name] = torch.zeros_like(gradient)
                self.memory[name].mul_(signal.memory).add_(gradient)

    def advance_(self, clock: int, gradients: bool) -> Iterator[None]:
        """Run the rule as often as it is due at this clock; yields after each change of the masks."""
        if isinstance(self.update.signal, Gradient) != gradients:
            return
        for number, progress in enumerate(self._due(clock)):
            self.run_(self.update, progress, f"{clock}.{number}")
            yield

    def reads_gradients(self, clock: int) -> bool:
        """Whether the rule reads, or remembers, the gradients of the step after ``clock`` steps."""
        signal = self.update.signal
        return isinstance(signal, Gradient) and (signal.memory > 0 or bool(self._due(clock)))

    def run_(self, update: Update, progress: float, moment: str) -> None:
        """Set the masks by ``update`` now."""
        weights = {name: weight.detach() for name, weight in self.site.weights.items()}
        state = self._state(update, weights, progress, moment)
        for name, mask in update(replace(state, in_place=True)).items():
            self.masks[name].copy_(mask)  # nothing happens where the rule wrote in place
        self.changes += 1

    def decide(self, update: Update, weights: Tensors, progress: float, moment: str) -> Masks:
        """The masks that ``update`` would set for ``weights``."""
        return update(self._state(update, weights, progress, moment))

    def state_dict(self) -> dict[str, Tensors]:
        """The masks at one bit a weight, and the memory."""
        return {"masks": {name: pack(mask) for name, mask in self.masks.items()}, "memory": dict(self.memory)}

    def load_state_dict(self, state: dict[str, Tensors]) -> None:
        """Take masks and memory back, in place."""
        for name, mask in self.masks.items():
            mask.copy_(unpack(state["masks"][name], mask.shape))
        self.memory = {name: value.to(self.masks[name].device).clone() for name, value in state["memory"].items()}

    def _due(self, clock: int) -> Sequence[float]:
        steps, last = self.site.steps, self.site.steps - 1
        if clock == last and isinstance(self.update.signal, Gradient):  # after it there are no gradients any more
            return self.cadence(steps, steps) or self.cadence(last, steps)
        return self.cadence(clock, steps)

    def _state(self, update: Update, weights: Tensors, progress: float, moment: str) -> State:
        device = next(iter(weights.values())).device
        generator = seeded(self.site.seed, "masks", moment, device=device)
        return State(
            weights, self.masks, self._signals(update), progress, generator, self.floor, at_start=moment == "0.0"
        )

    def _signals(self, update: Update) -> Tensors | None:
        if update.signal is None:
            return None
        if not isinstance(update.signal, Gradient):
            return update.signal(self.site.model, self.site.weights)
        return self.memory or self._gradients()

    def _gradients(self) -> Tensors:
        missing = [name for name, weight in self.site.weights.items() if weight.grad is None]
        if missing:
            raise RuntimeError(f"no gradient for {', '.join(missing)}: run backward first, or exclude unused layers")
        return {name: weight.grad for name, weight in self.site.weights.items() if weight.grad is not None}
