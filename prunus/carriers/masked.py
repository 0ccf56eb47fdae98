"""Masked: weights that are zero off the mask."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from prunus.allocation import global_
from prunus.cadence import Cadence
from prunus.carriers.evolution import Evolution
from prunus.carriers.projection import gradients, project_all_
from prunus.carriers.site import Site, refuse_second_model
from prunus.criteria import magnitude
from prunus.masks import Masks, Tensors, Weights, project_, sparsity_of, unwrap
from prunus.updates import Prune, Update


@dataclass(eq=False)
class Masked:
    """Weights projected onto masks that a rule changes at a cadence; ``start`` sets the first masks.

    The invariant: off the mask, weight, gradient and every optimizer-state tensor are zero after every step. So a grown
    weight starts at zero with fresh optimizer state, and nothing has to be reset.

    With ``rescale`` the weights that the masks of clock 0 keep are divided by the square root of their layer's density,
    so that a random mask leaves the variance of what a layer puts out; a network that was sparse before keeps its own.
    """

    update: Update
    cadence: Cadence
    start: Prune | None = None
    rescale: bool = False
    _evolution: Evolution = field(init=False, repr=False)

    @property
    def masks(self) -> Masks:
        """The present masks."""
        return self._evolution.masks

    @property
    def changes(self) -> int:
        """How often they changed."""
        return self._evolution.changes

    def attach(self, site: Site) -> None:
        """Set the first masks, by ``start`` and by the rule if it is due at clock 0 and needs no gradient."""
        refuse_second_model(self)
        self._evolution = Evolution(self.update, self.cadence, site)
        if self.start is not None:
            # what a trained network has left is worth more than a draw
            best = replace(self.start, criterion=magnitude, allocation=global_) if site.start else self.start
            self._evolution.run_(best, 0.0, "start")
        if self.start is not None or site.start:
            project_all_(site, self.masks)
        self._advance_(0, with_gradients=False)
        self._rescale_()

    def change_(self, update: Update, clock: int, progress: float) -> None:
        """Set the masks by a rule that reads no gradient, between two steps, as if it were due now."""
        self._evolution.run_(update, progress, f"{clock}.0")
        project_all_(self._evolution.site, self.masks)
        if clock == 0:
            self._rescale_()

    def before_step(self, clock: int) -> None:
        """Update masks by the dense gradient where the rule reads it."""
        self._evolution.remember_()
        self._advance_(clock, with_gradients=True)

    def edit_gradients(self) -> None:
        """Zero the gradients off the mask; the optimizer then moves nothing there."""
        project_(gradients(self._evolution.site.weights), self.masks)

    def after_step(self, clock: int) -> None:
        """Zero the weights off the mask, for optimizers that move weights without a gradient; then update if due."""
        project_(self._evolution.site.weights, self.masks)
        self._advance_(clock, with_gradients=False)

    def reads_dropped(self, clock: int) -> bool:
        """Where the rule reads gradients: in all steps if it remembers them, else in those with an update."""
        return self._evolution.reads_gradients(clock)

    def finalize(self) -> None:
        """Nothing is left to do: the weights are plain parameters with zeros in place."""

    def finalize_copy(self, model: nn.Module) -> None:
        """Zero in a copy of the model what the masks drop."""
        project_(dict(unwrap(model).named_parameters()), self.masks)

    def state_dict(self) -> dict[str, Tensors]:
        """Masks and remembered gradients."""
        return self._evolution.state_dict()

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take them back; weights and optimizer state come with their own states, as they were."""
        self._evolution.load_state_dict(state)

    def _rescale_(self) -> None:
        site = self._evolution.site
        if self.rescale and not site.start:
            _restore_variance_(site.weights, self.masks)

    def _advance_(self, clock: int, with_gradients: bool) -> None:
        for _ in self._evolution.advance_(clock, with_gradients):
            project_all_(self._evolution.site, self.masks)


def _restore_variance_(weights: Weights, masks: Masks) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].div_(math.sqrt(1.0 - sparsity_of([mask])))
