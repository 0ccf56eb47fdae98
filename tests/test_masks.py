"""Masks by name: the one rounding rule, which weights are prunable, projection in every memory layout."""

import math
from fractions import Fraction

import pytest
import torch
import torch.distributed as dist
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunus import masks as module
from prunus.masks import (
    full_masks,
    keep_count,
    multiply_,
    pack,
    project_,
    project_state_,
    prunable,
    sparsity_of,
    unpack,
    unwrap,
)

GOLDEN = golden("counts")
HALVES_TO_EVEN = {("resnet8", 0.95), ("resnet8", 0.97), ("resnet8", 0.99)}


@pytest.mark.parametrize(
    ("n", "sparsity", "kept"),
    [(10, 0.0, 10), (5, 0.5, 2), (10, 0.25, 7), (848_944, 0.9, 84_894), (4, 0.99, 1), (1, 0.999, 1), (3, 1 / 3, 2)],
)
def test_keep_count(n: int, sparsity: float, kept: int) -> None:
    assert keep_count(n, sparsity) == kept


@given(n=st.integers(1, 10**7), sparsity=st.floats(0, 1, exclude_max=True), other=st.floats(0, 1, exclude_max=True))
def test_keep_count_is_the_nearest_above_zero_and_falls_with_sparsity(n: int, sparsity: float, other: float) -> None:
    kept = keep_count(n, sparsity)
    assert 1 <= kept <= n
    error = abs(kept - n * (1 - Fraction(sparsity)))
    assert error <= Fraction(1, 2) + Fraction(1, 10**6) or kept == 1
    low, high = sorted((sparsity, other))
    assert keep_count(n, low) >= keep_count(n, high)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90.0, math.nan])
def test_a_sparsity_outside_is_refused_with_a_remedy(sparsity: float) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 1\), got {sparsity}; to keep a tenth of the weights pass 0.9"):
        keep_count(10, sparsity)


def test_golden_rounding() -> None:
    """The vectors round density * N half up, the project rounds sparsity * N half up and allows no sparsity of 1.

    So entries with an exact half (0.5 of 5 and of 7, 0.25 of 10, 0.1 of 15) and density 0 are left out.
    """
    cases = [case for case in GOLDEN["rounding"] if case["density"] > 0 and case["density"] * case["N"] % 1 != 0.5]
    assert len(cases) == len(GOLDEN["rounding"]) - 5
    for case in cases:
        assert keep_count(case["N"], 1 - case["density"]) == case["n_active"], case


def test_golden_keep_counts() -> None:
    """The study rounds ``N * (1 - s)`` by Python's round; at the exact halves of ResNet-8 that keeps one more."""
    for name, table in GOLDEN["keep_counts"].items():
        for sparsity, kept in table["kept"].items():
            expected = kept - ((name, float(sparsity)) in HALVES_TO_EVEN)
            assert keep_count(table["total"], float(sparsity)) == expected, (name, sparsity)


def mixed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(2, 2, 1),
        nn.Conv2d(2, 2, 1),
        nn.Conv3d(2, 2, 1),
        nn.ConvTranspose2d(2, 2, 1),
        nn.Embedding(4, 2),
        nn.BatchNorm1d(2),
        nn.LayerNorm(2),
        nn.Sequential(nn.Linear(2, 2)),
    )


def test_prunable_are_the_weights_of_linear_and_convolution() -> None:
    model = mixed()
    weights = prunable(model)
    assert list(weights) == ["0.weight", "1.weight", "2.weight", "3.weight", "7.0.weight"]
    assert all(weight is model.get_parameter(name) for name, weight in weights.items())
    assert list(prunable(nn.Linear(2, 2))) == ["weight"]


def test_a_tied_weight_counts_once_and_one_tied_to_an_embedding_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4), nn.Embedding(4, 3))
    model[1].weight = model[0].weight
    model[3].weight = model[2].weight
    assert list(prunable(model)) == ["0.weight"]


def test_globs_choose() -> None:
    model = mixed()
    assert list(prunable(model, include="*.bias")) == [f"{i}.bias" for i in (0, 1, 2, 3, 5, 6)] + ["7.0.bias"]
    assert list(prunable(model, include=["4.*", "1.weight"])) == ["1.weight", "4.weight"]
    assert list(prunable(model, exclude=["[01].*", "7.*"])) == ["2.weight", "3.weight"]
    assert list(prunable(model, include="[01].weight", exclude="1.*")) == ["0.weight"]


@pytest.mark.parametrize("role", ["include", "exclude"])
def test_a_glob_that_matches_nothing_is_refused_with_the_names(role: str) -> None:
    with pytest.raises(ValueError, match=rf"{role} glob 'fc\*' matches no parameter; the names are 0.weight, 0.bias"):
        prunable(mixed(), **{role: ["0.weight", "fc*"]})


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="no prunable weight"):
        prunable(nn.Linear(2, 2), exclude="*")
    with pytest.raises(ValueError, match="no prunable weight"):
        prunable(nn.BatchNorm1d(2))


