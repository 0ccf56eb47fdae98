"""Gradient edits: what `Edited` does to the gradients before each step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.candidates import Candidates
from prunus.carriers.site import Site
from prunus.criteria import Criterion, magnitude, saliency
from prunus.masks import Masks, keep_count, project_
from prunus.ranking import top_k_together

SCOPES = ("weights", "all")


@dataclass(frozen=True)
class KeepSalient:
    """Zero the gradient but for the largest |w * gradient|, as many as the final network has weights (GSM, Alg. 1)."""

    sparsity: float
    scope: str = "weights"

    def check(self, site: Site) -> None:
        """Raises ValueError for an unknown scope."""
        _ranked(site, self.scope)

    def __call__(self, site: Site) -> None:
        ranked = _ranked(site, self.scope)
        gradients = {name: p.grad for name, p in ranked.items() if p.grad is not None}
        if not gradients:
            return
        with torch.no_grad():
            candidates = {name: _candidates(ranked[name], saliency, g) for name, g in gradients.items()}
            project_(gradients, _top(site, candidates, self.sparsity))


@dataclass(frozen=True)
class DecaySmallest:
    """Take the optimizer's weight decay back from the largest weights, so that only the others decay (LC)."""

    sparsity: float
    scope: str = "weights"

    def check(self, site: Site) -> None:
        """Raises ValueError for an unknown scope, for decoupled weight decay and for none."""
        _ranked(site, self.scope)
        _coupled_decays(site)

    def __call__(self, site: Site) -> None:
        decays = _coupled_decays(site)
        ranked = _ranked(site, self.scope)
        with torch.no_grad():
            masks = _top(site, {name: _candidates(p, magnitude) for name, p in ranked.items()}, self.sparsity)
            for name, parameter in ranked.items():
                if parameter.grad is not None:
                    kept = masks[name].view(torch.int8).to(parameter.dtype)  # int8 widens fast, bool does not
                    parameter.grad.addcmul_(parameter, kept, value=-decays[id(parameter)])


def _ranked(site: Site, scope: str) -> dict[str, torch.nn.Parameter]:
    if scope not in SCOPES:
        raise ValueError(f"scope must be 'weights' or 'all', got {scope!r}")
    if scope == "weights":
        return site.weights
    return {name: p for name, p in site.model.named_parameters() if p.requires_grad}


def _candidates(parameter: Tensor, criterion: Criterion, signal: Tensor | None = None) -> Candidates:
    # masks in the layout of what they multiply
    return Candidates(parameter, signal, criterion, into=torch.empty_like(parameter, dtype=torch.bool))


def _top(site: Site, candidates: dict[str, Candidates], sparsity: float) -> Masks:
    # the places are counted over the prunable weights whoever competes for them
    places = keep_count(sum(weight.numel() for weight in site.weights.values()), sparsity)
    return top_k_together(candidates, places)


def _coupled_decays(site: Site) -> dict[int, float]:
    decays: dict[int, float] = {}
    for group in site.optimizer.param_groups:
        if group.get("decoupled_weight_decay", isinstance(site.optimizer, torch.optim.AdamW)):
            raise ValueError(
                "lc edits gradients to cancel weight decay, but AdamW's decay bypasses them; use SGD or Adam"
            )
        decay = group.get("weight_decay", 0.0)
        decays.update({id(parameter): decay for parameter in group["params"]})
    if not any(decays[id(weight)] > 0 for weight in site.weights.values()):
        raise ValueError("lc decays the smallest weights by the optimizer's weight decay, which is 0; set weight_decay")
    return decays
