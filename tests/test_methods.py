"""The matrix: every method of `cases.CASES` against its twin, its promises, a checkpoint, a pickle and the compiler."""

import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    OPTIMIZERS,
    SEED,
    SPARSITY,
    STATE,
    STEPS,
    USED,
    Bench,
    Case,
    all_cases,
    batch,
    equal,
    network,
    plain,
    raw,
)
from reference import Run
from torch import Tensor
from torch._dynamo.utils import counters

from prunus.methods import METHODS

TWIN_STEPS = 45  # its window ends between two updates


def refuses(case: Case, optimizer_name: str) -> bool:
    return case.name == "lc" and optimizer_name == "adamw"


def test_every_method_is_in_the_matrix() -> None:
    assert {case.name for case in CASES} == set(METHODS)


@all_cases
def test_equals_its_naive_twin(case: Case) -> None:
    run = Run(plain(network()), batch, TWIN_STEPS, SEED)
    case.twin(run, SPARSITY, **case.arguments)
    bench = Bench(case, steps=TWIN_STEPS).train()
    masks = bench.sparsifier.finalize()
    assert equal(masks, run.masks)
    for name, value in plain(bench.model).items():
        torch.testing.assert_close(value, run.values[name], rtol=0, atol=1e-12)


@all_cases
def test_final_sparsity_is_exact(case: Case) -> None:
    masks, _ = raw(str(case))
    kept, total = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    if case.count is None:
        assert 0 < kept < total, "the matrix needs arguments under which something goes and something stays"
    else:
        assert kept == case.count({name: tuple(mask.shape) for name, mask in masks.items()}, SPARSITY)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@all_cases
def test_off_the_mask_is_zero_after_every_step(case: Case, optimizer_name: str) -> None:
    if refuses(case, optimizer_name):
        with pytest.raises(ValueError, match="AdamW's decay bypasses them"):
            Bench(case, optimizer_name)
        return
    bench = Bench(case, optimizer_name)
    for number in range(STEPS):
        bench.step(number)
        for name, mask in bench.sparsifier.masks.items():
            assert mask.any() or case.count is None, f"{name} is empty after step {number}"
            for what, tensor in kept_zero(bench, case, name):
                assert not tensor[~mask].any(), f"{what} of {name} after step {number}"
    masks = bench.sparsifier.finalize()
    assert all(not plain(bench.model)[name][~mask].any() for name, mask in masks.items())


def kept_zero(bench: Bench, case: Case, name: str) -> Iterator[tuple[str, Tensor]]:
    weight = bench.sparsifier.site.weights[name]
    if case.zero in (STATE, USED):
        layer, key = name.split(".")
        yield "the weight in use", getattr(bench.model.get_submodule(layer), key)
    if case.zero == STATE:
        assert weight.grad is not None
        yield "the gradient", weight.grad
        state = bench.optimizer.state[weight]
        yield from ((key, value) for key, value in state.items() if value.shape == weight.shape)


@all_cases
def test_steps_beyond_the_last_keep_the_masks(case: Case) -> None:
    bench = Bench(case).train(last=STEPS + 3)
    masks = bench.sparsifier.finalize()
    assert all(not plain(bench.model)[name][~mask].any() for name, mask in masks.items())
    if case.count is not None:
        kept = sum(int(mask.sum()) for mask in masks.values())
        assert kept == case.count({name: tuple(mask.shape) for name, mask in masks.items()}, SPARSITY)


@all_cases
def test_finalize_leaves_the_model_as_it_came(case: Case) -> None:
    model = network()
    keys, named, classes = list(model.state_dict()), dict(model.named_parameters()), [type(m) for m in model.modules()]
    bench = Bench(case, model=model).train()
    inputs, _ = batch(0)
    before = model(inputs)
    bench.sparsifier.finalize()
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert list(dict(model.named_parameters())) == list(named)
    assert all(now is named[name] for name, now in model.named_parameters())
    network().load_state_dict(model.state_dict())
    if case.name != "cs":  # its soft mask hardens only now
        assert torch.equal(model(inputs), before)


@all_cases
def test_finalize_again_changes_nothing_and_steps_are_free(case: Case) -> None:
    bench = Bench(case).train(last=STEPS - 1)
    masks = bench.sparsifier.finalize()
    weights = {name: value.clone() for name, value in plain(bench.model).items()}
    assert equal(bench.sparsifier.finalize(), masks)
    assert equal(plain(bench.model), weights)
    clock = bench.sparsifier.clock
    bench.step(0)
    assert bench.sparsifier.clock == clock, "the hooks are gone"


@all_cases
def test_unattached_method_pickles(case: Case) -> None:
    method = case.method()
    copy = pickle.loads(pickle.dumps(method))
    assert repr(copy) == repr(method)
    one, other = Bench(case, method=method).train(last=8), Bench(case, method=copy).train(last=8)
    assert equal(one.sparsifier.masks, other.sparsifier.masks)
    assert equal(one.model.state_dict(), other.model.state_dict())


@all_cases
def test_one_method_is_one_training(case: Case) -> None:
    method = case.method()
    Bench(case, method=method)
    with pytest.raises(RuntimeError, match="attached to a model already; make a new one"):
        Bench(case, method=method)


@all_cases
def test_resume_is_bit_identical(case: Case) -> None:
    whole = Bench(case, "adam").train(last=7)
    between_updates = checkpoint(whole)
    at_an_update = checkpoint(whole.train(first=7, last=10))
    whole.train(first=10)
    for state in (between_updates, at_an_update):
        resumed = Bench(case, "adam")
        resumed.model.load_state_dict(state["model"])
        resumed.optimizer.load_state_dict(state["optimizer"])
        resumed.sparsifier.load_state_dict(state["sparsifier"])
        assert equal(checkpoint(resumed), state)
        resumed.train(first=resumed.sparsifier.clock)
        assert equal(checkpoint(resumed), checkpoint(whole))
        assert equal(resumed.sparsifier.masks, whole.sparsifier.masks)


def checkpoint(bench: Bench) -> dict[str, Any]:
    """Through a file that holds tensors and plain containers alone."""
    file = io.BytesIO()
    parts = {"model": bench.model, "optimizer": bench.optimizer, "sparsifier": bench.sparsifier}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


@all_cases
def test_attaching_and_training_leave_global_randomness_alone(case: Case) -> None:
    model = network()
    before = torch.get_rng_state()
    Bench(case, model=model).train().sparsifier.finalize()
    assert torch.equal(torch.get_rng_state(), before)


@all_cases
def test_two_seeds_draw_two_masks_or_none(case: Case) -> None:
    draws = case.name in ("random", "set", "rigl", "itop", "snfs", "rp-rr", "granet")
    draws = case.arguments.get("mask_init", "random" if draws else "magnitude") == "random"
    assert equal(*(Bench(case, seed=seed).sparsifier.masks for seed in (1, 2))) is not draws


@pytest.mark.filterwarnings(
    # torch's own: the compiler makes an object of every autograd.Function that it meets
    "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"
)
@all_cases
@pytest.mark.slow
def test_compiles_once_whatever_the_masks_do(case: Case) -> None:
    torch.compiler.reset()
    counters.clear()
    compiled, eager = Bench(case), Bench(case)
    compiled.forward = torch.compile(compiled.model, fullgraph=True, backend="aot_eager")
    assert equal(plain(compiled.train().model), plain(eager.train().model))
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
