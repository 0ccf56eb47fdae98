"""Learning rates for the steps after a pruning: what Zimmer et al. 2023 call retraining schedules.

Each is a schedule over one retraining of ``length`` steps; made anew for every cycle, from the same pretraining.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunus.schedules import Constant, Cosine, Schedule, Table, WarmUp, linear

WARM_UP = 0.1  # of a retraining, in the released code of the paper
LINE = linear(0.0, initial=1.0)

Over = Literal["all", "masked"]  # whose norm a drop is relative to


@dataclass(frozen=True)
class Pretraining:
    """The learning rate of every step of pretraining, the first ``warm_up`` of which were a warm-up.

    >>> Pretraining((0.1, 0.1, 0.01)).peak
    0.1
    """

    rates: tuple[float, ...]
    warm_up: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < len(self.rates):
            raise ValueError(
                "pretraining needs at least one rate after its warm-up, "
                f"got {len(self.rates)} rates and a warm-up of {self.warm_up}; record the rate of every step"
            )

        if not all(0.0 <= rate < math.inf for rate in self.rates) or self.peak == 0.0:
            raise ValueError(
                f"rates of pretraining must be finite, at least 0 and not all 0, got {min(self.rates)} to "
                f"{max(self.rates)}; record what each step used"
            )

    @classmethod
    def of(cls, schedule: Schedule, steps: int) -> "Pretraining":
        """The rates of a training of ``steps`` steps with a schedule of absolute rates over its progress.

        >>> Pretraining.of(linear(0.0, initial=0.1), 4).rates
        (0.1, 0.07500000000000001, 0.05, 0.025)
        """
        warm_up = math.ceil(schedule.fraction * steps - 1e-9) if isinstance(schedule, WarmUp | Restart) else 0
        return cls(tuple(schedule(step / steps) for step in range(steps)), min(warm_up, steps - 1))

    @property
    def peak(self) -> float:
        """The highest rate."""
        return max(self.rates)

    @property
    def lowest(self) -> float:
        """The lowest rate after the warm-up."""
        return min(self.rates[self.warm_up :])

    @property
    def steps(self) -> float:
        """How many steps it took."""
        return len(self.rates)

    def scaled(self, factor: float) -> "Pretraining":
        """The same with every rate times ``factor``."""
        return Pretraining(tuple(factor * rate for rate in self.rates), self.warm_up)


@dataclass(frozen=True)
class Peak:
    """What is known of a pretraining whose rates nobody recorded: the highest, and how many ``steps`` it took.

    LLR and ALLR ask for no more. Where the length is not known either, it is infinite: ALLR then has no floor.
    """

    peak: float
    steps: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 < self.peak < math.inf:
            raise ValueError(f"the peak rate of pretraining must be positive and finite, got {self.peak}")
        if not self.steps >= 1:
            raise ValueError(f"pretraining took at least one step, got {self.steps}; leave it out where nobody knows")

    def scaled(self, factor: float) -> "Peak":
        """The same with the rate times ``factor``."""
        return Peak(factor * self.peak, self.steps)


History = Pretraining | Peak


@dataclass(frozen=True)
class Restart:
    """Half a cosine from 0 up to ``peak``, then ``peak`` times the whole of ``decay`` in the steps that are left.

    The rise takes the first ``floor(warm_up * length)`` steps. Of the m steps that are left the first has the rate
    ``peak * decay(0)``, the last ``peak * decay((m - 1) / m)``. By default the decay is a line from 1 to 0.

    >>> rate = Restart(peak=0.1, length=20)
    >>> [round(rate(step / 20), 3) for step in (0, 1, 2, 11, 20)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    peak: float
    length: int
    decay: Schedule = LINE
    warm_up: float = WARM_UP

    def __post_init__(self) -> None:
        _check_length(self.length)
        if not 0.0 <= self.warm_up < 1.0:
            raise ValueError(f"warm_up must be in [0, 1), got {self.warm_up}; for a tenth of the steps pass 0.1")

    @property
    def rise(self) -> int:
        """The steps of the warm-up."""
        return math.floor(self.warm_up * self.length + 1e-9)

    @property
    def fraction(self) -> float:
        """The share of the steps that are the warm-up's."""
        return self.rise / self.length

    def __call__(self, progress: float) -> float:
        step = min(max(progress, 0.0), 1.0) * self.length
        if step < self.rise - 1e-6:  # a step's number does not come back exactly from its progress
            return self.peak * 0.5 * (1.0 - math.cos(math.pi * step / self.rise))
        return self.peak * self.decay((step - self.rise) / (self.length - self.rise))


def ft(pretraining: Pretraining, length: int) -> Constant:
    """FT, fine-tuning (Han et al. 2015): the lowest rate of pretraining, throughout."""
    _check_length(length)
    return Constant(pretraining.lowest)


def lrw(pretraining: Pretraining, length: int) -> Table:
    """LRW, learning-rate rewinding (Renda et al. 2020): the last ``length`` rates of pretraining again.

    Raises ValueError where pretraining was shorter.
    """
    _check_length(length)
    if length > len(pretraining.rates):
        raise ValueError(
            f"rewinding for {length} steps needs as many of pretraining, got {len(pretraining.rates)}; "
            "retrain for fewer, or with slr, clr, llr or allr"
        )
    return Table(pretraining.rates[-length:])


def slr(pretraining: Pretraining, length: int) -> Restart:
    """SLR, scaled learning-rate restarting (Le & Hua 2021): warm-up, then all of pretraining's rates, squeezed.

    The warm-up of pretraining counts as its peak, but for its last step, as in the code of Zimmer et al. 2023.
    """
    peak, flat = pretraining.peak, max(0, pretraining.warm_up - 1)
    shares = (1.0,) * flat + tuple(rate / peak for rate in pretraining.rates[flat:])
    left = length - Restart(peak, length).rise
    return Restart(peak, length, Table(tuple(shares[step * len(shares) // left] for step in range(left))))


def clr(pretraining: Pretraining, length: int) -> Restart:
    """CLR, cyclic learning-rate restarting (Le & Hua 2021): warm-up, then half a cosine from peak to lowest rate."""
    return Restart(pretraining.peak, length, Cosine(1.0, pretraining.lowest / pretraining.peak))


def llr(pretraining: History, length: int) -> Restart:
    """LLR, linear learning-rate restarting (Zimmer et al. 2023): warm-up, then a line from the peak to 0."""
    return Restart(pretraining.peak, length)


def allr(pretraining: History, length: int, *, drop: float, fraction: float) -> Restart:
    """ALLR, adaptive linear learning-rate restarting (Zimmer et al. 2023): LLR with its peak times a `discount`.

    ``drop`` is what `relative_drop` measured at the pruning before, ``fraction`` the share of the weights alive that
    this pruning removed: ``1 - (1 - sparsity) ** (1 / cycles)``, from `prunus.cycles.fraction`.
    """
    return Restart(pretraining.peak * discount(drop, fraction, budget=length / pretraining.steps), length)


RESTARTS: dict[str, Callable[[Pretraining, int], Schedule]] = {"ft": ft, "lrw": lrw, "slr": slr, "clr": clr, "llr": llr}


def discount(drop: float, fraction: float, *, budget: float) -> float:
    """ALLR's factor in [0, 1]: ``min(1, max(drop / sqrt(fraction), budget))``.

    ``budget`` is the length of this retraining over that of pretraining. Raises ValueError unless ``fraction``, the
    share of the weights alive that were removed, lies in (0, 1).

    >>> discount(0.3, 0.9, budget=10 / 200)
    0.31622776601683794
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}; where nothing was removed there is no ALLR")
    return min(1.0, max(drop / math.sqrt(fraction), budget))


def relative_drop(before: Mapping[str, Tensor], masks: Mapping[str, Tensor], over: Over = "all") -> float:
    """The norm of the entries that ``masks`` remove, over the norm of the parameters ``before``: in [0, 1].

    Euclidean norms, in float64. ``over`` says what the second is taken over: ``"all"`` tensors of ``before``, which for
    ``dict(model.named_parameters())`` is the paper's released code, with biases and normalisation; or the ``"masked"``
    ones alone. In a later cycle ``before`` are the parameters at the end of the retraining before, their zeros in
    place. Raises ValueError where a parameter is not finite, or where all are zero.

    >>> weight = torch.tensor([3.0, 4.0])
    >>> relative_drop({"weight": weight, "bias": torch.tensor([12.0])}, {"weight": weight > 3.0}, over="masked")
    0.6
    """
    if over not in ("all", "masked"):
        raise ValueError(f"over must be 'all' or 'masked', got {over!r}")
    names = before if over == "all" else masks
    with torch.no_grad():
        norm = _norm(before[name] for name in names)
        removed = _norm(before[name][~mask] for name, mask in masks.items())
    if not math.isfinite(norm):
        broken = next(name for name in names if not before[name].isfinite().all())
        raise ValueError(f"parameters must be finite, got NaN or infinity in {broken!r}; prune an earlier checkpoint")
    if norm == 0.0:
        raise ValueError(f"parameters must not all be zero, got {len(names)} tensors of zeros; train before pruning")
    return removed / norm


def lr_scheduler(optimizer: Optimizer, schedule: Schedule, length: int) -> LambdaLR:
    """``schedule`` as a plain torch scheduler over ``length`` calls of its ``step``, one after each optimizer step.

    The first parameter group has the rates of ``schedule``; the others keep their ratio to it, as the optimizer was
    made. The schedule is not in the ``state_dict``: make the scheduler anew, then load. Raises ValueError where the
    optimizer's first rate is 0.
    """
    _check_length(length)
    group = optimizer.param_groups[0]
    initial = float(group.get("initial_lr", group["lr"]))  # a scheduler of pretraining may have left the former
    if initial <= 0.0:
        raise ValueError(f"the first rate of the optimizer must be positive, got {initial}; make it with the peak rate")
    return LambdaLR(optimizer, lambda step: schedule(step / length) / initial)


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"a retraining needs at least one step, got {length}; to prune alone, make no schedule")


def _norm(tensors: Iterable[Tensor]) -> float:
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
