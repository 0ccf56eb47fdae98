"""Retraining a trained network in Python: the same as by hand, what is measured around it, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus import Training, retrain, sparsify
from prunus.carriers.retrained import Cycle
from prunus.evaluation import evaluate, recalibrate_
from prunus.masks import sparsity_of
from prunus.methods import imp
from prunus.recovery import Accuracy, Retraining, table
from prunus.retraining import Peak, Pretraining, discount
from prunus.schedules import Constant, linear

Capture = pytest.CaptureFixture[str]
LINE = {"linear": {"final": 0.0, "initial": 0.1}}
STEPS, SPARSITY = 10, 0.8
PRETRAINING = Pretraining.of(linear(0.0, initial=0.1), 40)


def network() -> nn.Sequential:
    """A network that learnt a little."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    Training(model, sgd(model), batches(), nn.functional.cross_entropy, 10).run()
    return model


def batches(n: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 12, 8, generator=generator)
    return [(part, part[:, :3].argmax(1)) for part in inputs]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def zeros(model: nn.Module) -> float:
    return sparsity_of(p != 0 for name, p in model.named_parameters() if name in ("0.weight", "3.weight"))


def test_the_same_as_by_hand() -> None:
    ours, theirs = network(), network()
    done = retrain(ours, batches(), sparsity=SPARSITY, epochs=2, pretraining=PRETRAINING, cycles=2)
    optimizer = sgd(theirs)
    sparsifier = sparsify(theirs, optimizer, imp(SPARSITY, cycles=2, pretraining=PRETRAINING), STEPS)
    Training(theirs, optimizer, batches(), nn.functional.cross_entropy, STEPS).run()
    masks = sparsifier.finalize()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    assert all(torch.equal(done.masks[name], mask) for name, mask in masks.items())
    assert done.sparsity == sparsity_of(masks.values()) == pytest.approx(SPARSITY, abs=0.005)


