"""The carrier of IMP and BIMP: its rates, its prunings and what it records of them."""

from collections.abc import Callable

import pytest
import torch
from cases import Bench, batch, network
from test_golden_methods import Trained
from torch import nn

from prunus import sparsify
from prunus.carriers import Carrier, Rates, Retrained
from prunus.criteria import saliency
from prunus.methods import bimp, imp
from prunus.retraining import Pretraining, allr, llr
from prunus.schedules import Constant, WarmUp, linear
from prunus.signals import Gradient, LossGradient

LINE = Pretraining(tuple(0.1 * (1 - step / 50) for step in range(50)))


def bench(method: Carrier, steps: int = 24) -> Bench:
    return Bench(None, method=method, steps=steps)  # type: ignore[arg-type]


def rates_of(trained: Bench) -> list[float]:
    """The rate that the optimizer took in each step."""
    taken: list[float] = []
    trained.optimizer.register_step_post_hook(lambda optimizer, a, k: taken.append(optimizer.param_groups[0]["lr"]))
    trained.train()
    return taken


def test_golden_one_shot_pruning() -> None:
    method = imp(0.7, pretraining=Pretraining((0.1,) * 1000))
    trained = Trained(method, steps=10)
    kept = {name: mask.nonzero().tolist() for name, mask in trained.sparsifier.masks.items()}
    assert kept == {"fc1.weight": [[0, 0], [1, 0]], "fc2.weight": [[0, 0]]}
    (cycle,) = method.record
    assert cycle.drop == pytest.approx(0.397868, abs=1e-6)
    assert cycle.peak == pytest.approx(0.0475544, abs=1e-7)


def test_golden_first_of_two_cycles() -> None:
    method = imp(0.7, cycles=2, pretraining=Pretraining((0.1,) * 1000))
    trained = Trained(method, steps=10)
    kept = {name: mask.nonzero().tolist() for name, mask in trained.sparsifier.masks.items()}
    assert kept == {"fc1.weight": [[0, 0], [1, 0], [1, 1]], "fc2.weight": [[0, 0], [1, 1]]}
    assert method.record[0].drop == pytest.approx(0.237003, abs=1e-6)
    assert method.record[0].fraction == pytest.approx(0.4522774)


def test_each_cycle_has_the_rates_of_its_own_drop_and_length() -> None:
    method = imp(0.9, cycles=3, pretraining=LINE)
    taken = rates_of(bench(method, steps=26))
    assert [cycle.step for cycle in method.record] == [0, 8, 16]
    assert [cycle.length for cycle in method.record] == [8, 8, 10]
    expected = []
    for cycle in method.record:
        rate = allr(LINE, cycle.length, drop=cycle.drop, fraction=cycle.fraction)
        assert cycle.peak == rate.peak
        expected += [rate(step / cycle.length) for step in range(cycle.length)]
    assert taken == pytest.approx(expected, rel=1e-12)
    assert len({cycle.peak for cycle in method.record}) == 3


def test_the_budgeted_kind_trains_on_a_line_then_restarts_from_its_peak() -> None:
    method = bimp(0.9, dense=0.5, cycles=2, peak=0.2)
    taken = rates_of(bench(method))
    assert taken[:12] == pytest.approx([0.2 * (1 - step / 12) for step in range(12)])
    dense = Pretraining.of(linear(0.0, initial=0.2), 12)
    assert taken[12] == allr(dense, 6, drop=method.record[0].drop, fraction=method.record[0].fraction)(0.0)
    assert [method.rate(step) for step in range(24)] == taken


def test_without_a_peak_the_line_begins_at_the_optimizers_rate() -> None:
    assert rates_of(bench(bimp(0.9, dense=0.5)))[0] == 0.1


