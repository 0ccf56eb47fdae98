"""The loop: its steps, its rates, its gradients, and what is left when it stops early."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import golden
from torch import Tensor, nn

from prunus.methods import magnitude_pruning
from prunus.schedules import Cosine, Piecewise, WarmUp, Within, linear
from prunus.sparsifier import sparsify
from prunus.training import NonFiniteLossError, Step, Training

RATES = golden("progress")["learning_rates"]
TRAJECTORIES = golden("optimizers")["trajectories"]
SGD = torch.optim.SGD


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, generator=generator).double(), torch.randint(2, (n,), generator=generator)) for n in sizes
    ]


def training(model: nn.Module, steps: int, **options: Any) -> Training:
    optimizer = options.pop("optimizer", None) or SGD(model.parameters(), lr=0.1)
    return Training(model, optimizer, options.pop("batches", batches(4, 4)), F.cross_entropy, steps, **options)


def test_it_yields_once_per_step_over_endlessly_repeated_batches() -> None:
    model, twin, seen = network(), network(), []
    for step in training(model, 5, batches=batches(4, 3, 2)):
        assert isinstance(step, Step)
        assert not step.loss.requires_grad
        seen.append((step.number, float(step.loss), step.learning_rate))
    optimizer, expected = SGD(twin.parameters(), lr=0.1), []
    for number in range(5):
        inputs, targets = batches(4, 3, 2)[number % 3]
        loss = F.cross_entropy(twin(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append((number + 1, float(loss.detach()), 0.1))
    assert seen == expected
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_run_gives_the_last_step() -> None:
    assert training(network(), 7).run().number == 7


def test_every_step_trains_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    for _ in training(model, 3):
        assert model[1].training
        model.eval()
    assert model[1].num_batches_tracked == 3


def test_accumulated_batches_equal_the_big_one() -> None:
    big = [(torch.cat(inputs), torch.cat(targets)) for inputs, targets in [zip(*batches(4, 4, 4), strict=True)]]
    models, losses = (network(), network()), []
    for model, data, accumulate in ((models[0], batches(4, 4, 4), 3), (models[1], big, 1)):
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        steps = list(training(model, 4, batches=data, accumulate=accumulate, optimizer=optimizer))
        losses.append(torch.stack([step.loss for step in steps]))
    torch.testing.assert_close(losses[0], losses[1])
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("multistep", Piecewise((0.5, 0.8), (0.1, 0.01, 0.001))),
        ("linear_to_0.01", linear(0.01, initial=0.1)),
        ("cosine_warm2", WarmUp(Cosine(0.1), fraction=0.2)),
    ],
)
def test_golden_learning_rates(name: str, schedule: Any) -> None:
    model = network()
    optimizer, used = SGD(model.parameters(), lr=1.0), []
    optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    steps = list(training(model, 20, optimizer=optimizer, learning_rate=schedule))
    assert used == pytest.approx(RATES[name], abs=1e-15)
    assert [step.learning_rate for step in steps] == used


def two_groups(model: nn.Sequential) -> torch.optim.Optimizer:
    return SGD([{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters(), "lr": 0.02}])


def test_groups_keep_their_ratio() -> None:
    model = network()
    optimizer, used = two_groups(model), []
    for _ in training(model, 4, optimizer=optimizer, learning_rate=linear(0.0, initial=1.0)):
        used.append([group["lr"] for group in optimizer.param_groups])
    assert used == [pytest.approx([rate, rate / 10]) for rate in (1.0, 0.75, 0.5, 0.25)]


def test_groups_keep_their_ratio_over_a_break_at_rate_zero() -> None:
    model = network()
    optimizer = two_groups(model)
    loop = training(model, 10, optimizer=optimizer, learning_rate=WarmUp(linear(0.0, 1.0), fraction=0.5))
    for _ in loop:
        break
    for _ in loop:
        break
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_without_a_schedule_the_rate_is_the_optimizers() -> None:
    model = network()
    loop = training(model, 3, optimizer=SGD(model.parameters(), lr=0.3))
    rates = []
    for step in loop:
        rates.append(step.learning_rate)
        loop.optimizer.param_groups[0]["lr"] /= 2  # a scheduler of the user's
    assert rates == [0.3, 0.15, 0.075]


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def test_clip_bounds_the_norm_of_the_whole_gradient() -> None:
    model = network()
    before = copy.deepcopy(model)
    training(model, 1, clip=1e-3).run()
    moved = [p.detach() - q.detach() for p, q in zip(model.parameters(), before.parameters(), strict=True)]
    assert norm(moved) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    loose = network()
    training(loose, 1, clip=1e9).run()
    training(before, 1).run()
    assert all(torch.equal(p, q) for p, q in zip(loose.parameters(), before.parameters(), strict=True))


def test_clip_counts_kept_gradients_alone() -> None:
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.01, 1.0], [1.0, 0.01, 1.0]]))
    optimizer = SGD(model.parameters(), lr=1.0)
    sparsifier = sparsify(model, optimizer, magnitude_pruning(sparsity=1 / 3), steps=1)
    assert sparsifier.masks["weight"].tolist() == [[True, False, True]] * 2
    before = copy.deepcopy(model)
    data = [(torch.tensor([[1.0, 1e6, 1.0]]).double(), torch.tensor([0]))]  # the masked input has the huge gradient
    training(model, 1, optimizer=optimizer, batches=data, clip=0.1).run()
    moved = [p.detach() - q.detach() for p, q in zip(model.parameters(), before.parameters(), strict=True)]
    assert norm(moved) == pytest.approx(0.1, rel=1e-4)
    assert not model.weight[:, 1].any()


@pytest.mark.parametrize(("steps", "check_every", "raised_after"), [(20, 5, 5), (20, 1, 3), (4, 50, 4)])
def test_a_non_finite_loss_is_noticed_at_the_next_look(steps: int, check_every: int, raised_after: int) -> None:
    """The third loss is infinite, its gradient is not: all later losses are finite again."""
    model = network()
    data = [(torch.ones(1, 3).double(), torch.tensor(math.inf if number == 2 else 1.0)) for number in range(20)]
    loop = Training(
        model,
        SGD(model.parameters(), lr=0.1),
        data,
        lambda out, target: out.sum() + target,
        steps,
        check_every=check_every,
    )
    message = f"became inf in the {check_every} steps before step {raised_after}; lower the learning rate"
    with pytest.raises(NonFiniteLossError, match=message):
        loop.run()
    assert loop.taken == raised_after


def test_an_exhausted_generator_says_so() -> None:
    with pytest.raises(ValueError, match="a generator is exhausted after one pass, pass a loader or a stream"):
        training(network(), 5, batches=(batch for batch in batches(4, 4))).run()
    with pytest.raises(ValueError, match="batches gave nothing"):
        training(network(), 5, batches=[]).run()


def test_an_early_break_leaves_no_hook_and_goes_on_where_it_was() -> None:
    model, twin = network(), network()
    loop = training(model, 6, clip=0.5, learning_rate=linear(0.0, 1.0), batches=batches(4))
    for step in loop:
        assert len(loop.optimizer._optimizer_step_pre_hooks) == 1
        if step.number == 2:
            break
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert [step.number for step in loop] == [3, 4, 5, 6]
    assert not loop.optimizer._optimizer_step_pre_hooks
    training(twin, 6, clip=0.5, learning_rate=linear(0.0, 1.0), batches=batches(4)).run()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_failing_step_leaves_no_hook() -> None:
    loop = training(network(), 5, clip=0.5, batches=[(torch.ones(2, 7).double(), torch.tensor([0, 1]))])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        loop.run()
    assert not loop.optimizer._optimizer_step_pre_hooks


def test_backward_may_be_another() -> None:
    seen = []

    def backward(loss: Tensor) -> None:
        seen.append(float(loss.detach()))
        loss.backward()

    step = training(network(), 1, accumulate=2, backward=backward).run()
    assert float(step.loss) == pytest.approx(sum(seen))
    assert len(seen) == 2


class Scalar(nn.Module):
    """A number that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.x


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "nesterov_linear"])
def test_golden_trajectories(name: str) -> None:
    """f(x) = x^2 / 2 + x^4 / 8 from 1; the rate falls linearly over the first five of eight steps in the last."""
    case = TRAJECTORIES[name]
    model = Scalar()
    optimizer = SGD(
        model.parameters(), lr=case["lr"], momentum=case.get("momentum", 0.0), nesterov=name.startswith("nesterov")
    )
    rate = None
    if "decay_steps" in case:
        rate = Within(linear(case["lr"] * case["end_factor"], case["lr"]), until=case["decay_steps"] / 8)
    loop = Training(
        model, optimizer, [(torch.zeros(1), torch.zeros(1))], lambda x, _: x**2 / 2 + x**4 / 8, 8, learning_rate=rate
    )
    assert [float(model.x.detach()) for _ in loop] == pytest.approx(case["x"], rel=1e-12)