def test_the_optimizer_starts_afresh() -> None:
    models = network(), network()
    optimizers = [sgd(model) for model in models]
    Training(models[1], optimizers[1], batches(), nn.functional.cross_entropy, 3).run()
    models[1].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models, optimizers, strict=True):
        retrain(model, batches(), sparsity=SPARSITY, epochs=1, pretraining=PRETRAINING, optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_each_moment_is_measured_where_it_is() -> None:
    model = network()
    done = retrain(model, batches(), sparsity=SPARSITY, epochs=2, pretraining=PRETRAINING, cycles=2, validation=zeros)
    first, second = (cycle.measured for cycle in done.cycles)
    assert list(first) == list(second) == ["trained", "pruned", "retrained"]
    assert first["trained"] == 0.0
    assert first["pruned"] == first["retrained"] == second["trained"] == done.cycles[0].sparsity > 0.5
    assert second["pruned"] == second["retrained"] == done.sparsity == zeros(model)


def test_recalibration_is_of_the_pruned_and_of_the_final_network() -> None:
    model = network()
    seen: list[Tensor] = []

    def mean(model: nn.Module) -> float:
        seen.append(model.get_buffer("1.running_mean").clone())
        return 0.0

    done = retrain(
        model, batches(), sparsity=SPARSITY, epochs=2, pretraining=PRETRAINING, validation=mean, recalibrate=3
    )
    assert list(done.cycles[0].measured) == ["trained", "pruned", "recalibrated", "retrained"]
    trained, pruned, recalibrated, retrained = seen
    assert torch.equal(trained, pruned)
    assert not torch.equal(pruned, recalibrated)
    recalibrate_(model, batches()[:3])
    assert torch.equal(model.get_buffer("1.running_mean"), retrained)


def test_accuracy_is_that_of_an_evaluation() -> None:
    model, held_out = network(), batches(4)
    found = retrain(model, batches(), sparsity=SPARSITY, epochs=1, pretraining=PRETRAINING, validation=held_out)
    accuracy = evaluate(model, held_out).accuracy
    assert found.cycles[0].measured["retrained"] == pytest.approx(accuracy, abs=1e-6)
    model.train()
    assert Accuracy(held_out)(model) == pytest.approx(accuracy, abs=1e-6)
    assert model.training


@pytest.mark.parametrize(("steps", "floor"), [(float("inf"), 0.0), (11.0, STEPS / 11)])
def test_of_the_peak_alone_allr_has_the_floor_that_its_length_gives(steps: float, floor: float) -> None:
    done = retrain(network(), batches(), sparsity=SPARSITY, epochs=2, pretraining=Peak(0.2, steps))
    (cycle,) = done.cycles
    discounts = [discount(cycle.drop, SPARSITY, budget=budget) for budget in (0.0, floor)]
    assert (discounts[0] < discounts[1]) is (floor > 0)
    assert Peak(0.2).steps == float("inf")
    assert cycle.peak == pytest.approx(0.2 * discounts[1])


@pytest.mark.parametrize("key", ["lr", "initial_lr"])
def test_the_optimizers_own_rate_stands_for_the_peak(key: str) -> None:
    model = network()
    optimizer = sgd(model)
    optimizer.param_groups[0] |= {"lr": 0.001} | {key: 0.3}
    (cycle,) = retrain(model, batches(), sparsity=SPARSITY, epochs=2, optimizer=optimizer, schedule="llr").cycles
    assert cycle.peak == 0.3


def test_a_schedule_of_rates_needs_no_history() -> None:
    (cycle,) = retrain(network(), batches(), sparsity=SPARSITY, epochs=1, schedule=Constant(0.02)).cycles
    assert cycle.peak == 0.02


@pytest.mark.parametrize("schedule", ["ft", "lrw", "slr", "clr", "llr", "allr"])
def test_a_factor_multiplies_every_rate(schedule: str) -> None:
    peaks = []
    for factor in (1.0, 0.5):
        model = network()
        method = imp(SPARSITY, schedule=schedule, pretraining=PRETRAINING, factor=factor)
        sparsify(model, sgd(model), method, STEPS)
        peaks.append([method.rate(step) for step in range(STEPS)])
    assert max(peaks[0]) > 0
    assert peaks[1] == pytest.approx([0.5 * rate for rate in peaks[0]])


def test_what_is_zero_already_stays_zero() -> None:
    model = network()
    retrain(model, batches(), sparsity=0.7, epochs=1, pretraining=PRETRAINING)
    before = model.get_parameter("0.weight") == 0
    retrain(model, batches(), sparsity=0.9, epochs=1, pretraining=PRETRAINING)
    assert bool((model.get_parameter("0.weight") == 0)[before].all())
    with pytest.raises(ValueError, match=r"began at sparsity 0\.8977 and cannot end at 0\.5: .* at least 0\.8977"):
        retrain(model, batches(), sparsity=0.5, epochs=1, pretraining=PRETRAINING)


def test_nothing_to_prune_leaves_the_floor_or_is_refused() -> None:
    model = network()
    retrain(model, batches(), sparsity=SPARSITY, epochs=1, pretraining=PRETRAINING)
    (cycle,) = retrain(model, batches(), sparsity=SPARSITY, epochs=2, pretraining=Peak(0.2, 40)).cycles
    assert cycle.peak == pytest.approx(0.2 * STEPS / 40)
    with pytest.raises(ValueError, match=r"^allr needs something to prune, or the length .* take llr"):
        retrain(model, batches(), sparsity=SPARSITY, epochs=2, pretraining=Peak(0.2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretraining": None}, r"^allr needs the learning rates of pretraining, .* no default .*; pass pretraining="),
        ({"pretraining": Peak(0.1), "schedule": "slr"}, r"^slr looks at the rate of every step .*; take llr or allr"),
        ({"cycles": 11}, r"^a budget of 10 steps must hold 11 retrainings .*; train longer, or with fewer cycles"),
        ({"epochs": 20, "schedule": "lrw"}, r"^rewinding for 100 steps needs as many of pretraining, got 40; retrain"),
        ({"epochs": 0.01}, r"^steps must be .* at least 1, got 0"),
        ({"schedule": "lrr"}, r"^schedule must be one of .*, got 'lrr'; did you mean "),
    ],
    ids=str,
)
def test_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    arguments = {"sparsity": SPARSITY, "epochs": 2, "pretraining": PRETRAINING} | changes
    with pytest.raises(ValueError, match=words) as error:
        retrain(network(), batches(), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda: Peak(0.0), lambda: Peak(float("nan")), lambda: Peak(0.1, 0)])
def test_a_peak_is_a_rate_of_some_steps(make: Callable[[], Peak]) -> None:
    with pytest.raises(ValueError, match=r"of pretraining must be positive|at least one step"):
        make()


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_is_positive(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must be positive"):
        imp(SPARSITY, factor=factor)


def test_a_factor_is_of_a_named_schedule() -> None:
    with pytest.raises(ValueError, match="a schedule of rates has its own"):
        imp(SPARSITY, factor=0.5, schedule=Constant(0.1))


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean"])
def test_nan_is_refused_before_anything_changes(name: str) -> None:
    model = network()
    model.state_dict()[name].view(-1)[0] = float("nan")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"needs finite weights, {name} has NaN or infinity; take an earlier"):
        retrain(model, batches(), sparsity=SPARSITY, epochs=1, pretraining=PRETRAINING)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if key != name)


def test_the_table_says_what_was_lost_and_won_back() -> None:
    first = Cycle(0, 5, 0.6, 0.6, 0.25, 0.05, {"trained": 0.9, "pruned": 0.5, "retrained": 0.85})
    second = Cycle(5, 5, 0.84, 0.6, 0.5, 0.1, {"trained": 0.85, "pruned": 0.25, "retrained": 0.8})
    assert table([first, second]).splitlines() == [
        "cycle  sparsity  norm dropped  peak rate  trained  pruned  retrained",
        "    1    0.6000        0.2500     0.0500   0.9000  0.5000     0.8500",
        "    2    0.8400        0.5000     0.1000   0.8500  0.2500     0.8000",
        "before 0.9000, after 0.8000: pruning lost 1.0000, retraining won back 0.9000",
    ]
    assert str(Retraining({}, (replace(first, measured={}),))).splitlines() == [
        "cycle  sparsity  norm dropped  peak rate",
        "    1    0.6000        0.2500     0.0500",
    ]
