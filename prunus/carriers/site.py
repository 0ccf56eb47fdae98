"""Where a method works, and what every carrier can do there."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunus.masks import Masks, Tensors, Weights


@dataclass(frozen=True)
class Site:
    """A model, its prunable weights, the optimizer that trains them, the length of training, seed and first masks."""

    model: nn.Module
    weights: Weights
    optimizer: Optimizer
    steps: int
    seed: int
    start: Masks | None = None  # of a network that is sparse already


def refuse_second_model(carrier: object) -> None:
    """Raises RuntimeError for a carrier that holds a model already: one carrier is one training."""
    if vars(carrier).keys() & {"_evolution", "_site"}:
        raise RuntimeError("this method is attached to a model already; make a new one for each model")


def refuse_ddp(model: nn.Module) -> None:
    """Raises RuntimeError for a model in DDP, whose parameters must not change their place any more."""
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise RuntimeError(
            "this method changes how weights are computed: call sparsify() before wrapping the model in DDP"
        )


class Carrier(Protocol):
    """What a method must do. The clock counts completed optimizer steps; clock t is the moment after t of them.

    A class of yours with these members is a method.
    """

    @property
    def masks(self) -> Masks:
        """The present masks, by parameter name; True keeps."""

    @property
    def changes(self) -> int:
        """How often a rule has changed the masks; 0 where they move at every step."""

    def attach(self, site: Site) -> None:
        """Take hold of the weights; the clock is 0."""

    def before_step(self, clock: int) -> None:
        """Gradients are ready, once a step: decide what needs them."""

    def edit_gradients(self) -> None:
        """Change the gradients, after each backward that the optimizer asks for (a closure may run several)."""

    def after_step(self, clock: int) -> None:
        """Step number ``clock`` has been taken: restore what the method promises, decide what needs no gradient."""

    def reads_dropped(self, clock: int) -> bool:
        """Whether the step after ``clock`` steps needs the gradients of dropped weights.

        Operations are counted by it, and ranks send each other only what is needed.
        """

    def finalize(self) -> None:
        """Leave plain parameters with zeros in place."""

    def finalize_copy(self, model: nn.Module) -> None:
        """The same for a copy of the model, such as an average of its weights."""

    def state_dict(self) -> dict[str, Tensors]:
        """What cannot be derived from model, optimizer and clock."""

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take that back."""
