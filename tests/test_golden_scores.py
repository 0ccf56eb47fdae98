"""SNIP scores of a small network in double precision, equal to those of APP's public code."""

import pytest
import torch
from golden import golden
from torch import Tensor, nn

from prunus.allocation import global_
from prunus.criteria import saliency
from prunus.masks import Tensors, keep_count, prunable
from prunus.signals import LossGradient
from prunus.updates import Prune, State

VECTORS = golden("anytime")
GIVEN, EXPECTED = VECTORS["scores_mlp_inputs"], VECTORS["scores_mlp_outputs"]
X, Y = torch.tensor(GIVEN["X"], dtype=torch.float64), torch.tensor(GIVEN["Y"])


def network() -> nn.Sequential:
    """The network of the vectors."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for layer, number in ((model[0], 1), (model[2], 2)):
            layer.weight.copy_(torch.tensor(GIVEN[f"W{number}"], dtype=torch.float64))
            layer.bias.copy_(torch.tensor(GIVEN[f"b{number}"], dtype=torch.float64))
    return model


def scores_of(model: nn.Module, weights: Tensors) -> Tensors:
    """SNIP's scores of ``weights`` in a network that may be masked, their sum one."""
    signals = LossGradient([(X, Y)], nn.functional.cross_entropy)(model, prunable(model))
    generator = torch.Generator()
    scores = {name: saliency(weight, signals[name], generator) for name, weight in weights.items()}
    total = sum(float(score.sum()) for score in scores.values())
    return {name: score / total for name, score in scores.items()}


def tensors(name: str) -> list[Tensor]:
    """Those that are expected under a name."""
    return [torch.tensor(values, dtype=torch.float64) for values in EXPECTED[name]]


def test_golden_loss() -> None:
    outputs = network()(X)
    assert torch.allclose(outputs, torch.tensor(EXPECTED["logits"], dtype=torch.float64), atol=1e-12, rtol=0)
    loss = nn.functional.cross_entropy(outputs, Y)
    assert float(loss.detach()) == pytest.approx(EXPECTED["loss_full_batch"], abs=1e-12)


def test_golden_scores() -> None:
    model = network()
    scores = scores_of(model, {name: weight.detach() for name, weight in prunable(model).items()})
    for score, expected in zip(scores.values(), tensors("snip_one_batch_of_6"), strict=True):
        assert torch.allclose(score, expected, atol=1e-12, rtol=0)


def masked() -> tuple[nn.Sequential, Tensors, Tensors]:
    """The network behind masks, its whole weights, and the masks."""
    model = network()
    whole = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    masks = {
        name: torch.tensor(GIVEN[key], dtype=torch.bool) for name, key in zip(whole, ("mask1", "mask2"), strict=True)
    }
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(masks[name])
    return model, whole, masks


def test_golden_scores_behind_masks_count_dropped_weights_too() -> None:
    model, whole, masks = masked()
    scores = scores_of(model, whole)
    for score, expected in zip(scores.values(), tensors("snip_masked_net_one_batch_of_6"), strict=True):
        assert torch.allclose(score, expected, atol=1e-12, rtol=0)
    dropped = [scores[name][~mask] for name, mask in masks.items()]
    assert all(bool((one > 0).any()) for one in dropped)  # by which the reference picks dropped weights again


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.634])
def test_of_masked_weights_exactly_the_best_that_are_left_stay(sparsity: float) -> None:
    """The reference keeps what lies above the k-th smallest score, k truncated: sometimes one more, fewer in ties."""
    model, _, masks = masked()
    signals = LossGradient([(X, Y)], nn.functional.cross_entropy)(model, prunable(model))
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    kept = Prune(lambda progress: sparsity, saliency, global_)(State(weights, masks, signals, 1.0, torch.Generator()))
    expected = torch.cat([score.flatten() for score in tensors("snip_masked_net_one_batch_of_6")])
    alive = torch.cat([mask.flatten() for mask in masks.values()])
    best = expected.masked_fill(~alive, -1.0).topk(keep_count(len(expected), sparsity)).indices
    chosen = torch.cat([mask.flatten() for mask in kept.values()]).nonzero().flatten()
    assert torch.equal(chosen, best.sort().values)
