"""Parametrized: sparsity learned by thresholds between the weights and the network."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.carriers.reparametrize import insert, refresh, remove
from prunus.carriers.site import Site, refuse_ddp, refuse_second_model
from prunus.masks import Masks, Tensors
from prunus.parametrizations import Part, PartOf


@dataclass(eq=False)
class Parametrized:
    """Weights seen through parts with learned thresholds; sparsity is an outcome.

    The thresholds join the optimizer as one more parameter group, with the weights' rate and a weight decay of their
    own: ``decay``, or that of the weights where it is None. Penalties reach the thresholds as gradients before each
    step, so the loss line of a training loop stays.
    """

    part: PartOf
    decay: float | None = 0.0
    _site: Site = field(init=False, repr=False)
    _parts: dict[str, Part] = field(init=False, repr=False)
    _final: Masks | None = field(init=False, repr=False, default=None)

    @property
    def masks(self) -> Masks:
        """Where the weights in use are kept, as the thresholds stand."""
        if self._final is not None:
            return self._final
        with torch.no_grad():
            return {name: part.mask(self._site.weights[name]) for name, part in self._parts.items()}

    @property
    def changes(self) -> int:
        """None is counted: the thresholds move at every step."""
        return 0

    def attach(self, site: Site) -> None:
        """Put parts before the weights and their thresholds into the optimizer.

        Raises ValueError for first masks, which it could not hold, and RuntimeError after the model was wrapped in
        DDP, which would not synchronise the thresholds, or a learning-rate scheduler was made, which would not see
        their group.
        """
        refuse_second_model(self)
        refuse_ddp(site.model)
        if site.start:
            raise ValueError(
                "this method learns which weights to drop and may bring back what is dropped already: begin it from "
                "dense weights, or go on with a method that holds masks, such as gmp"
            )
        if any("initial_lr" in group for group in site.optimizer.param_groups):  # every scheduler writes it
            raise RuntimeError("this method adds a parameter group: make the learning-rate scheduler after sparsify()")
        self._site = site
        self._parts = {name: self.part(weight.detach()) for name, weight in site.weights.items()}
        insert(site.model, site.weights, self._parts)
        like = _group_of(site)
        group = {**like, "params": self._thresholds()}
        if "weight_decay" in like:
            group["weight_decay"] = like["weight_decay"] if self.decay is None else self.decay
        site.optimizer.add_param_group(group)

    def before_step(self, clock: int) -> None:
        """Nothing is decided by the gradients; they move the thresholds."""

    def edit_gradients(self) -> None:
        """Add the gradients of the penalties."""
        penalties = [penalty for part in self._parts.values() if (penalty := part.penalty()) is not None]
        if not penalties:
            return
        thresholds = self._thresholds()
        # autograd.grad, not backward: DDP counts the backward passes of its parameters
        added = torch.autograd.grad(torch.stack(penalties).sum(), thresholds)
        for threshold, gradient in zip(thresholds, added, strict=True):
            threshold.grad = gradient if threshold.grad is None else threshold.grad.add_(gradient)

    def after_step(self, clock: int) -> None:
        """Move what depends on progress."""
        with torch.no_grad():
            for name, part in self._parts.items():
                part.advance_(self._site.weights[name], clock / self._site.steps)

    def reads_dropped(self, clock: int) -> bool:
        """In every step: a dropped weight is still judged."""
        return True

    def finalize(self) -> None:
        """Make the weights in use the plain parameters; the thresholds stay in the optimizer without a gradient."""
        self._final = self.masks  # the weights in use, once plain, would answer differently
        remove(self._site.model, self._parts, self._final)
        for threshold in self._thresholds():
            threshold.grad = None

    def finalize_copy(self, model: nn.Module) -> None:
        """The same in a copy of the model with its own thresholds, projected onto the present masks."""
        refresh(model, self._parts)
        remove(model, self._parts, self.masks)

    def state_dict(self) -> dict[str, Tensors]:
        """Nothing: the thresholds are parameters of the model, the rest follows from the clock."""
        return {}

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Bring what depends on progress to the clock."""
        self.after_step(clock)

    def _thresholds(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part.parameters()]


def _group_of(site: Site) -> dict[str, Any]:
    """The optimizer's group of the first prunable weight."""
    first = next(iter(site.weights.values()))
    return next(group for group in site.optimizer.param_groups if any(first is held for held in group["params"]))
