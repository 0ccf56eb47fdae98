"""Copies, averages, shared weights and memory layouts: a model stays a model."""

import copy

import pytest
import torch
from cases import (
    CASE,
    SEED,
    SPARSITY,
    STEPS,
    Bench,
    Case,
    all_cases,
    batch,
    equal,
    error,
    expected,
    final,
    network,
    plain,
    sgd,
    six_methods,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunus.carriers import Feedback
from prunus.masks import sparsity_of
from prunus.methods import METHODS
from prunus.sparsifier import sparsify


@all_cases
def test_copies_train_on_identically(case: Case) -> None:
    bench = Bench(case).train(last=7)
    inputs, targets = batch(7)
    bench.optimizer.zero_grad()
    error(bench.model(inputs), targets).backward()  # gradients exist at the time of the copy
    twin = copy.deepcopy(bench)
    for one in (bench, twin):
        one.train(first=7)
        assert one.sparsifier.clock == STEPS
    assert twin.model is not bench.model
    assert equal(twin.optimizer.state_dict(), bench.optimizer.state_dict())
    assert equal(final(twin.sparsifier, twin.model), final(bench.sparsifier, bench.model))
    assert equal(plain(bench.model), expected(case))


@all_cases
def test_a_copy_of_the_model_alone_can_be_made_plain(case: Case) -> None:
    bench = Bench(case).train()
    snapshot = copy.deepcopy(bench.model)
    bench.sparsifier.finalize(snapshot)
    assert equal(plain(snapshot), final(bench.sparsifier, bench.model))


@pytest.mark.parametrize("method", ["gsm", "lc"])
def test_a_copy_made_plain_before_the_end_is_pruned_by_its_own_weights(method: str) -> None:
    bench = Bench(CASE[method]).train(last=STEPS // 2)
    snapshot = copy.deepcopy(bench.model)
    with torch.no_grad():
        for weight in snapshot.parameters():
            weight.neg_().add_(0.01)  # as an average would differ
    bench.sparsifier.finalize(snapshot)
    weights = {name: snapshot.get_parameter(name) for name in bench.sparsifier.masks}
    assert abs(sparsity_of(weights.values()) - SPARSITY) < 0.01
    assert all(bool(mask.all()) for mask in bench.sparsifier.masks.values())  # training goes on


@pytest.mark.parametrize("average_first", [True, False])
@all_cases
def test_average_gets_the_zeros_of_the_masks(case: Case, average_first: bool) -> None:
    bench = Bench(case)
    average = AveragedModel(bench.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for number in range(STEPS):
        bench.step(number)
        average.update_parameters(bench.model)
    live = {name: value.clone() for name, value in bench.model.state_dict().items()}
    if average_first:
        bench.sparsifier.finalize(average.module)
        assert equal(bench.model.state_dict(), live), "the live model is untouched"
    masks = bench.sparsifier.finalize()
    if not average_first:
        bench.sparsifier.finalize(average.module)
    assert list(average.module.state_dict()) == list(network().state_dict())
    for name, mask in masks.items():
        assert not plain(average.module)[name][~mask].any()
        assert not torch.equal(plain(average.module)[name], plain(bench.model)[name]), "it is an average"
        if isinstance(bench.sparsifier.method, Feedback):
            assert plain(average.module)[name][mask].all(), "dense averages stand behind the newest mask"


@pytest.mark.parametrize("name", ["gmp", "dpf", "str", "gsm"])
def test_a_wrapped_copy_is_seen_through(name: str) -> None:
    bench = Bench(CASE[name]).train()
    masks = bench.sparsifier.masks
    snapshot = copy.deepcopy(bench.model)
    with torch.no_grad():
        for parameter in snapshot.parameters():
            parameter.add_(1.0)
    bench.sparsifier.finalize(torch.compile(snapshot, backend="eager"))  # type: ignore[arg-type]
    assert all(not plain(snapshot)[layer][~mask].any() for layer, mask in masks.items())


class Tied(nn.Module):
    """One weight used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(6, n).double() for n in (6, 6, 3))
        self.second.weight = self.first.weight
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.second(self.first(x).relu()).relu())
        return output


@six_methods
def test_tied_weights_stay_tied(case: Case) -> None:
    model = Tied()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    bench = Bench(case, model=model)
    assert list(bench.sparsifier.masks) == ["first.weight", "last.weight"]
    bench.train(last=STEPS // 2)
    assert torch.equal(model.first.weight, model.second.weight)
    masks = bench.train(first=STEPS // 2).sparsifier.finalize()
    assert model.second.weight is model.first.weight
    assert list(model.state_dict()) == keys
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert all(not plain(model)[name][~mask].any() for name, mask in masks.items())


class Convolutional(nn.Sequential):
    """Two convolutions, the second with 73,728 weights, and a linear layer; images (batch, 4, 6, 6)."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(4, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.Flatten(), nn.Linear(512, 3))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)


@six_methods
def test_channels_last_gives_the_masks_of_the_default_layout(case: Case) -> None:
    trained = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = Convolutional().to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
        sparsifier = sparsify(model, optimizer, case.method(), 6, seed=SEED)
        for number in range(6):
            inputs = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(number)).to(memory_format=layout)
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
        masks = sparsifier.finalize()
        weight = model[2].weight
        assert weight.is_contiguous(memory_format=layout)
        assert case.name == "str" or masks["2.weight"].stride() == weight.stride()
        trained.append((masks, plain(model)))
    (masks, weights), (other_masks, other_weights) = trained
    differing = sum(int((masks[name] != other_masks[name]).sum()) for name in masks)
    assert differing <= 20, "a sum in another order may swap neighbours in a ranking of 75,000"
    for name, mask in masks.items():
        both = mask & other_masks[name]
        torch.testing.assert_close(weights[name] * both, other_weights[name] * both, rtol=0, atol=1e-4)


def test_draws_do_not_depend_on_the_layout() -> None:
    masks = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = Convolutional().to(memory_format=layout)
        masks.append(sparsify(model, sgd(model), METHODS["random"](0.9), 5, seed=SEED).masks)
    assert equal(*masks)


@pytest.mark.parametrize("name", ["dpf", "str"])
def test_parameters_keep_their_order_whatever_is_chosen(name: str) -> None:
    model = network()
    order = [parameter_name for parameter_name, _ in model.named_parameters()]
    sparsifier = sparsify(model, sgd(model), METHODS[name](0.5), STEPS, include="*")
    sparsifier.finalize()
    assert [parameter_name for parameter_name, _ in model.named_parameters()] == order
