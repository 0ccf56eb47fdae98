"""Top-k against a stable sort: exactly k, ties to the earlier tensor and the lower index, on both search paths."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunus import candidates, ranking
from prunus.ranking import find_cut, top_k, top_k_together

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DENORMAL = {torch.float16: 2**-24, torch.bfloat16: 2**-133, torch.float32: 2**-149, torch.float64: 2**-1074}


def in_pieces(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(ranking, "RUN", size)
    patch.setattr(candidates, "BLOCK", size)


@pytest.fixture(params=[ranking.RUN, 7], ids=["concatenated", "chunked"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    in_pieces(monkeypatch, request.param)
    return int(request.param)


def extremes(dtype: torch.dtype) -> list[float]:
    """Few values, so that ties abound: both zeros and infinities, huge, tiny and neighbouring ones."""
    info = torch.finfo(dtype)
    positive = [0.0, math.inf, info.max, info.tiny, DENORMAL[dtype], 1.0, 1.0 + info.eps]
    return positive + [-value for value in positive]


@st.composite
def scores(draw: st.DrawFn, most: int = 3) -> dict[str, Tensor]:
    drawn = {}
    for number in range(draw(st.integers(1, most))):
        dtype = draw(st.sampled_from(DTYPES))
        value = st.sampled_from(extremes(dtype)) | st.floats(-2, 2, width=16)
        drawn[f"layer{number}"] = torch.tensor(draw(st.lists(value, min_size=1, max_size=24)), dtype=dtype)
    return drawn


def by_stable_sort(scores: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    flat = torch.cat([score.reshape(-1).double() for score in scores.values()])
    mask = torch.zeros(flat.shape, dtype=torch.bool)
    mask[flat.sort(descending=True, stable=True).indices[:k]] = True
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, mask in found.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, expected[name]), name


@pytest.mark.parametrize("size", [ranking.RUN, 7], ids=["concatenated", "chunked"])
@settings(deadline=None, max_examples=60)
@given(scores=scores(), data=st.data())
def test_equals_a_stable_sort(size: int, scores: dict[str, Tensor], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, size)
        found = top_k_together(scores, k)
    assert sum(int(mask.sum()) for mask in found.values()) == k
    assert_same(found, by_stable_sort(scores, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_every_extreme(dtype: torch.dtype, chunk: int) -> None:
    values = torch.tensor(extremes(dtype) * 3, dtype=dtype)
    for k in range(len(values) + 1):
        assert_same({"scores": top_k(values, k)}, by_stable_sort({"scores": values}, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_scores_over_many_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 1000)
    generator = torch.Generator().manual_seed(0)
    layers = {name: torch.randn(3001, generator=generator).to(dtype) for name in ("a", "b")}
    layers["c"] = (layers["a"] * 4).round() / 4  # ties within and across layers
    for k in (1, 4500, 9002):
        assert_same(top_k_together(layers, k), by_stable_sort(layers, k))


def test_ties_go_to_the_earlier_tensor_and_the_lower_index(chunk: int) -> None:
    found = top_k_together({"a": torch.zeros(9), "b": torch.tensor([-0.0] * 9)}, 11)
    assert found["a"].all()
    assert found["b"].tolist() == [True, True] + [False] * 7


def test_flat_index_is_logical_whatever_the_layout(chunk: int) -> None:
    plain = torch.randint(3, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    channels_last = plain.to(memory_format=torch.channels_last)
    assert torch.equal(top_k(channels_last, 40), top_k(plain, 40))
    transposed = plain.view(8, 12)
    assert torch.equal(top_k(transposed.T, 40), top_k(transposed.T.contiguous(), 40))


@pytest.mark.parametrize("k", [0, 1, 8])
def test_nan_is_refused_by_name(k: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="'second' hold NaN"):
        top_k_together({"first": torch.ones(4), "second": torch.tensor([1.0, math.nan, 2.0, 3.0])}, k)


@pytest.mark.parametrize("k", [-1, 5])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.4, the number of scores, got {k}"):
        top_k(torch.ones(4), k)


def test_scores_stay_untouched(chunk: int) -> None:
    values = torch.tensor([3.0, -0.0, 2.0] * 5, requires_grad=True)
    before = values.detach().clone()
    assert not top_k(values, 3).requires_grad
    assert torch.equal(values, before)
    assert torch.equal(values.signbit(), before.signbit())


class LargestStorage(TorchDispatchMode):
    """Notes the bytes of the largest storage that any operation makes."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in self.known:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def test_a_search_makes_nothing_larger_than_a_chunk() -> None:
    values = torch.rand(4 * ranking.RUN, generator=torch.Generator().manual_seed(0))
    with LargestStorage(values) as largest:
        top_k(values, 1000)
    assert largest.bytes <= 8 * ranking.RUN  # int64 digits of one chunk; the mask has 4 * CHUNK bytes


@pytest.mark.parametrize(("size", "times"), [(7, 1), (8, 1), (28, 1), (29, 2)])
def test_the_keys_of_a_few_runs_are_computed_once(size: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 7)
    read = 0

    def counted(weight: Tensor, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        nonlocal read
        read += weight.numel()
        return weight

    weight = torch.rand(size, generator=torch.Generator().manual_seed(0))
    find_cut({"weight": candidates.Candidates(weight, criterion=counted)}, size // 2)
    assert read == times * size
