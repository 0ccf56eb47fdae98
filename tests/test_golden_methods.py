"""Traces of the retraining paper's public code on its 12-parameter problem, and mask updates of the schedules paper.

`methods.json` holds recorded traces. For LC, DNW, DST, CS and GMP the same problem is trained by the code's formulas,
written out by hand; its choices that `prunus.methods` leaves aside (weight decay twice, layers that may empty) are
passed to the carriers here, which shows that they can bear them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from golden import golden
from torch import Tensor, nn

from prunus.cadence import Every, Once
from prunus.carriers import Carrier, Feedback, Masked, Parametrized
from prunus.criteria import Criterion, magnitude
from prunus.masks import Masks, Tensors, keep_count
from prunus.methods import gsm, lc, str_
from prunus.parametrizations import NeuronThreshold, Part, SoftMask
from prunus.plans import Even
from prunus.ranking import top_k_together
from prunus.schedules import Constant, cubic
from prunus.signals import Gradient
from prunus.sparsifier import Sparsifier, sparsify
from prunus.updates import DropGrow, Prune, Resize, State, Update

GOLDEN = golden("methods")
PROBLEM = GOLDEN["problem"]
RATE, MOMENTUM, DECAY, SPARSITY = 0.1, 0.9, 0.01, 0.7
WEIGHTS = ("fc1.weight", "fc2.weight")


class Tiny(nn.Module):
    """Two layers side by side on two parts of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 2).double(), nn.Linear(2, 2, bias=False).double()
        with torch.no_grad():
            for parameter, key in zip(self.parameters(), ("W1", "B1", "W2"), strict=True):
                parameter.copy_(double(PROBLEM[key]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.fc1(x[:, :3]), self.fc2(x[:, 3:])], 1)


@dataclass
class Trained:
    """The problem under a method, a step a call."""

    method: Carrier | None
    steps: int = 100
    weight_decay: float = DECAY

    def __post_init__(self) -> None:
        self.model = Tiny()
        self.plain = dict(self.model.named_parameters())  # the parameters stay the same through every method
        weights = {"params": [self.plain[name] for name in WEIGHTS], "weight_decay": self.weight_decay}
        groups = [{"params": [self.plain["fc1.bias"]]}, weights]
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
        if self.method is not None:
            self.sparsifier: Sparsifier = sparsify(self.model, self.optimizer, self.method, self.steps)

    def step(self) -> None:
        self.optimizer.zero_grad()
        (0.5 * (self.model(double(PROBLEM["X"])) - double(PROBLEM["Y"])).square().sum()).backward()
        self.optimizer.step()

    def momentum(self) -> Tensors:
        return {name: self.optimizer.state[p]["momentum_buffer"] for name, p in self.plain.items()}

    def thresholds(self) -> Tensors:
        return {f"{n}.weight": getattr(self.model, n).parametrizations.weight[0].threshold for n in ("fc1", "fc2")}


