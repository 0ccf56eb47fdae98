"""Probes against explicit derivatives, and the model as they found it."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from golden import golden
from torch import Tensor, nn

from prunus.criteria import saliency
from prunus.masks import prunable
from prunus.randomness import seeded
from prunus.ranking import top_k
from prunus.signals import Gradient, HessianGradient, LossGradient, Probe, SynapticFlow

SNIP = golden("snip")["snip_tiny"]


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def examples(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, generator=generator).double(), torch.randint(2, (n,), generator=generator)) for n in sizes
    ]


def together(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def snip_batches() -> tuple[nn.Linear, list[tuple[Tensor, Tensor]]]:
    net = nn.Linear(3, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(SNIP["W"]))
        net.bias.zero_()
    inputs, labels = torch.tensor(SNIP["X"]).double(), torch.tensor(SNIP["Y"])
    return net, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])]


def test_golden_snip_sums_with_the_sign() -> None:
    """The reference counts biases too; they are zero here, so the kept four are among the six weights."""
    net, batches = snip_batches()
    signal = LossGradient(batches, F.cross_entropy)(net, prunable(net))["weight"]
    signed = torch.tensor(SNIP["signed_accumulated"][0]).double()
    torch.testing.assert_close(net.weight * signal, signed, rtol=1e-7, atol=1e-9)  # 0.1 is a float32 in the vectors
    scores = saliency(net.weight.detach(), signal, seeded(0)).flatten()
    expected = torch.tensor(SNIP["normalised_saliency"][:6]).double()
    torch.testing.assert_close(scores / scores.sum(), expected, rtol=1e-7, atol=1e-9)
    assert top_k(scores, 4).nonzero().flatten().tolist() == SNIP["keep_kappa4_indices"]


def test_golden_snip_of_absolute_values_per_batch_is_another() -> None:
    net, batches = snip_batches()
    scores = torch.zeros(6).double()
    for batch in batches:
        signal = LossGradient([batch], F.cross_entropy)(net, prunable(net))["weight"]
        scores += saliency(net.weight.detach(), signal, seeded(0)).flatten()
    assert top_k(scores, 4).nonzero().flatten().tolist() == SNIP["WRONG_keep_kappa4"]
    assert SNIP["WRONG_keep_kappa4"] != SNIP["keep_kappa4_indices"]


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 4, 2), (4, 1, 4, 3)])
def test_loss_gradient_counts_every_example_the_same(sizes: tuple[int, ...]) -> None:
    model, batches = small(), examples(*sizes)
    weights = prunable(model)
    inputs, targets = together(batches)
    expected = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(weights.values()))
    for found, gradient in zip(LossGradient(batches, F.cross_entropy)(model, weights).values(), expected, strict=True):
        torch.testing.assert_close(found, gradient * sum(sizes) / sizes[0])


@pytest.mark.parametrize("sizes", [(6,), (4, 2)])
def test_hessian_gradient_is_the_hessian_times_the_gradient(sizes: tuple[int, ...]) -> None:
    model, batches, temperature = small(), examples(*sizes), 3.0
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    inputs, targets = together(batches)
    shapes = {name: weight.shape for name, weight in weights.items()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        used = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, used, (inputs,)) / temperature, targets)

    flat = torch.cat([weight.flatten() for weight in weights.values()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    expected = hessian @ torch.func.grad(loss)(flat) * (sum(sizes) / sizes[0]) ** 2
    found = HessianGradient(batches, F.cross_entropy, temperature)(model, prunable(model))
    assert {name: signal.shape for name, signal in found.items()} == shapes
    torch.testing.assert_close(torch.cat([signal.flatten() for signal in found.values()]), expected)
    assert expected.abs().max() > 1e-4


def test_hessian_gradient_refuses_batches_that_last_for_one_pass() -> None:
    model = small()
    probe = HessianGradient((batch for batch in examples(4, 4)), F.cross_entropy)
    with pytest.raises(ValueError, match="generator"):
        probe(model, prunable(model))


def test_loss_gradient_refuses_no_batches() -> None:
    model = small()
    with pytest.raises(ValueError, match="batch"):
        LossGradient([], F.cross_entropy)(model, prunable(model))


def normalised() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    model(torch.randn(16, 3).double()).sum().backward()
    model[4].weight.grad = None
    model[2].eval()
    return model


PROBES: dict[str, Callable[[], Probe]] = {
    "loss gradient": lambda: LossGradient(examples(4, 4), F.cross_entropy),
    "hessian gradient": lambda: HessianGradient(examples(4, 4), F.cross_entropy),
    "synaptic flow": lambda: SynapticFlow((3,)),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_probe_leaves_everything_as_it_was(probe: Callable[[], Probe]) -> None:
    model = normalised()
    before, gradients = copy.deepcopy(model), [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    signals = probe()(model, prunable(model))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())
    for parameter, old in zip(model.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert parameter.grad is old is None or torch.equal(parameter.grad, old)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert list(signals) == list(prunable(model))
    assert all(not signal.requires_grad for signal in signals.values())


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_probe_works_where_gradients_are_off(probe: Callable[[], Probe]) -> None:
    model = small()
    with torch.no_grad():
        found = probe()(model, prunable(model))
    assert all(torch.equal(found[name], signal) for name, signal in probe()(model, prunable(model)).items())


def test_synaptic_flow_of_two_layers_by_hand() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].running_var.fill_(100.0)
        model[1].running_mean.fill_(-7.0)
    first, bias, second = (p.detach().abs().double() for p in (model[0].weight, model[0].bias, model[3].weight))
    found = SynapticFlow((3,))(model, prunable(model))
    torch.testing.assert_close(found["0.weight"], second.sum(0).unsqueeze(1).expand(8, 3))
    torch.testing.assert_close(found["3.weight"], (first.sum(1) + bias).expand(2, 8))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LocalResponseNorm(2), nn.InstanceNorm2d(4)])
def test_synaptic_flow_passes_normalisation_by(norm: nn.Module) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 1))]
    with_norm = nn.Sequential(layers[0], nn.Sequential(norm), *layers[1:])
    without = nn.Sequential(layers[0], nn.Identity(), *layers[1:])
    flow = SynapticFlow((2, 5, 5))
    expected = flow(without, prunable(without))
    assert all(torch.equal(signal, expected[name]) for name, signal in flow(with_norm, prunable(with_norm)).items())


def test_synaptic_flow_is_conserved_and_finite_through_sixty_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(30, 30, bias=False) for _ in range(60)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=10)
    flow = SynapticFlow((30,))(model, prunable(model))
    totals = [float((flow[name] * weight.detach().abs()).sum()) for name, weight in prunable(model).items()]
    assert totals == pytest.approx([totals[0]] * 60)
    assert math.isfinite(totals[0])
    assert totals[0] > 1e60  # float32 ends at 3.4e38


@pytest.mark.parametrize("memory", [-0.1, 1.1])
def test_memory_is_a_fraction(memory: float) -> None:
    with pytest.raises(ValueError, match=rf"memory must be in \[0, 1\], got {memory}"):
        Gradient(memory)
