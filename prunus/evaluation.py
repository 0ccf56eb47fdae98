"""What a network is worth: accuracy, likelihood and calibration; operations and bytes, dense and kept."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CALIBRATION_BINS = 15
Reduce = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The tensor itself: the sum, and the mean, over one rank."""
    return tensor


@dataclass(frozen=True)
class Bin:
    """The n examples whose confidence lies in [low, high): their mean confidence and their accuracy."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Quality:
    """Accuracy in [0, 1], mean negative log-likelihood in nats, expected calibration error (L1), and n.

    ``reliability`` has those of the 15 bins of equal width that hold an example, in ascending order; a confidence of
    one is in the last. The calibration error is theirs: the gap between confidence and accuracy, weighted by n.
    """

    accuracy: float
    nll: float
    calibration_error: float
    n: int
    reliability: tuple[Bin, ...]


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, total: Reduce = alone) -> Quality:
    """The quality of ``model`` in eval mode over one pass of ``batches`` of (inputs, labels).

    Outputs are logits (batch, classes), taken in float32. Every example counts the same whatever its batch. ``total``
    sums over the ranks where each has ``batches`` of its own, possibly none; the quality is that of all together.
    """
    training = model.training
    model.eval()
    device = next((tensor.device for tensor in model.parameters()), None)
    sums = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64, device=device)
    right, nll = torch.zeros(2, device=device)
    for inputs, labels in batches:
        logits = model(inputs).float()
        sums = sums + _binned(logits, labels)
        right = right + (logits.argmax(1) == labels).sum()
        nll = nll + nn.functional.cross_entropy(logits, labels, reduction="sum")
    model.train(training)
    sums, right, nll = total(sums), total(right), total(nll)
    n = int(sums[0].sum())
    if n == 0:
        raise ValueError("evaluation needs at least one batch, got none")
    bins = _bins(sums)
    error = sum(bin_.n * abs(bin_.accuracy - bin_.confidence) for bin_ in bins) / n
    return Quality(float(right / n), float(nll) / n, error, n, bins)


def _binned(logits: Tensor, labels: Tensor) -> Tensor:
    """Per bin the number of examples, of right ones among them, and the sum of their confidences: (3, bins)."""
    confidences, answers = logits.softmax(1).max(1)
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, device=logits.device)
    # NaN is sorted behind the last edge, as one is
    places = torch.bucketize(confidences, edges, right=True).sub_(1).clamp_(max=CALIBRATION_BINS - 1)
    counted = torch.stack([torch.ones_like(confidences), (answers == labels).float(), confidences])
    # a product, because adding by index takes another order every time on a GPU
    return counted.double() @ nn.functional.one_hot(places, CALIBRATION_BINS).double()


def _bins(sums: Tensor) -> tuple[Bin, ...]:
    """The bins that hold an example."""
    return tuple(
        Bin(place / CALIBRATION_BINS, (place + 1) / CALIBRATION_BINS, confidence / n, right / n, int(n))
        for place, (n, right, confidence) in enumerate(sums.t().tolist())
        if n
    )


@dataclass(frozen=True)
class LayerCost:
    """One prunable weight: its shape, its entries and those non-zero, its multiply-adds for one example."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    macs: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return 1.0 - self.kept / self.weights

    @property
    def macs_kept(self) -> float:
        """Multiply-adds with a non-zero weight."""
        return self.macs * self.kept / self.weights


def layer_costs(model: nn.Module, weights: Mapping[str, Tensor], example: Tensor) -> list[LayerCost]:
    """The cost of every weight in ``weights`` for ``example``, one input with its batch dimension.

    Multiply-adds of a forward pass by torch's own operation counter at the true output shapes, biases not counted; a
    layer used twice counts twice, and a weight shared by several layers gets the sum.
    """
    counted = _macs(model, example)
    return [
        LayerCost(
            name,
            tuple(weight.shape),
            weight.numel(),
            int(weight.count_nonzero()),
            sum(counted.get(layer, 0) for layer in _users(model, weight)),
        )
        for name, weight in weights.items()
    ]


def theoretical_speedup(costs: Iterable[LayerCost]) -> float:
    """Dense over kept multiply-adds; infinite where nothing is kept."""
    costs = list(costs)
    kept = sum(cost.macs_kept for cost in costs)
    return sum(cost.macs for cost in costs) / kept if kept else math.inf


def dense_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of the tensors themselves."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@torch.no_grad()
def recalibrate_(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, mean: Reduce = alone) -> None:
    """Replace the running statistics of every BatchNorm by plain averages over one pass of ``batches``.

    ``mean`` averages them over the ranks where each has ``batches`` of its own.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()  # dropout must not thin what the statistics are taken of
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    seen = 0
    for inputs, _ in batches:
        model(inputs)
        seen += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None
            statistic.copy_(mean(statistic))
    model.train(training)
    if not seen:
        raise ValueError("recalibration needs at least one batch, got none; BatchNorm's statistics are gone")


def _macs(model: nn.Module, example: Tensor) -> dict[str, int]:
    training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    model.train(training)
    root = type(model).__name__
    counts: Callable[[str], int] = lambda name: sum(counter.get_flop_counts().get(name, {}).values())  # noqa: E731
    return {
        layer: counts(f"{root}.{layer}" if layer else root) // (2 * len(example))
        for layer, _ in model.named_modules(remove_duplicate=False)
    }


def _users(model: nn.Module, weight: Tensor) -> list[str]:
    return [
        layer
        for layer, module in model.named_modules(remove_duplicate=False)
        if any(parameter is weight for parameter in module._parameters.values())
    ]
