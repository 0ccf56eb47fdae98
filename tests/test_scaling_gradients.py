"""The noise scale and the local Lipschitz constant, against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from prunus.masks import Tensors
from prunus.scaling.lipschitz import FRACTIONS, FullGradient, all_parameters, local_lipschitz
from prunus.scaling.noise import NoiseMeter, NoiseScale, noise_scale

SIZES = st.tuples(st.integers(1, 512), st.integers(2, 64)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@settings(max_examples=50, deadline=None)
@given(signal=st.floats(0.01, 100), noise=st.floats(0.01, 1e4), sizes=SIZES)
def test_noise_scale_inverts_the_expectations(signal: float, noise: float, sizes: tuple[int, int]) -> None:
    small, large = sizes
    found = noise_scale(small, large, signal + noise / small, signal + noise / large)
    assert (found.signal, found.noise) == pytest.approx((signal, noise), rel=1e-3)


def test_noise_scale_of_known_squares() -> None:
    found = noise_scale(64, 1024, 0.1 + 51.2 / 64, 0.1 + 51.2 / 1024)
    assert (found.signal, found.noise, found.critical_batch) == pytest.approx((0.1, 51.2, 512), rel=1e-10)
    assert NoiseScale(-0.1, 5.0).critical_batch == math.inf
    assert NoiseScale(0.1, -5.0).critical_batch == 0
    with pytest.raises(ValueError, match="the smaller first, are needed, got 8 and 8"):
        noise_scale(8, 8, 1.0, 1.0)


def test_meter_measures_a_known_noise() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(50))
    mask = torch.arange(50) < 40
    meter = NoiseMeter({"weight": weight}, {"weight": mask}, small=4, large=32, decay=0.999, scale=8)
    for _ in range(200):
        weight.grad = None
        for _ in range(8):
            examples = 0.5 + 2.0 * torch.randn(4, 50)  # the gradient of each; those off the mask do not count
            ((examples @ weight).mean() / 8).backward()
        meter.step()
    found = meter.read()
    assert found.signal == pytest.approx(40 * 0.25, rel=0.05)
    assert found.noise == pytest.approx(40 * 4.0, rel=0.05)
    assert found.critical_batch == pytest.approx(16, rel=0.1)


def test_meter_reads_what_the_two_norms_say() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    weights = dict(model.named_parameters())
    inputs, targets = torch.randn(3, 16, 6), torch.randint(3, (3, 16))
    meter = NoiseMeter(weights, small=8, large=16, decay=0.5, scale=2.0)
    squares = []
    for x, y in zip(inputs, targets, strict=True):
        parts = [torch.autograd.grad(cross_entropy(model(x[s]), y[s]), list(weights.values())) for s in halves()]
        meter._part.zero_()  # those passes were the test's own
        meter._parts.clear()
        model.zero_grad()
        for s in halves():
            (cross_entropy(model(x[s]), y[s]) / 2).backward()
        meter.step()
        small = sum(float(g.square().sum()) for part in parts for g in part) / 2
        squares.append((small, sum(float(w.grad.square().sum()) for w in weights.values() if w.grad is not None)))
    shares = [0.5**2, 0.5, 1.0]
    means = [sum(s * pair[i] for s, pair in zip(shares, squares, strict=True)) / sum(shares) for i in (0, 1)]
    expected = noise_scale(8, 16, *means)
    assert (meter.read().signal, meter.read().noise) == pytest.approx((expected.signal, expected.noise), rel=1e-4)


def halves() -> list[slice]:
    return [slice(0, 8), slice(8, 16)]


def test_meter_lets_go_and_refuses_a_step_without_gradients() -> None:
    model = nn.Linear(2, 1)
    meter = NoiseMeter({"weight": model.weight}, small=1, large=2)
    with pytest.raises(RuntimeError, match="must follow a backward pass"):
        meter.step()
    meter.close()
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="must follow a backward pass"):
        meter.step()
    with pytest.raises(ValueError, match="decay must be in"):
        NoiseMeter({"weight": model.weight}, small=1, large=2, decay=1.0)


def quadratic(matrix: Tensor) -> Callable[[Tensors], Tensors]:
    def gradient(at: Tensors) -> Tensors:
        whole = matrix @ torch.cat([at["a"], at["b"]])
        return {"a": whole[:2], "b": whole[2:]}

    return gradient


def test_quadratic_has_one_constant_along_a_direction() -> None:
    matrix = torch.randn(5, 5, dtype=torch.float64)
    matrix = matrix + matrix.T
    start, end = (
        {"a": torch.randn(2, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)} for _ in range(2)
    )
    direction = torch.cat([end["a"] - start["a"], end["b"] - start["b"]])
    expected = float((matrix @ direction).norm() / direction.norm())
    found = local_lipschitz(quadratic(matrix), start, end)
    assert list(found.by_fraction) == list(FRACTIONS)
    assert list(found.by_fraction.values()) == pytest.approx([expected] * 9, rel=1e-10)
    assert found.value == pytest.approx(expected, rel=1e-10)


def test_quartic_changes_along_the_way() -> None:
    start, end = ({"x": torch.tensor([value], dtype=torch.float64)} for value in (1.0, 0.6))
    found = local_lipschitz(lambda at: {"x": at["x"] + 0.5 * at["x"] ** 3}, start, end)
    for fraction, value in found.by_fraction.items():
        there = 1.0 - 0.4 * fraction
        assert value == pytest.approx(abs((there + 0.5 * there**3) - 1.5) / (0.4 * fraction), rel=1e-10)
    assert found.value == found.by_fraction[0.1]
    with pytest.raises(ValueError, match="start and end must differ"):
        local_lipschitz(lambda at: at, start, start)


@pytest.mark.parametrize("sizes", [(12,), (5, 5, 2), (1,) * 12])
def test_full_gradient_does_not_depend_on_the_chunks(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs, targets = torch.randn(12, 4).double(), torch.randn(12, 2).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = {"0.weight": torch.rand(6, 4) < 0.5}
    chunks = list(zip(inputs.split(list(sizes)), targets.split(list(sizes)), strict=True))
    moved = {name: value + 0.1 for name, value in all_parameters(model).items()}
    found = FullGradient(model, chunks, mse_loss, masks)(moved)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.load_state_dict(moved)
    mse_loss(model(inputs), targets).backward()
    for name, parameter in model.named_parameters():
        expected = parameter.grad if name not in masks else parameter.grad * masks[name]  # type: ignore[operator]
        torch.testing.assert_close(found[name], expected)


def test_full_gradient_leaves_buffers_and_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    chunks = [(torch.randn(8, 4), torch.randn(8, 2))] * 2
    before, state = {n: b.clone() for n, b in model.named_buffers()}, torch.get_rng_state()
    with torch.no_grad():
        FullGradient(model, chunks, mse_loss, {})(all_parameters(model))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="batches gave nothing"):
        FullGradient(model, iter(()), mse_loss, {})(all_parameters(model))
