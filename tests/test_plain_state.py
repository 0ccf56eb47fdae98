"""The state of a model with parts before its weights, as that of the dense network."""

import copy

import torch
from cases import CASE, SPARSITY, Bench, batch, equal, network

from prunus.integrations.attached import Attached
from prunus.integrations.plain import dense_state


def test_state_is_that_of_the_dense_network_with_the_weights_in_use() -> None:
    bench = Bench(CASE["str"]).train(last=8)
    dense = dense_state(bench.model)
    Attached(bench.sparsifier)
    state = bench.model.state_dict()
    assert set(state) == set(network().state_dict())
    assert equal(state["0.weight"], bench.model[0].weight.detach())
    assert equal(dense_state(bench.model), dense)
    assert not set(dense) & set(state)


def test_what_state_dict_gives_loads_again() -> None:
    bench, other = Bench(CASE["str"]).train(last=8), Bench(CASE["str"])
    Attached(bench.sparsifier)
    Attached(other.sparsifier)
    threshold = other.model[0].parametrizations.weight[0].threshold.clone()
    other.model.load_state_dict(bench.model.state_dict())  # strict
    assert equal(other.model[0].parametrizations.weight.original.detach(), bench.model[0].weight.detach())
    assert torch.equal(other.model[0].parametrizations.weight[0].threshold, threshold), "it is not in the state"


def test_state_and_dense_state_together_restore_all() -> None:
    bench, other = Bench(CASE["dpf"]).train(last=8), Bench(CASE["dpf"])
    saved, restored = Attached(bench.sparsifier), Attached(other.sparsifier)
    other.model.load_state_dict(bench.model.state_dict())
    restored.load_state_dict(saved.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(bench.optimizer.state_dict()))
    for one in (bench, other):
        one.train(first=8)
    assert equal(restored.finalize(), saved.finalize())
    assert equal(other.model.state_dict(), bench.model.state_dict())
    inputs, _ = batch(0)
    assert torch.equal(other.model(inputs), bench.model(inputs))
    assert other.sparsifier.sparsity() == SPARSITY


def test_a_nested_model_has_its_prefix() -> None:
    bench = Bench(CASE["dpf"])
    Attached(bench.sparsifier)
    outer = torch.nn.ModuleDict({"net": bench.model})
    assert set(outer.state_dict()) == {f"net.{name}" for name in network().state_dict()}
    outer.load_state_dict(outer.state_dict())
