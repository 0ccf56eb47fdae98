"""Quality by hand, operations at true output shapes, bytes, and statistics taken anew."""

import math
from dataclasses import replace

import pytest
import torch
from golden import golden
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from prunus.evaluation import (
    LayerCost,
    Quality,
    dense_bytes,
    evaluate,
    layer_costs,
    recalibrate_,
    theoretical_speedup,
)
from prunus.masks import prunable
from prunus.models import factory

GOLDEN = golden("costs")
# Probabilities of the first of two classes and the label; confidences fall into different fifteenths except the last.
CERTAIN = [(0.9, 0), (0.82, 1), (0.36, 1), (0.1, 0), (0.88, 0)]


def two_class(*cases: tuple[float, int]) -> tuple[Tensor, Tensor]:
    first = torch.tensor([probability for probability, _ in cases])
    return torch.stack([first, 1 - first], 1).log(), torch.tensor([label for _, label in cases])


def test_quality_by_hand() -> None:
    """Right are .9, .36 (as .64) and .88; the bin of .88 and .9 holds three, with .1 as a wrong .9."""
    quality = evaluate(nn.Identity(), [two_class(*CERTAIN)])
    nll = -(math.log(0.9) + math.log(0.18) + math.log(0.64) + math.log(0.1) + math.log(0.88)) / 5
    bins = 3 * abs(2 / 3 - (0.9 + 0.9 + 0.88) / 3) + abs(0 - 0.82) + abs(1 - 0.64)
    assert quality.accuracy == pytest.approx(3 / 5)
    assert quality.nll == pytest.approx(nll, rel=1e-5)
    assert quality.calibration_error == pytest.approx(bins / 5, rel=1e-5)
    assert quality.n == 5


def test_bins_of_confidence_by_hand() -> None:
    quality = evaluate(nn.Identity(), [two_class(*CERTAIN)])
    assert [(round(15 * bin_.low), round(15 * bin_.high), bin_.n) for bin_ in quality.reliability] == [
        (9, 10, 1),
        (12, 13, 1),
        (13, 14, 3),
    ]
    assert [bin_.confidence for bin_ in quality.reliability] == pytest.approx([0.64, 0.82, (0.9 + 0.9 + 0.88) / 3])
    assert [bin_.accuracy for bin_ in quality.reliability] == pytest.approx([1, 0, 2 / 3])


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 7, generator=generator), torch.randint(7, (500,), generator=generator)
    peer = MulticlassCalibrationError(7, n_bins=15)(logits.softmax(1), labels)
    quality = evaluate(nn.Identity(), [(logits[:123], labels[:123]), (logits[123:], labels[123:])])
    assert quality.calibration_error == pytest.approx(float(peer), rel=1e-5)


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    logits = torch.tensor([[200.0, 0.0], [3.0, 0.0]])
    (bin_,) = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1]))]).reliability
    assert (bin_.high, bin_.n, bin_.accuracy) == (1.0, 2, 0.5)


@pytest.mark.parametrize("cuts", [(1, 4), (2, 2, 1), (1, 1, 1, 1, 1)])
def test_batches_of_unequal_size_change_nothing(cuts: tuple[int, ...]) -> None:
    logits, labels = two_class(*CERTAIN)
    whole = evaluate(nn.Identity(), [(logits, labels)])
    parts = evaluate(nn.Identity(), list(zip(logits.split(cuts), labels.split(cuts), strict=True)))
    assert parts.reliability == pytest.approx(whole.reliability)
    assert vars(parts) | {"reliability": 0} == pytest.approx(vars(whole) | {"reliability": 0})


def test_accuracy_is_over_examples_not_over_classes() -> None:
    logits = torch.eye(3)[[0, 0, 0, 0, 1]] * 5
    assert evaluate(nn.Identity(), [(logits, torch.tensor([0, 0, 0, 0, 2]))]).accuracy == pytest.approx(0.8)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_uses_eval_mode_and_puts_the_mode_back(training: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.99)).train(training)
    before = model[1].running_mean.clone()
    quality = [evaluate(model, [two_class(*CERTAIN)]) for _ in range(2)]
    assert quality[0] == quality[1]
    assert isinstance(quality[0], Quality)
    assert torch.equal(model[1].running_mean, before)
    assert [module.training for module in model.modules()] == [training] * 4
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logits_are_taken_in_float32() -> None:
    logits, labels = two_class(*CERTAIN)
    half = evaluate(nn.Identity(), [(logits.bfloat16(), labels)])
    assert half == evaluate(nn.Identity(), [(logits.bfloat16().float(), labels)])