def test_groups_keep_the_ratio_of_their_rates() -> None:
    model = network()
    groups = [{"params": [w], "lr": rate} for w, rate in zip(model.parameters(), (0.2, 0.1) * 3, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    sparsify(model, optimizer, imp(0.5, schedule="llr", pretraining=LINE), 5)
    nn.functional.mse_loss(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05] * 3)


def test_any_schedule_of_rates_needs_no_history() -> None:
    taken = rates_of(bench(imp(0.9, cycles=2, schedule=linear(0.0, initial=0.3))))
    assert taken == pytest.approx([0.3 * (1 - step / 12) for step in range(12)] * 2)


def test_a_warm_up_of_the_dense_phase_is_one_of_its_history() -> None:
    history = Pretraining.of(WarmUp(Constant(0.1), 0.25), 8)
    assert (history.warm_up, history.lowest, history.rates[0]) == (2, 0.1, 0.0)


def test_the_optimizer_starts_afresh_when_the_first_retraining_begins() -> None:
    trained = bench(bimp(0.9, dense=0.5, cycles=2)).train(last=12)
    assert not trained.optimizer.state
    trained.train(12, 18)
    assert trained.optimizer.state  # the second pruning keeps what the masks keep


def test_rewinding_gives_the_weights_of_its_moment_back() -> None:
    method = imp(0.9, cycles=2, dense=0.5, rewind=0.25, schedule="llr")
    trained = bench(method).train(last=3)
    early = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    for first, last in ((3, 12), (12, 18)):
        trained.train(first, last)
        for name, tensor in trained.model.state_dict().items():
            expected = early[name] * method.masks[name] if name in method.masks else early[name]
            assert torch.equal(tensor, expected), name
        assert not trained.optimizer.state
    assert method.state_dict()["rewound"] == {}  # needed no more


def test_the_watch_hears_of_every_pruning_and_is_believed() -> None:
    heard: list[tuple[str, float]] = []

    def watch(moment: str) -> dict[str, float]:
        heard.append((moment, trained.sparsifier.sparsity() if heard else 0.0))
        return {moment: float(len(heard))}

    trained = bench(imp(0.75, cycles=2, dense=0.5, watch=watch, schedule="llr"))
    trained.train()
    assert [moment for moment, _ in heard] == ["trained", "pruned"] * 2
    assert heard[2][1] == heard[1][1] == pytest.approx(0.5, abs=0.01)
    assert trained.sparsifier.method.record[1].measured == {"trained": 3.0, "pruned": 4.0}  # type: ignore[attr-defined]


def test_what_was_recorded_survives_a_state() -> None:
    one = bench(imp(0.9, cycles=2, pretraining=LINE, watch=lambda moment: {moment: 0.5})).train(last=15)
    other = bench(imp(0.9, cycles=2, pretraining=LINE))
    other.sparsifier.load_state_dict(one.sparsifier.state_dict())
    assert isinstance(one.method, Retrained)
    assert isinstance(other.method, Retrained)
    assert other.method.record == one.method.record
    assert [other.method.rate(step) for step in range(24)] == [one.method.rate(step) for step in range(24)]


def test_a_start_that_is_sparse_enough_is_retrained_at_the_floor_of_the_discount() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {name: p.detach() for name, p in model.named_parameters() if "weight" in name}
    masks = {name: weight.abs() > weight.abs().median() for name, weight in weights.items()}
    method = imp(0.5, pretraining=LINE)
    sparsify(model, optimizer, method, 10, start=masks)
    assert (method.record[0].fraction, method.record[0].drop) == (0.0, 0.0)
    assert method.record[0].peak == pytest.approx(0.1 * 10 / 50)


def test_pruning_by_another_criterion() -> None:
    inputs, targets = batch(0)
    signal = LossGradient([(inputs, targets)], nn.functional.mse_loss)
    trained = bench(imp(0.75, criterion=saliency, signal=signal, schedule="llr", pretraining=LINE))
    weights = {name: p for name, p in network().named_parameters() if "weight" in name}
    model = network()
    nn.functional.mse_loss(model(inputs), targets).backward()
    scores = torch.cat([(p * p.grad).abs().flatten() for n, p in model.named_parameters() if n in weights])  # type: ignore[operator]
    kept = torch.cat([mask.flatten() for mask in trained.sparsifier.masks.values()])
    assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            lambda: imp(0.9),
            r"allr looks at the rates that the network was trained with, .* pass pretraining=Pretraining",
        ),
        (
            lambda: imp(0.9, schedule="alr"),
            r"one of ft, lrw, slr, clr, llr, allr or a schedule .*; did you mean allr\?",
        ),
        (
            lambda: imp(0.9, schedule="lrw", pretraining=LINE),
            r"rewinding for 60 steps needs as many .* got 50; retrain",
        ),
        (lambda: imp(0.9, cycles=70, pretraining=LINE), r"a budget of 60 steps must hold 70 retrainings"),
        (lambda: imp(0.9, dense=1.0), r"dense must be in \[0, 1\), got 1\.0"),
        (lambda: imp(0.9, rewind=0.5, pretraining=LINE), r"needs a dense phase to return to, got 0\.5 .* of 0\.0"),
        (lambda: imp(0.9, criterion=saliency, signal=Gradient(), pretraining=LINE), r"such as LossGradient"),
        (lambda: imp(1.0, pretraining=LINE), r"sparsity must be in \[0, 1\), got 1\.0"),
    ],
)
def test_errors_say_what_is_expected_and_what_helps(method: Callable[[], Carrier], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(method(), steps=60)


def test_an_optimizer_that_reads_its_rate_too_early_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="LBFGS reads it before; use another optimizer"):
        sparsify(model, torch.optim.LBFGS(model.parameters()), imp(0.9, pretraining=LINE), 5)


def test_training_that_ends_early_is_pruned_to_the_end() -> None:
    trained = bench(bimp(0.75, dense=0.5, cycles=3)).train(last=13)
    assert trained.sparsifier.sparsity() < 0.5
    trained.sparsifier.finalize()
    assert trained.sparsifier.sparsity() == pytest.approx(0.75, abs=0.01)


def test_groups_keep_the_ratio_that_a_scheduler_remembers() -> None:
    model = network()
    groups = [{"params": [w], "lr": rate} for w, rate in zip(model.parameters(), (0.2, 0.1) * 3, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    sparsifier = sparsify(model, optimizer, imp(0.5, schedule="llr", pretraining=LINE), 5)
    sparsifier.method.before_step(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05] * 3)


def test_the_optimizer_of_pretraining_starts_afresh_too() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    nn.functional.mse_loss(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    assert optimizer.state
    sparsify(model, optimizer, imp(0.5, pretraining=LINE), 5)
    assert not optimizer.state


def test_weights_that_are_not_finite_are_named() -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="NaN"):
        sparsify(model, optimizer, imp(0.9, pretraining=LINE), 5)


def test_a_method_is_a_value() -> None:
    assert repr(imp(0.9)) == repr(Retrained(imp(0.9).prune, 1, 0.0, Rates(), None))
    assert llr(LINE, 5) == Rates("llr", LINE).cycle(LINE, 5, 0.0, 0.5)