def test_a_computed_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight of '1' is computed from another parameter"):
        prunable(nn.Sequential(nn.Linear(2, 2), parametrizations.weight_norm(nn.Linear(2, 2))))


def test_a_computed_weight_may_be_excluded() -> None:
    model = nn.Sequential(nn.Linear(2, 2), parametrizations.weight_norm(nn.Linear(2, 2)))
    assert list(prunable(model, exclude="1.*")) == ["0.weight"]


def test_wrappers_are_seen_through() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = [nn.DataParallel(model), nn.parallel.DistributedDataParallel(model)]
        wrapped += [torch.compile(inner, backend="eager") for inner in (model, wrapped[-1])]
    finally:
        dist.destroy_process_group()
    for wrapper in wrapped:
        assert unwrap(wrapper) is model
        assert list(prunable(wrapper, include="0.*")) == ["0.weight", "0.bias"]


def test_project_zeroes_what_masks_drop_and_nothing_else() -> None:
    weight, other = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), torch.ones(2)
    project_({"weight": weight, "other": other}, {"weight": torch.tensor([True, False, True])})
    assert weight.tolist() == [1, 0, 3]
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert other.tolist() == [1, 1]


LAYOUTS = {
    "vector": lambda t: t.reshape(-1),
    "matrix": lambda t: t.reshape(len(t), -1),
    "sequence": lambda t: t.flatten(2),
    "image": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "volume": lambda t: t.unsqueeze(-1),
    "channels last 3d": lambda t: t.unsqueeze(-1).to(memory_format=torch.channels_last_3d),
    "transposed": lambda t: t.reshape(len(t), -1).T,
    "every second": lambda t: t.reshape(-1)[::2],
    "from the middle": lambda t: t.reshape(-1)[5:],
}


@pytest.mark.parametrize("mask_layout", ["contiguous", "like the weight"])
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None, max_examples=12)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 2, *[st.integers(1, 3)] * 2).filter(lambda shape: math.prod(shape) > 6),
    chunk=st.sampled_from([1, 7, 64, 1 << 18]),
    widen=st.sampled_from([1, 1 << 12]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_multiply_equals_the_product_in_every_layout(
    layout: str, mask_layout: str, shape: tuple[int, ...], chunk: int, widen: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(math.prod(shape))
    tensor = LAYOUTS[layout](torch.randn(shape, generator=generator).to(dtype))
    mask = LAYOUTS[layout](torch.rand(shape, generator=generator) < 0.5)
    if mask_layout == "contiguous":
        mask = mask.contiguous()
    expected, storage = tensor * mask, tensor.data_ptr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        patch.setattr(module, "WIDEN", widen)
        multiply_(tensor, mask)
    assert torch.equal(tensor, expected)
    assert tensor.data_ptr() == storage


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=str)
def test_multiply_of_several_full_chunks(fmt: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(600, 101, 3, 3, generator=generator).to(memory_format=fmt)
    mask = full_masks({"weight": tensor})["weight"].copy_(torch.rand(tensor.shape, generator=generator) < 0.5)
    assert mask.stride() == tensor.stride()
    assert tensor.numel() > 2 * module.CHUNK
    expected = tensor * mask
    multiply_(tensor, mask)
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad])
def test_state_is_projected_by_shape(optimizer_class: type[torch.optim.Optimizer]) -> None:
    model = nn.Linear(3, 2)
    momentum = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
    optimizer = optimizer_class(model.parameters(), lr=0.1, **momentum)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.state[model.weight]["rows"] = torch.ones(2)  # a factored second moment, as in Adafactor
    mask = torch.tensor([[True, False, True], [False, True, False]])
    project_state_(optimizer, {"weight": model.weight}, {"weight": mask})
    shaped = [v for v in optimizer.state[model.weight].values() if isinstance(v, Tensor) and v.shape == mask.shape]
    assert shaped
    assert all(torch.equal(value != 0, mask) for value in shaped)
    assert optimizer.state[model.weight]["rows"].tolist() == [1, 1]
    assert optimizer.state[model.weight].get("step", 1) == 1
    assert all(bool(v.all()) for v in optimizer.state[model.bias].values() if isinstance(v, Tensor))


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_pack_round_trip_at_one_bit_a_weight(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert packed.numel() == math.ceil(mask.numel() / 8)
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_pack_puts_the_lowest_bit_first_in_logical_order() -> None:
    assert pack(torch.tensor([True, False, True, False, False, False, False, True, True])).tolist() == [133, 1]
    mask = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(pack(mask.to(memory_format=torch.channels_last)), pack(mask))


def test_sparsity_is_over_all_masks() -> None:
    assert sparsity_of([torch.tensor([True, False]), torch.zeros(6, dtype=torch.bool)]) == 7 / 8
    assert sparsity_of([torch.tensor([0.0, 2.0])]) == 0.5
