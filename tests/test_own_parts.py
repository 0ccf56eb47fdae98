"""Functions and a class of the user's own take part at once."""

from dataclasses import dataclass, field

import pytest
import torch
from cases import CASE, STEPS, Bench, batch, error, network, plain, sgd
from torch import Generator, Tensor, nn

from prunus.allocation import uniform
from prunus.carriers import Masked, Site
from prunus.masks import Masks, Tensors, Weights, full_masks, project_
from prunus.methods import gmp, magnitude_pruning, one_shot, set_
from prunus.sparsifier import sparsify
from prunus.updates import Prune


def smallest(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    return -weight.abs()


def test_a_criterion_of_ones_own() -> None:
    ours, theirs = network(), network()
    kept = sparsify(ours, sgd(ours), one_shot(0.5, at=0.0, criterion=smallest), steps=1).masks
    dropped = sparsify(theirs, sgd(theirs), magnitude_pruning(0.5), steps=1).masks
    assert all(torch.equal(kept[name], ~dropped[name]) for name in kept)


def columns(scores: Tensors, sparsity: float) -> Masks:
    """The first inputs of every layer stay."""
    keep = {name: round((1 - sparsity) * score.shape[1]) for name, score in scores.items()}
    return {n: (torch.arange(s.shape[1]) < keep[n]).expand(s.shape) for n, s in scores.items()}


@pytest.mark.parametrize("method", [gmp(0.5, update_every=4, allocation=columns), set_(0.5, allocation=columns)])
def test_an_allocation_of_ones_own(method: Masked) -> None:
    bench = Bench(CASE["gmp"], method=method).train(last=STEPS if method.start is None else 1)
    assert all(bool(mask[:, : mask.shape[1] // 2].all()) for mask in bench.sparsifier.masks.values())
    assert bench.sparsifier.sparsity() == 0.5


def stairs(progress: float) -> float:
    return 0.25 if progress < 0.5 else 0.75


def test_a_schedule_and_a_cadence_of_ones_own() -> None:
    def twice(clock: int, steps: int) -> list[float]:
        return [clock / steps] if clock in (3, 10) else []

    bench = Bench(CASE["gmp"], method=Masked(Prune(stairs), twice))
    seen = []
    for number in range(STEPS):
        seen.append(round(bench.sparsifier.sparsity(), 2))
        bench.step(number)
    assert seen == [0.0] * 3 + [0.25] * 7 + [0.75] * 6


def test_a_signal_of_ones_own() -> None:
    def biases(model: nn.Module, weights: Weights) -> Tensors:
        return {n: model.get_submodule(n.split(".")[0]).bias.detach()[:, None].expand_as(w) for n, w in weights.items()}

    def by_signal(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
        assert signal is not None
        return signal

    model = network()
    masks = sparsify(
        model, sgd(model), one_shot(0.5, at=0.0, criterion=by_signal, allocation=uniform, signal=biases), steps=1
    ).masks
    assert all(bool((mask.all(1) | ~mask.any(1)).sum() >= len(mask) - 1) for mask in masks.values())


@dataclass(eq=False)
class FreezeRows:
    """A carrier of one's own: drops the first row of every weight after half of the steps; logs every call."""

    calls: list[tuple[str, int]] = field(default_factory=list)
    masks: Masks = field(init=False)
    site: Site = field(init=False)

    def attach(self, site: Site) -> None:
        self.site, self.masks = site, full_masks(site.weights)

    def before_step(self, clock: int) -> None:
        self.calls.append(("before", clock))

    def edit_gradients(self) -> None:
        self.calls.append(("edit", -1))

    def after_step(self, clock: int) -> None:
        self.calls.append(("after", clock))
        if 2 * clock >= self.site.steps:
            for mask in self.masks.values():
                mask[0] = False
        project_(self.site.weights, self.masks)

    changes = 0

    def reads_dropped(self, clock: int) -> bool:
        return False

    def finalize(self) -> None:
        self.calls.append(("finalize", -1))

    def finalize_copy(self, model: nn.Module) -> None:
        project_(dict(model.named_parameters()), self.masks)

    def state_dict(self) -> dict[str, Tensors]:
        return {}

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        self.after_step(clock)


def test_a_carrier_of_ones_own_and_the_clock_that_it_sees() -> None:
    method = FreezeRows()
    bench = Bench(CASE["gmp"], method=method, steps=4).train(last=3)
    bench.sparsifier.finalize()
    assert method.calls == [
        *(("before", 0), ("edit", -1), ("after", 1)),
        *(("before", 1), ("edit", -1), ("after", 2)),
        *(("before", 2), ("edit", -1), ("after", 3)),
        ("finalize", -1),
    ]
    assert bench.sparsifier.sparsity() == pytest.approx((6 + 10 + 8) / 164)
    assert all(not weight[0].any() for name, weight in plain(bench.model).items() if "weight" in name)


def test_a_line_search_decides_once_and_edits_every_gradient() -> None:
    method, model, calls = FreezeRows(), network(), 0
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    sparsify(model, optimizer, method, 2)

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = error(model(batch(0)[0]), batch(0)[1])
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert [call for call in method.calls if call[0] != "edit"] == [
        *(("before", 0), ("after", 1)),
        *(("before", 1), ("after", 2)),
    ]
    assert len(method.calls) - 4 == calls > 2