@dataclass
class Hand:
    """The same problem by its gradients: dW1 = W1 + b1 - T1, db1 = the row sums of that, dW2 = W2 - T2."""

    decays: dict[str, float]

    def __post_init__(self) -> None:
        self.values = {
            n: double(PROBLEM[k]) for n, k in (("fc1.weight", "W1"), ("fc1.bias", "B1"), ("fc2.weight", "W2"))
        }
        self.momentum: Tensors = {}

    def gradients(self, used: Tensors) -> Tensors:
        first = used["fc1.weight"] + self.values["fc1.bias"][:, None] - double(PROBLEM["T1"])
        return {"fc1.weight": first, "fc1.bias": first.sum(1), "fc2.weight": used["fc2.weight"] - double(PROBLEM["T2"])}

    def descend(self, gradients: Tensors) -> None:
        """Nesterov, whose first step starts from the gradient."""
        for name, gradient in gradients.items():
            g = gradient + self.decays.get(name, DECAY) * self.values[name]
            self.momentum[name] = MOMENTUM * self.momentum[name] + g if name in self.momentum else g
            self.values[name] = self.values[name] - RATE * (g + MOMENTUM * self.momentum[name])

    def largest(self, count: int, names: Sequence[str] = WEIGHTS) -> Tensors:
        sizes = sorted((float(x) for name in names for x in self.values[name].abs().flatten()), reverse=True)
        return {name: self.values[name].abs() >= (sizes[count - 1] if count else math.inf) for name in names}

    def weights(self) -> Tensors:
        return {name: self.values[name] for name in WEIGHTS}


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensors, expected: dict[str, Any], tolerance: float = 1e-10) -> None:
    for name, values in expected.items():
        value = values if isinstance(values, Tensor) else double(values)
        torch.testing.assert_close(
            found[name].detach(), value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def ranked_together(scores: Tensors, sparsity: float) -> Masks:
    """The reference's global ranking, in which a layer may lose everything."""
    return top_k_together(scores, keep_count(sum(score.numel() for score in scores.values()), sparsity))


def at(times: dict[int, list[float]]) -> Callable[[int, int], list[float]]:
    """A cadence that is a table: the progress of each update by clock."""
    return lambda clock, steps: times.get(clock, [])


def test_dense_trace() -> None:
    dense = Trained(None)
    for expected in GOLDEN["Dense"]["steps"]:
        dense.step()
        close(dense.plain, expected["params"])
        close(dense.momentum(), expected["momentum"])


def test_gsm_trace() -> None:
    trained = Trained(gsm(GOLDEN["GSM"]["goal_sparsity"], scope="all"))
    for number, expected in enumerate(GOLDEN["GSM"]["steps"]):
        trained.step()
        close(trained.plain, expected["params"])
        close(trained.momentum(), expected["momentum"])
        if number == 0:
            masked = {name: parameter.grad for name, parameter in trained.plain.items() if parameter.grad is not None}
            close(masked, GOLDEN["GSM"]["masked_grad_step1"])


def test_str_trace() -> None:
    trained = Trained(str_(0.5, initial=GOLDEN["STR"]["s_initial"]))
    for expected in GOLDEN["STR"]["steps"]:
        used = {layer: getattr(trained.model, layer).weight.detach() for layer in ("fc1", "fc2")}
        close(used, expected["effective_weight_used_in_forward"])
        trained.step()
        found = {f"{name}_orig": trained.plain[name] for name in WEIGHTS}
        found |= {f"{name}_thresh": value for name, value in trained.thresholds().items()}
        close(found | {"fc1.bias": trained.plain["fc1.bias"]}, expected["params"])
    trained.sparsifier.finalize()
    close(dict(trained.model.named_parameters()), GOLDEN["STR"]["final"])
    assert trained.sparsifier.sparsity() == GOLDEN["STR"]["modular_sparsity"]


def test_dpf_trace() -> None:
    """Masks after epochs of 8 iterations and every 16 iterations by the sparsity of the last epoch, so twice at 16."""
    steps, seen = GOLDEN["DPF"]["n_epochs"] * GOLDEN["DPF"]["iters_per_epoch"], []

    def recorded(scores: Tensors, sparsity: float) -> Masks:
        seen.append((sparsity, ranked_together(scores, sparsity)))
        return seen[-1][1]

    cadence = at({8: [1 / 3], 16: [1 / 3, 2 / 3], 24: [1.0], 32: [1.0]})
    trained = Trained(Feedback(Prune(cubic(SPARSITY), magnitude, recorded, recover=True), cadence), steps)
    expected = {entry["it"]: entry for entry in GOLDEN["DPF"]["iterations"]}
    for number in range(1, steps + 1):
        before = {name: mask.clone() for name, mask in trained.sparsifier.masks.items()}
        trained.step()
        if number in expected:
            close(trained.plain, expected[number]["params"])
            now = seen[-2][1] if number == 16 else seen[-1][1] if number == 32 else before
            assert_masks(now, expected[number]["masks"])
        if number % 8 == 0:
            epoch = GOLDEN["DPF"]["after_epoch"][str(number // 8)]
            close(trained.plain, epoch["params"])
            assert_masks(trained.sparsifier.masks, epoch["masks"])
            assert seen[-1][0] == pytest.approx(epoch["required"], abs=1e-12)
    trained.sparsifier.finalize()
    close(dict(trained.model.named_parameters()), GOLDEN["DPF"]["final"])


def assert_masks(masks: Masks, expected: dict[str, Any]) -> None:
    for name in WEIGHTS:
        wanted = expected.get(name.removesuffix(".weight"))
        assert torch.equal(masks[name], double(wanted).bool() if wanted else torch.ones_like(masks[name]))


def test_lc_by_its_formula() -> None:
    """The K largest of all parameters, the bias among them, are spared the decay; K counts weights alone."""
    trained, hand = Trained(lc(SPARSITY, scope="all")), Hand({})
    for _ in range(20):
        largest = hand.largest(3, tuple(hand.values))
        g = hand.gradients(hand.values)
        hand.descend({name: g[name] - DECAY * hand.values[name] * largest[name] for name in g})
        trained.step()
        close(trained.plain, hand.values)


def test_dnw_by_its_formula() -> None:
    """Every forward drops the int(s n) smallest; the whole gradient moves all dense weights."""
    trained = Trained(Feedback(Prune(Constant(SPARSITY), magnitude, ranked_together, recover=True), Every(1)))
    hand = Hand({})
    for _ in range(30):
        largest = hand.largest(10 - int(SPARSITY * 10))
        hand.descend(hand.gradients({n: w * largest[n] for n, w in hand.weights().items()}))
        trained.step()
        close(trained.plain, hand.values)
    trained.sparsifier.finalize()
    largest = hand.largest(3)
    close(dict(trained.model.named_parameters()), {n: hand.values[n] * largest[n] for n in WEIGHTS})


@pytest.mark.parametrize("penalty", [0.002, 0.5])
def test_dst_by_its_formula(penalty: float) -> None:
    """With the reference's decay: twice on weights (its own loss term and SGD), once on thresholds and biases."""
    trained = Trained(Parametrized(partial(NeuronThreshold, penalty=penalty), decay=DECAY), weight_decay=2 * DECAY)
    hand, resets = Hand(dict.fromkeys(WEIGHTS, 2 * DECAY)), 0
    hand.values |= {f"t of {name}": torch.zeros(2, dtype=torch.float64) for name in WEIGHTS}
    for _ in range(30):
        used, bend, gradients = {}, {}, {}
        for name, weight in hand.weights().items():
            if ((weight.abs() - hand.values[f"t of {name}"][:, None]) > 0).double().mean() <= 0.01:
                hand.values[f"t of {name}"], resets = torch.zeros(2, dtype=torch.float64), resets + 1
            excess = weight.abs() - hand.values[f"t of {name}"][:, None]
            used[name] = weight * (excess > 0)
            far, near = (excess.abs() > 0.4) & (excess.abs() <= 1), excess.abs() <= 0.4
            bend[name] = weight * (near * (2 - 4 * excess.abs()) + far * 0.4)
        loss = hand.gradients(used)
        for name, weight in hand.weights().items():
            gradients[name] = loss[name] * (used[name] != 0) + loss[name] * bend[name] * weight.sign()
            threshold = hand.values[f"t of {name}"]
            gradients[f"t of {name}"] = -(loss[name] * bend[name]).sum(1) - penalty * torch.exp(-threshold)
        hand.descend(gradients | {"fc1.bias": loss["fc1.bias"]})
        trained.step()
        close(trained.plain, {name: hand.values[name] for name in trained.plain})
    assert resets > 0


def test_cs_by_its_formula() -> None:
    """beta = final_beta^(k / N) after k steps; decay twice on weights, once on soft masks and biases."""
    steps, initial, final_beta, penalty = 30, 0.05, 300.0, 0.01
    part: Callable[[Tensor], Part] = partial(SoftMask, initial=initial, final_beta=final_beta, penalty=penalty)
    trained = Trained(Parametrized(part, decay=DECAY), steps, weight_decay=2 * DECAY)
    hand = Hand(dict.fromkeys(WEIGHTS, 2 * DECAY))
    hand.values |= {f"m of {name}": torch.full_like(weight, initial) for name, weight in hand.weights().items()}
    scale = 1 + math.exp(-initial)
    for number in range(steps + 1):
        beta = final_beta ** (number / steps)
        soft = {name: 1 / (1 + torch.exp(-beta * hand.values[f"m of {name}"])) for name in WEIGHTS}
        used = {name: hand.values[name] * soft[name] * scale for name in WEIGHTS}
        if number == steps:
            break
        loss = hand.gradients(used)
        gradients = {"fc1.bias": loss["fc1.bias"]}
        for name, weight in hand.weights().items():
            bend = beta * soft[name] * (1 - soft[name])
            gradients[name] = loss[name] * soft[name] * scale
            gradients[f"m of {name}"] = loss[name] * weight * scale * bend + penalty * bend
        hand.descend(gradients)
        trained.step()
        close(trained.plain, {name: hand.values[name] for name in trained.plain})
    trained.sparsifier.finalize()
    final = {name: used[name] * (hand.values[f"m of {name}"] > 0) for name in WEIGHTS}
    close(dict(trained.model.named_parameters()), final)
    assert 0 < trained.sparsifier.sparsity() < 1


GMP_EPOCHS, GMP_ITERATIONS = 10, 4


def gmp_required(epoch: int) -> float:
    """s (1 - (1 - e / (n_p Delta))^3) for Delta = 1: nine prunings, at the ends of epochs 1 to 9."""
    return SPARSITY * (1 - (1 - epoch / (GMP_EPOCHS - 1)) ** 3)


def gmp_epoch(hand: Hand, masks: Masks) -> None:
    """The steps between two prunings: forward w * mask, masked gradients."""
    for _ in range(GMP_ITERATIONS):
        g = hand.gradients({name: weight * masks[name] for name, weight in hand.weights().items()})
        hand.descend({name: value * masks[name] if name in masks else value for name, value in g.items()})


def gmp_epochs(count: Callable[[int], int]) -> tuple[Hand, Masks]:
    """The reference's loop: forward w * mask, masked gradients, decay on all, momentum masked at each pruning."""
    hand, masks = Hand({}), {name: torch.ones_like(weight) for name, weight in Hand({}).weights().items()}
    for epoch in range(1, GMP_EPOCHS + 1):
        gmp_epoch(hand, masks)
        if epoch < GMP_EPOCHS:
            masks = {name: mask.double() for name, mask in hand.largest(count(epoch)).items()}
            hand.momentum |= {name: hand.momentum[name] * masks[name] for name in WEIGHTS}
    return hand, masks


GMP_TIMES = at({epoch * GMP_ITERATIONS: [epoch / (GMP_EPOCHS - 1)] for epoch in range(1, GMP_EPOCHS)})


def test_gmp_that_recovers_by_its_formula() -> None:
    """k = round(s(e) n) of the stored weights, all competing."""
    hand, masks = gmp_epochs(lambda epoch: 10 - round(gmp_required(epoch) * 10))
    rule = Prune(cubic(SPARSITY), magnitude, ranked_together, recover=True)
    trained = Trained(Feedback(rule, GMP_TIMES, straight_through=False), GMP_EPOCHS * GMP_ITERATIONS)
    for _ in range(trained.steps):
        trained.step()
    close(trained.plain, hand.values)
    close(trained.momentum(), hand.momentum)
    assert_masks(trained.sparsifier.masks, {name.removesuffix(".weight"): masks[name].tolist() for name in WEIGHTS})


def test_gmp_that_does_not_recover_by_its_formula() -> None:
    """round(p alive) go, p = 1 - (1 - s(e)) / (1 - s(e - 1)): roundings add up, so its counts are a schedule here."""
    alive = {0: 10}
    for epoch in range(1, GMP_EPOCHS):
        fraction = 1 - (1 - gmp_required(epoch)) / (1 - gmp_required(epoch - 1))
        alive[epoch] = alive[epoch - 1] - round(fraction * alive[epoch - 1])
    assert alive[5] == 3, "one less than 10 - round(s(5) 10)"

    def counts(progress: float) -> float:
        return 1 - alive[round(progress * (GMP_EPOCHS - 1))] / 10

    hand, masks = gmp_without_recovery(alive)
    trained = Trained(Masked(Prune(counts, magnitude, ranked_together), GMP_TIMES), GMP_EPOCHS * GMP_ITERATIONS)
    for _ in range(trained.steps):
        trained.step()
    close(trained.plain, {n: v * masks[n] if n in masks else v for n, v in hand.values.items()})


def gmp_without_recovery(alive: dict[int, int]) -> tuple[Hand, Masks]:
    """As `gmp_epochs`, but ranking only what is left; what is dropped lives on behind the mask and never returns."""
    hand, masks = Hand({}), {name: torch.ones_like(weight) for name, weight in Hand({}).weights().items()}
    for epoch in range(1, GMP_EPOCHS + 1):
        gmp_epoch(hand, masks)
        if epoch < GMP_EPOCHS:
            left = sorted(
                (float(x) for n in WEIGHTS for x in (hand.values[n].abs() * masks[n]).flatten()), reverse=True
            )
            cut = left[alive[epoch] - 1]
            masks = {name: masks[name] * (hand.values[name].abs() >= cut) for name in WEIGHTS}
            hand.momentum |= {name: hand.momentum[name] * masks[name] for name in WEIGHTS}
    return hand, masks


@dataclass(frozen=True)
class Given:
    """A rule that sets one mask whatever the state."""

    mask: Tensor
    signal: None = None

    def __call__(self, state: State) -> Masks:
        return {"weight": self.mask}


def injected(scores: list[float]) -> Criterion:
    return lambda weight, signal, generator: double(scores).view_as(weight)


def one_layer(
    entry: dict[str, Any], rule: Update, gradient: list[float] | None = None
) -> tuple[list[int], list[float]]:
    """Mask and weights after one step of rate 0 on a layer with the entry's weights and old mask."""
    model = nn.Linear(len(entry["weights"]), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(double([entry["weights"]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    start = Given(double([entry["old_mask"]]).bool())
    sparsifier = sparsify(model, optimizer, Masked(rule, Once(0.0), start), steps=10)
    model.weight.grad = double([gradient or [1.0] * len(entry["weights"])])
    optimizer.step()
    return sparsifier.masks["weight"][0].int().tolist(), model.weight[0].tolist()


UPDATES = golden("mask_updates")


@pytest.mark.parametrize(
    "entry", UPDATES["mask_updates"], ids=lambda entry: f"{entry['old_density']}-{entry['new_density']}"
)
def test_random_regrowth_changes_the_difference_alone(entry: dict[str, Any]) -> None:
    drop, grow = injected(entry["prune_scores"]), injected(entry["grow_scores"])
    mask, weights = one_layer(entry, Resize(Even(Constant(1 - entry["new_density"])), drop, grow))
    assert mask == entry["new_mask"]
    assert weights == entry["new_weights"]
    assert sum(mask) == entry["n_active"]


@pytest.mark.parametrize(
    ("density", "dropped", "grown"),
    [(0.4, [4, 12], []), (0.45, [12], []), (0.5, [], []), (0.6, [], [11, 15]), (1.0, [], list(range(1, 20, 2)))],
)
def test_magnitude_regrowth_changes_the_difference_alone(density: float, dropped: list[int], grown: list[int]) -> None:
    """The table of the schedules paper's specification for MP-RR, on the same weights."""
    entry = UPDATES["mask_updates"][0]
    mask, _ = one_layer(entry, Resize(Even(Constant(1 - density)), magnitude, injected(entry["grow_scores"])))
    moved = [now - before for now, before in zip(mask, entry["old_mask"], strict=True)]
    assert ([i for i, m in enumerate(moved) if m < 0], [i for i, m in enumerate(moved) if m > 0]) == (dropped, grown)


def test_one_weight_of_a_layer_always_stays() -> None:
    entry = UPDATES["mask_updates"][0]
    mask, _ = one_layer(entry, Resize(Even(Constant(0.999)), magnitude, injected(entry["grow_scores"])))
    assert sum(mask) == 1


@pytest.mark.parametrize("entry", UPDATES["turnover_updates"], ids=["regrow", "no-regrow", "nothing"])
def test_rigl_drops_and_grows(entry: dict[str, Any]) -> None:
    rule = DropGrow(Constant(entry["drop_fraction"]), signal=Gradient(), regrow=entry["allow_regrow_dropped"])
    mask, weights = one_layer(entry, rule, entry["grad"])
    assert mask == entry["new_mask"]
    zeroed = set(entry["newly_connected_zeroed"]) | (set(entry["dropped"]) - set(entry["grown"]))
    assert weights == [0.0 if i in zeroed else weight for i, weight in enumerate(entry["weights"])]
