"""Scores read block by block against whole tensors: the same masks in any layout, in the memory of a few blocks."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from prunus import candidates, ranking
from prunus.allocation import ALLOCATIONS, CollapseWarning, global_, uniform
from prunus.candidates import Candidates, blocks
from prunus.criteria import CRITERIA, Criterion, elementwise, is_elementwise, magnitude
from prunus.masks import Masks, Tensors, keep_count
from prunus.plans import Even
from prunus.randomness import seeded
from prunus.ranking import NotANumberError, top_k
from prunus.schedules import Constant
from prunus.updates import DropGrow, Prune, Resize, State

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.flatten(1).T.contiguous().T.view(t.shape) if t.shape[2:] == (1, 1) else t,
    "every second": lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
}


def in_pieces(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr(candidates, "BLOCK", size)
    patch.setattr(ranking, "RUN", size)


@st.composite
def states(draw: st.DrawFn) -> State:
    """Three layers of few values, so that ties abound: zeros of both signs, infinities, whole layers of zeros."""
    weights, signals, masks = {}, {}, {}
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, math.inf])
    for name in "abc":
        shape = draw(st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 2)] * 2))
        n, dtype = math.prod(shape), draw(st.sampled_from(DTYPES))
        lists = st.lists(value if draw(st.booleans()) else st.just(0.0), min_size=n, max_size=n)
        layout = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
        weights[name] = layout(torch.tensor(draw(lists), dtype=dtype).view(shape))
        signals[name] = layout(torch.tensor([1.0, -1.0, 0.5] * n)[:n].to(dtype).view(shape))
        alive = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        masks[name] = layout(torch.tensor(alive).view(shape).contiguous())
    return State(weights, masks, signals, 1.0, seeded(0))


def naive_global(scores: Tensors, k: int) -> Masks:
    """The k highest of one stable sort; while a layer has none, its best goes before all others."""
    flat = torch.cat([score.reshape(-1).double() for score in scores.values()])
    sizes, floor = [score.numel() for score in scores.values()], []
    while True:
        order = [i for i in flat.sort(descending=True, stable=True).indices.tolist() if i not in floor]
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[(floor + order)[:k]] = True
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        empty = [(s, n) for s, n in zip(starts, sizes, strict=True) if not mask[s : s + n].any()]
        if not empty:
            parts = zip(scores.items(), mask.split(sizes), strict=True)
            return {name: part.view(score.shape) for (name, score), part in parts}
        floor += [s + int(flat[s : s + n].argmax()) for s, n in empty]


def cloned(state: State) -> State:
    return replace(state, masks={name: mask.clone() for name, mask in state.masks.items()})


@pytest.mark.parametrize("recover", [False, True])
@pytest.mark.parametrize("criterion", [c for c in CRITERIA.values() if is_elementwise(c)], ids=lambda c: c.__name__)
@settings(deadline=None, max_examples=8)
@given(before=states(), sparsity=st.floats(0, 0.99), size=st.sampled_from([1, 3, 8, 1 << 17]))
def test_global_pruning_equals_a_sort_of_everything(
    criterion: Criterion, recover: bool, before: State, sparsity: float, size: int
) -> None:
    scores = {n: criterion(w, before.signals[n], before.generator) for n, w in before.weights.items()}
    if not recover:
        scores = {n: score.masked_fill(~before.masks[n], -math.inf) for n, score in scores.items()}
    k = keep_count(sum(score.numel() for score in scores.values()), sparsity)
    if k < 3 or any(bool(score.isnan().any()) for score in scores.values()):
        return
    expected = naive_global(scores, k)
    rule = Prune(Constant(sparsity), criterion, recover=recover)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        in_pieces(patch, size)
        found, given_masks = rule(before), cloned(before)
        written = rule(replace(given_masks, in_place=True))
    for name, mask in expected.items():
        wanted = mask if recover else mask & before.masks[name]
        assert torch.equal(found[name], wanted), name
        assert torch.equal(written[name], wanted), name
        assert written[name] is given_masks.masks[name]
        assert found[name] is not before.masks[name]


def whole(criterion: Criterion) -> Criterion:
    """The same criterion without its mark, so that all scores are computed at once."""
    return lambda weight, signal, generator: criterion(weight, signal, generator)


RULES: dict[str, Callable[[Criterion], Any]] = {
    "uniform": lambda criterion: Prune(Constant(0.6), criterion, uniform),
    "lamp": lambda criterion: Prune(Constant(0.6), criterion, ALLOCATIONS["lamp"]),
    "an allocation of one's own": lambda criterion: Prune(Constant(0.6), criterion, lambda s, x: uniform(s, x)),
    "resize": lambda criterion: Resize(Even(Constant(0.4)), drop=criterion, grow=criterion),
    "drop and grow": lambda criterion: DropGrow(Constant(0.4), drop=criterion, grow=criterion),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(deadline=None, max_examples=6)
@given(before=states(), size=st.sampled_from([1, 3, 8]))
def test_other_rules_do_not_see_the_difference(rule: Callable[[Criterion], Any], before: State, size: int) -> None:
    finite = {name: weight.nan_to_num(posinf=3.0) for name, weight in before.weights.items()}
    before = replace(before, weights=finite)
    if keep_count(sum(weight.numel() for weight in finite.values()), 0.6) < len(finite):
        return
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        expected = rule(whole(magnitude))(cloned(before))
        in_pieces(patch, size)
        found = rule(magnitude)(before)
        written = rule(magnitude)(replace(cloned(before), in_place=True))
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name
        assert torch.equal(written[name], mask), name


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 5), max_size=4), size=st.integers(1, 40))
def test_blocks_cover_a_tensor_in_the_order_of_its_index(shape: list[int], size: int) -> None:
    tensor = torch.arange(math.prod(shape)).view(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "BLOCK", size)
        found = list(blocks(tensor))
    assert torch.cat([block.reshape(-1) for block in found]).tolist() == list(range(tensor.numel()))
    assert all(block.numel() <= size for block in found)
    assert all(block.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for block in found)


def test_nan_is_refused_before_anything_is_written() -> None:
    weights = {"a": torch.randn(4, 4), "b": torch.randn(4, 4)}
    weights["b"][1, 1] = math.nan
    for allocation in (global_, uniform):
        masks = {name: torch.ones(4, 4, dtype=torch.bool) for name in weights}
        with pytest.raises(NotANumberError, match="'b' hold NaN"):
            Prune(Constant(0.5), allocation=allocation)(State(weights, masks, None, 1.0, seeded(0), in_place=True))
        assert all(mask.all() for mask in masks.values())


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF])  # the first and the last NaN of both signs
def test_every_nan_is_seen_and_none_outside_the_candidates(bits: int) -> None:
    scores = torch.tensor([0x3F800000, bits, 0x40000000, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert scores.isnan().tolist() == [False, True, False, False]
    with pytest.raises(NotANumberError):
        top_k(scores, 2)
    assert top_k(Candidates(scores, among=~scores.isnan()), 2).tolist() == [False, False, True, True]


def test_a_criterion_without_the_mark_is_called_once_for_a_whole_weight() -> None:
    calls: list[torch.Size] = []

    def counted(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
        calls.append(weight.shape)
        return weight.abs()

    weights = {"a": torch.randn(30, 10), "b": torch.randn(20, 10)}
    now = State(weights, {n: torch.ones(w.shape, dtype=torch.bool) for n, w in weights.items()}, None, 1.0, seeded(0))
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, 64)
        masks = Prune(Constant(0.5), counted)(now)
        assert calls == [(30, 10), (20, 10)]
        marked = Prune(Constant(0.5), elementwise(counted))(now)
    assert max(map(math.prod, calls[2:])) <= 64
    assert all(torch.equal(marked[name], mask) for name, mask in masks.items())


class Live(TorchDispatchMode):
    """Notes the most bytes that storages made inside held at one moment."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.held = {key: pair for key, pair in self.held.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result


@pytest.mark.parametrize("criterion", ["magnitude", pytest.param("saliency", marks=pytest.mark.slow)])
def test_a_global_update_holds_a_tenth_of_the_weights_at_most(criterion: str) -> None:
    weights = {str(i): torch.randn(1100, 1000, generator=seeded(i)) for i in range(10)}
    masks = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    now = State(weights, masks, weights, 1.0, seeded(0), in_place=True)
    with Live(*weights.values(), *masks.values()) as live:
        Prune(Constant(0.9), CRITERIA[criterion])(now)
    assert live.peak <= 0.1 * sum(weight.nbytes for weight in weights.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(11_000_000, 0.9)
