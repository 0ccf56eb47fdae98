"""Feedback: dense weights behind a mask."""

from dataclasses import dataclass, field

from torch import nn

from prunus.cadence import Cadence
from prunus.carriers.evolution import Evolution
from prunus.carriers.reparametrize import insert, refresh, remove
from prunus.carriers.site import Site, refuse_ddp, refuse_second_model
from prunus.masks import Masks, Tensors, project_state_
from prunus.parametrizations import Behind, Part
from prunus.updates import Update


@dataclass(eq=False)
class Feedback:
    """Dense weights that train behind a mask, so that a dropped weight can come back with the value it then has.

    ``straight_through`` hands the whole gradient at the masked weights to the dense ones and leaves the optimizer's
    state alone (DPF, DNW). Otherwise dropped weights get no gradient, only the optimizer's decay, and their state is
    zeroed when the mask changes (GMP with recovery).
    """

    update: Update
    cadence: Cadence
    straight_through: bool = True
    _evolution: Evolution = field(init=False, repr=False)
    _parts: dict[str, Part] = field(init=False, repr=False)

    @property
    def masks(self) -> Masks:
        """The present masks."""
        return self._evolution.masks

    @property
    def changes(self) -> int:
        """How often they changed."""
        return self._evolution.changes

    def attach(self, site: Site) -> None:
        """Put the masks before the weights; run the rule if it is due at clock 0. RuntimeError for a model in DDP."""
        refuse_second_model(self)
        refuse_ddp(site.model)
        self._evolution = Evolution(self.update, self.cadence, site)
        self._parts = {name: Behind(mask, self.straight_through) for name, mask in self.masks.items()}
        insert(site.model, site.weights, self._parts)
        self._advance_(0, gradients=False)

    def before_step(self, clock: int) -> None:
        """Update masks by the gradient where the rule reads it."""
        self._evolution.remember_()
        self._advance_(clock, gradients=True)

    def edit_gradients(self) -> None:
        """Nothing: the part already passed on what this carrier lets through."""

    def after_step(self, clock: int) -> None:
        """Update masks by the dense weights if due."""
        self._advance_(clock, gradients=False)

    def reads_dropped(self, clock: int) -> bool:
        """In every step with ``straight_through``; else dropped weights get no gradient that could be read."""
        return self.straight_through

    def finalize(self) -> None:
        """Make the masked weights the plain parameters."""
        self.finalize_copy(self._evolution.site.model)

    def finalize_copy(self, model: nn.Module) -> None:
        """The same in a copy of the model, with the present masks."""
        refresh(model, self._parts)
        remove(model, self.masks, self.masks)

    def state_dict(self) -> dict[str, Tensors]:
        """Masks and remembered gradients; the dense weights are the model's own state."""
        return self._evolution.state_dict()

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take them back; the parts share the mask tensors and see the change."""
        self._evolution.load_state_dict(state)

    def _advance_(self, clock: int, gradients: bool) -> None:
        for _ in self._evolution.advance_(clock, gradients):
            if not self.straight_through:
                site = self._evolution.site
                project_state_(site.optimizer, site.weights, self.masks)
