"""What carriers do with their masks: zero weights, gradients and optimizer state where they drop."""

from prunus.carriers.site import Site
from prunus.masks import Masks, Tensors, Weights, project_, project_state_


def gradients(weights: Weights) -> Tensors:
    """The gradients that are there."""
    return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def project_all_(site: Site, masks: Masks) -> None:
    """Zero weights, gradients and every optimizer-state tensor off the masks, at once.

    Weight decay in the step that follows reads the weights, and a nested probe the masked network.
    """
    project_(site.weights, masks)
    project_(gradients(site.weights), masks)
    project_state_(site.optimizer, site.weights, masks)