def test_logits_between_zero_and_one_are_not_probabilities() -> None:
    quality = evaluate(nn.Identity(), [(torch.tensor([[0.6, 0.2]]), torch.tensor([0]))])
    assert quality.calibration_error == pytest.approx(1 - 1 / (1 + math.exp(-0.4)), rel=1e-5)


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch, got none"):
        evaluate(nn.Identity(), [])


def tiny() -> nn.Sequential:
    case = GOLDEN["tiny"]
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(case["conv"]).view(2, 1, 3, 3))
        model[4].weight.copy_(torch.tensor(case["fc"]))
    return model


def test_golden_costs_at_the_true_output_shape() -> None:
    """The reference counts a same-padded 4x4 output; the true one is 3x3."""
    model = tiny()
    conv, linear = layer_costs(model, prunable(model), torch.zeros(1, 1, 7, 7))
    assert conv == LayerCost("0.weight", (2, 1, 3, 3), 18, 4, 162)
    assert linear == LayerCost("4.weight", (3, 2), 6, 3, 6)
    assert conv.macs + linear.macs == GOLDEN["tiny"]["flops_if_true_output"]
    assert conv.sparsity == pytest.approx(GOLDEN["tiny"]["per_layer_sparsity"]["conv"])
    assert linear.sparsity == GOLDEN["tiny"]["per_layer_sparsity"]["fc"]
    assert (conv.macs_kept, linear.macs_kept) == (pytest.approx(36), 3)
    assert theoretical_speedup([conv, linear]) == pytest.approx(168 / 39)
    assert theoretical_speedup([replace(conv, kept=0)]) == math.inf


def test_costs_are_of_one_example_and_leave_the_model_alone() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = prunable(model)
    assert layer_costs(model, weights, torch.ones(5, 1, 7, 7)) == layer_costs(model, weights, torch.ones(1, 1, 7, 7))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(("name", "shape"), [("simple-cnn", (1, 28, 28)), ("resnet8", (3, 32, 32))])
def test_golden_costs_of_the_networks(name: str, shape: tuple[int, int, int]) -> None:
    model = factory(name)(shape, 10)
    costs = layer_costs(model, prunable(model), torch.zeros(1, *shape))
    assert sum(cost.macs for cost in costs) == GOLDEN["forward_macs"][name.replace("-", "_")]


def test_a_layer_used_twice_and_a_shared_weight_count_every_use() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), first, second)
    assert [cost.macs for cost in layer_costs(model, prunable(model), torch.zeros(2, 3))] == [27]
    lone = nn.Linear(3, 2)
    assert [cost.macs for cost in layer_costs(lone, prunable(lone), torch.zeros(1, 3))] == [6]


def test_a_layer_in_two_places_counts_in_both() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(nn.Sequential(layer), nn.Sequential(layer))
    assert [cost.macs for cost in layer_costs(model, prunable(model), torch.zeros(1, 3))] == [18]


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 5), 25 * 8 * 9),
        (nn.Conv2d(2, 3, 3, dilation=2), (2, 7, 7), 9 * 3 * 2 * 9),
        (nn.Conv1d(2, 3, 5), (2, 9), 5 * 3 * 2 * 5),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), 16 * 2 * 3 * 4),
        (nn.Linear(4, 3, bias=False), (7, 4), 7 * 12),
    ],
    ids=str,
)
def test_costs_of_every_kind_of_layer(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    (cost,) = layer_costs(layer, prunable(layer), torch.zeros(2, *shape))
    assert cost.macs == macs


def test_bytes_by_hand() -> None:
    tensors = {"weight": torch.tensor([0, 1.5, 0, 0, 2, 0, 0, 0, 3, 0]), "bias": torch.zeros(3, dtype=torch.bfloat16)}
    assert dense_bytes(tensors) == 46


def test_recalibration_takes_the_exact_statistics_of_one_batch() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.03), nn.Dropout(0.5)).eval()
    with torch.no_grad():
        model[0].running_mean.fill_(9.0)
        model[0].num_batches_tracked.fill_(7)
        model[0].weight.fill_(2.0)
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    recalibrate_(model, [(inputs, torch.zeros(10))])
    torch.testing.assert_close(model[0].running_mean, inputs.mean(0))
    torch.testing.assert_close(model[0].running_var, inputs.var(0))
    assert model[0].momentum == 0.03
    assert model[0].weight.tolist() == [2, 2, 2]
    assert [module.training for module in model.modules()] == [False] * 3


def test_recalibration_averages_batches_and_leaves_norms_without_statistics_alone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)).train()
    halves = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).split(10)
    recalibrate_(model, [(half, torch.zeros(10)) for half in halves])
    torch.testing.assert_close(model[0].running_mean, torch.cat(halves).mean(0))
    torch.testing.assert_close(model[0].running_var, (halves[0].var(0) + halves[1].var(0)) / 2)
    assert model[0].momentum == 0.1
    assert model.training
