"""Edited: dense training with edited gradients, pruned at the end."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from prunus.cadence import Once
from prunus.carriers.evolution import Evolution
from prunus.carriers.site import Site, refuse_second_model
from prunus.masks import Masks, Tensors, project_, unwrap
from prunus.updates import Prune


class GradientEdit(Protocol):
    """A change of gradients."""

    def check(self, site: Site) -> None:
        """Raises ValueError for a site that the edit cannot work on."""

    def __call__(self, site: Site) -> None:
        """Change the gradients of the site in place."""


@dataclass(eq=False)
class Edited:
    """Gradients edited before each step so that the weights become sparse; ``prune`` makes it exact at the end.

    Until then the masks keep everything, or what training began with.
    """

    edit: GradientEdit
    prune: Prune
    _evolution: Evolution = field(init=False, repr=False)

    @property
    def masks(self) -> Masks:
        """The first masks until the end, then the final ones."""
        return self._evolution.masks

    @property
    def changes(self) -> int:
        """How often they changed."""
        return self._evolution.changes

    def attach(self, site: Site) -> None:
        """Nothing to set up; what the edit cannot work with is said at once."""
        refuse_second_model(self)
        self._evolution = Evolution(self.prune, Once(at=1.0), site)
        self.edit.check(site)

    def before_step(self, clock: int) -> None:
        """Nothing is decided by the gradients."""

    def edit_gradients(self) -> None:
        """Edit the gradients."""
        self.edit(self._evolution.site)

    def after_step(self, clock: int) -> None:
        """Prune when training has reached its end, and hold the masks in steps beyond it."""
        for _ in self._evolution.advance_(clock, gradients=False):
            pass
        if self._evolution.floor or clock >= self._evolution.site.steps:
            project_(self._evolution.site.weights, self.masks)

    def reads_dropped(self, clock: int) -> bool:
        """In every step: until the end no weight is dropped."""
        return True

    def finalize(self) -> None:
        """Prune now if training ended before its time; a second pruning changes nothing."""
        self._evolution.run_(self.prune, 1.0, "end")
        project_(self._evolution.site.weights, self.masks)

    def finalize_copy(self, model: nn.Module) -> None:
        """Prune a copy of the model by its own weights."""
        copies = dict(unwrap(model).named_parameters())
        weights = {name: copies[name].detach() for name in self.masks}
        project_(copies, self._evolution.decide(self.prune, weights, 1.0, "end"))

    def state_dict(self) -> dict[str, Tensors]:
        """The masks."""
        return self._evolution.state_dict()

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take them back."""
        self._evolution.load_state_dict(state)
