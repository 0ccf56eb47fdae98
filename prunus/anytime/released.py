"""What APP's released code does otherwise than the paper, to reproduce its numbers.

Its masks are chosen as if nothing had been dropped yet and then intersected with the earlier ones; and they are scored
on weights drawn anew, because a checkpoint's convolutions are silently not loaded. So a network ends far sparser than
it is asked to.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from prunus.cadence import Once
from prunus.carriers import Carrier, Masked
from prunus.criteria import evidence
from prunus.masks import Masks, Tensors, Weights, unwrap
from prunus.randomness import seeded
from prunus.settings import Anytime
from prunus.signals import Gradient, Signal
from prunus.tables import RecipeError
from prunus.updates import Prune, State


def released(method: Carrier, stream: Anytime, seed: int) -> Carrier:
    """The method with the stream's ``masks`` and ``scores``. Raises RecipeError for one that they do not fit."""
    if (stream.masks, stream.scores) == ("nested", "trained"):
        return method
    if not (isinstance(method, Masked) and isinstance(method.update, Prune) and isinstance(method.cadence, Once)):
        raise RecipeError("anytime.masks and anytime.scores are for methods that prune once, such as snip; leave them")
    rule = method.update
    if stream.scores == "reinit":
        if isinstance(rule.signal, Gradient):
            raise RecipeError("anytime.scores=reinit needs images to look at, give the method batches")
        rule = replace(rule, criterion=given, signal=Redrawn(rule, seed))
    intersected = stream.masks == "intersect-fresh"
    return replace(method, update=Intersected(replace(rule, recover=True)) if intersected else rule)


def given(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    """The signal itself, which is a score already."""
    return evidence(signal)


@dataclass(frozen=True)
class Intersected:
    """The masks that a rule chooses among all weights, as if none had been dropped, less what had been."""

    rule: Prune

    @property
    def signal(self) -> Signal | None:
        """The rule's."""
        return self.rule.signal

    def __call__(self, state: State) -> Masks:
        chosen = self.rule(replace(state, floor=0.0, in_place=False))
        return {name: mask & state.masks[name] for name, mask in chosen.items()}


@dataclass(frozen=True)
class Redrawn:
    """A rule's scores on a twin whose prunable weights are drawn anew, behind the present masks.

    BatchNorm, biases and all other layers are the trained ones. A weight that was dropped has a score too, for the loss
    changes with its mask.
    """

    rule: Prune
    seed: int

    def __call__(self, model: nn.Module, weights: Weights) -> Tensors:
        twin = copy.deepcopy(unwrap(model))
        _redraw_(twin, set(weights), self.seed)
        leaves = {name: parameter for name, parameter in twin.named_parameters() if name in weights}
        drawn = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.mul_(weights[name] != 0)
        probe = self.rule.signal
        assert not isinstance(probe, Gradient)
        signals = {} if probe is None else probe(twin, leaves)
        generator = seeded(self.seed, "redrawn scores", device=next(iter(drawn.values())).device)
        return {name: self.rule.criterion(weight, signals.get(name), generator) for name, weight in drawn.items()}


def _redraw_(model: nn.Module, names: set[str], seed: int) -> None:
    """Draw the named weights as PyTorch does at construction; biases stay."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for path, module in model.named_modules():
            if f"{path}.weight" in names and isinstance(module, nn.Conv2d | nn.Linear):
                bias = None if module.bias is None else module.bias.clone()
                module.reset_parameters()
                if bias is not None:
                    assert module.bias is not None
                    module.bias.copy_(bias)
