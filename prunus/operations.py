"""The multiply-accumulates of a training in theory, by the sparsity that it had on the way."""

from collections.abc import Mapping
from dataclasses import dataclass

from prunus.masks import Masks


@dataclass
class Operations:
    """Counts what training would cost if zeros cost nothing.

    ``whole`` are the multiply-accumulates of one example's dense forward pass, ``layers`` the part of each prunable
    weight. A step costs a forward pass, as much for the gradients of activations, and as much for those of weights,
    which are dense where the method reads the gradients of dropped weights (Evci et al. 2020, App. H).
    """

    whole: int
    layers: Mapping[str, int]
    forward: float = 0.0  # of all steps counted, one example each
    steps: int = 0
    kept: float | None = None

    def count_(self, masks: Masks, step: int, *, jumped: bool) -> None:
        """Count the steps up to ``step``, whose end has these masks.

        Masks that ``jumped`` there were before as they were at the last count; others came to it on a line.
        """
        dropped = sum(self.layers[name] * (1.0 - int(m.count_nonzero()) / m.numel()) for name, m in masks.items())
        kept = self.whole - dropped
        before = kept if self.kept is None else self.kept
        self.forward += (step - self.steps) * (before if jumped else (kept + before) / 2)
        self.steps, self.kept = step, kept

    def training(self, examples: int, dense_gradients: int, extra: int) -> int:
        """Of all steps counted, with ``examples`` each.

        In ``dense_gradients`` of them the gradients of all weights are computed; ``extra`` examples went through a
        dense network besides, forward and backward.
        """
        share = dense_gradients / self.steps if self.steps else 0.0
        of_weights = self.forward + share * (self.whole * self.steps - self.forward)
        return round(examples * (2 * self.forward + of_weights)) + 3 * extra * self.whole

    def dense(self, examples: int) -> int:
        """Of a dense training with as many steps."""
        return 3 * examples * self.steps * self.whole

    def state_dict(self) -> dict[str, float | int | None]:
        """What was counted so far."""
        return {"forward": self.forward, "steps": self.steps, "kept": self.kept}
