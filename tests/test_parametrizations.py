"""Parts give the weight in use the strides of the weight, by which convolutions choose their kernels."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from prunus.carriers import Parametrized
from prunus.parametrizations import Behind, NeuronThreshold, Part, SoftMask, SoftThreshold
from prunus.randomness import seeded
from prunus.sparsifier import sparsify

PARTS: dict[str, Callable[[Tensor], Part]] = {
    "soft threshold": partial(SoftThreshold, initial=-1.0),
    "neuron threshold": partial(NeuronThreshold, penalty=0.0),
    "soft mask": partial(SoftMask, initial=0.5, final_beta=10.0, penalty=0.0),
    "mask": lambda weight: Behind(weight > 0, straight_through=True),
}
SHAPES = [(8, 1, 3, 3), (1, 8, 3, 3), (8, 4, 1, 1), (8, 4, 3, 3), (8, 1, 2, 3, 3)]
all_parts = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


def layouts(weight: Tensor) -> list[Tensor]:
    last = torch.channels_last if weight.dim() == 4 else torch.channels_last_3d
    axes = (0, *range(2, weight.dim()), 1)  # channels behind, with strides that say so even where there is one channel
    back = (0, weight.dim() - 1, *range(1, weight.dim() - 1))
    return [weight, weight.to(memory_format=last), weight.permute(axes).contiguous().permute(back)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@all_parts
def test_the_weight_in_use_has_the_strides_of_the_weight(
    part: Callable[[Tensor], Part], shape: tuple[int, ...]
) -> None:
    plain = torch.randn(shape, generator=seeded(0))
    expected = run(part, plain)
    for weight in layouts(plain):
        used, gradients = run(part, weight)
        assert used.stride() == weight.stride()
        assert torch.equal(used, expected[0])
        for found, wanted in zip(gradients, expected[1], strict=True):
            torch.testing.assert_close(found, wanted)


def run(part: Callable[[Tensor], Part], weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaf, made = weight.clone().requires_grad_(), part(weight)
    used = made(leaf)
    outer = torch.arange(leaf.numel(), dtype=leaf.dtype).view(leaf.shape)
    return used, torch.autograd.grad((used * outer).sum(), [leaf, *made.parameters()])


def test_dst_has_no_second_derivative() -> None:
    weight = torch.randn(4, 3, generator=seeded(0)).requires_grad_()
    used = PARTS["neuron threshold"](weight)(weight)
    (gradient,) = torch.autograd.grad(used.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient.square().sum().backward()


@pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"
)
@all_parts
def test_one_graph_for_a_convolution_of_one_channel(part: Callable[[Tensor], Part]) -> None:
    torch.compiler.reset()
    counters.clear()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsify(model, optimizer, Parametrized(part), steps=3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for number in range(3):
        optimizer.zero_grad()
        inputs = torch.randn(2, 1, 8, 8, generator=seeded(number))
        compiled(inputs).square().mean().backward()
        optimizer.step()
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
