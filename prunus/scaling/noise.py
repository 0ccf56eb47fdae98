"""The gradient noise scale (McCandlish et al. 2018): a prediction of the critical batch from a single run."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus import ranks
from prunus.masks import Masks


@dataclass(frozen=True)
class NoiseScale:
    """``signal``, |G|^2, the squared norm of the true gradient, and ``noise``, tr(Sigma), one example's variance."""

    signal: float
    noise: float

    @property
    def critical_batch(self) -> float:
        """B_simple = tr(Sigma) / |G|^2, which predicts B_crit; infinite where the signal is lost in the noise."""
        return max(self.noise, 0.0) / self.signal if self.signal > 0.0 else math.inf


def noise_scale(small: int, large: int, small_square: float, large_square: float) -> NoiseScale:
    """The unbiased estimate from the mean squared gradient norms at batch sizes ``small`` and ``large`` (Appendix A.1).

    |G|^2 = (B2 g2 - B1 g1) / (B2 - B1) and S = (g1 - g2) / (1 / B1 - 1 / B2).

    >>> noise_scale(64, 1024, 0.9, 0.15).critical_batch
    512.0
    """
    _check_sizes(small, large)
    signal = (large * large_square - small * small_square) / (large - small)
    return NoiseScale(signal, (small_square - large_square) / (1.0 / small - 1.0 / large))


class NoiseMeter:
    """Measures the noise scale of a training as it goes, from the gradients that it computes anyway.

    Each backward pass gives the mean gradient of ``small`` examples: a part of an accumulated batch, or under DDP the
    batch of this rank before it is reduced. At the step ``weight.grad`` is the mean over ``large`` examples. Both
    squared norms, over the entries that ``masks`` keep, are averaged over the steps; |G|^2 and tr(Sigma) are linear in
    them, so they are averages too, and divided only when read. Nothing waits for the device before that.

    ``scale`` undoes what the loss was multiplied with: for ``(loss / parts).backward()`` it is ``parts``. ``decay`` is
    that of the averages, per step, in [0, 1). ``masks`` may be replaced when they change.

    >>> model = nn.Linear(4, 1)
    >>> meter = NoiseMeter({"weight": model.weight}, small=8, large=16, scale=2)
    >>> for part in torch.randn(16, 4).split(8):
    ...     (model(part).square().mean() / 2).backward()
    >>> meter.step()
    >>> meter.read().noise > 0
    True
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        masks: Masks | None = None,
        *,
        small: int,
        large: int,
        decay: float = 0.99,
        scale: float = 1.0,
    ) -> None:
        _check_sizes(small, large)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}; 0.99 averages over about a hundred steps")
        self.masks = masks or {}
        self._weights = weights
        self._sizes = (small, large)
        self._decay = decay
        self._scale = scale
        first = next(iter(weights.values()))
        self._part = torch.zeros((), device=first.device)
        self._averages = torch.zeros(2, device=first.device)  # |grad|^2 of small and of large batches
        self._parts: Counter[str] = Counter()
        self._steps = 0
        self._hooks = [
            weight.register_hook(lambda gradient, name=name: self._see(name, gradient))  # type: ignore[no-untyped-call]
            for name, weight in weights.items()
        ]

    def step(self) -> None:
        """Take in one step; after its backward passes and the reduction, before the optimizer's own step.

        Raises RuntimeError where no backward pass came before.
        """
        if not self._parts:
            raise RuntimeError("step must follow a backward pass, got none; call it after backward")
        gradients = {name: w.grad for name, w in self._weights.items() if w.grad is not None}
        large = torch.stack([self._square(name, gradient) for name, gradient in gradients.items()]).sum()
        small = self._part * (self._scale**2 / max(self._parts.values()))
        self._averages.lerp_(torch.stack([small, large]), 1.0 - self._decay)
        self._part.zero_()
        self._parts.clear()
        self._steps += 1

    def read(self) -> NoiseScale:
        """The estimate so far, the mean over the ranks, which read together; this waits for the device."""
        weight = 1.0 - math.pow(self._decay, self._steps)
        small, large = (ranks.mean(self._averages) / weight).tolist()
        return noise_scale(*self._sizes, small, large)

    def close(self) -> None:
        """Let go of the weights."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, name: str, gradient: Tensor) -> None:
        self._part += self._square(name, gradient)
        self._parts[name] += 1

    def _square(self, name: str, gradient: Tensor) -> Tensor:
        kept = gradient.detach().float()
        if name in self.masks:
            kept = kept * self.masks[name]
        return kept.square().sum()


def _check_sizes(small: int, large: int) -> None:
    if not 0 < small < large:
        raise ValueError(
            f"two batch sizes, the smaller first, are needed, got {small} and {large}; split a batch in two"
        )
