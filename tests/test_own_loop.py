"""A user's own loop stays as it was: closures, accumulation, AMP, compilers, wrappers, schedulers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from cases import (
    CASE,
    SIX,
    SPARSITY,
    STEPS,
    Bench,
    Case,
    all_cases,
    attach,
    batch,
    equal,
    error,
    expected,
    final,
    network,
    plain,
    raw,
    sgd,
    six_methods,
)
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunus.carriers import Carrier, Feedback, Parametrized
from prunus.masks import Masks, Tensors
from prunus.methods import gmp, lc, magnitude_pruning, str_
from prunus.sparsifier import Sparsifier, sparsify

COMPILER_WARNING = "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"

Backward = Callable[[Tensor], Any]
Wired = tuple[nn.Module, Optimizer, Sparsifier, Backward]


def is_parametrized(case: Case) -> bool:
    return isinstance(case.method(), Parametrized)


def equal_counts(one: Masks, other: Masks) -> bool:
    return sum(int(mask.sum()) for mask in one.values()) == sum(int(mask.sum()) for mask in other.values())


def before_accelerate(case: Case, inner: nn.Module) -> Wired:
    optimizer, accelerator = sgd(inner), Accelerator(cpu=True)
    sparsifier = attach(case, inner, optimizer)
    model, prepared = accelerator.prepare(inner, optimizer)
    return model, prepared, sparsifier, accelerator.backward


def after_accelerate(case: Case, inner: nn.Module) -> Wired:
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(inner, sgd(inner))
    return model, optimizer, attach(case, model, optimizer), accelerator.backward


def before_fabric(case: Case, inner: nn.Module) -> Wired:
    optimizer, fabric = sgd(inner), Fabric(accelerator="cpu", devices=1)
    sparsifier = attach(case, inner, optimizer)
    model, wrapped = fabric.setup(inner, optimizer)
    return model, wrapped, sparsifier, fabric.backward


def after_fabric(case: Case, inner: nn.Module) -> Wired:
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(inner, sgd(inner))
    return model, optimizer, attach(case, model, optimizer), fabric.backward


def before_compile(case: Case, inner: nn.Module, backend: str = "aot_eager") -> Wired:
    optimizer = sgd(inner)
    sparsifier = attach(case, inner, optimizer)
    return torch.compile(inner, fullgraph=True, backend=backend), optimizer, sparsifier, Tensor.backward


def after_compile(case: Case, inner: nn.Module) -> Wired:
    model, optimizer = torch.compile(inner, fullgraph=True, backend="aot_eager"), sgd(inner)
    return model, optimizer, attach(case, model, optimizer), Tensor.backward


def before_ddp(case: Case, inner: nn.Module) -> Wired:
    optimizer = sgd(inner)
    sparsifier = attach(case, inner, optimizer)
    return DistributedDataParallel(inner), optimizer, sparsifier, Tensor.backward


def after_ddp(case: Case, inner: nn.Module) -> Wired:
    model, optimizer = DistributedDataParallel(inner), sgd(inner)
    return model, optimizer, attach(case, model, optimizer), Tensor.backward


def run(wired: Wired, inner: nn.Module) -> Tensors:
    model, optimizer, sparsifier, backward = wired
    for number in range(STEPS):
        inputs, targets = batch(number)
        optimizer.zero_grad()
        backward(error(model(inputs), targets))
        optimizer.step()
    assert sparsifier.clock == STEPS
    return final(sparsifier, inner)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wire", [before_accelerate, after_accelerate, before_fabric, after_fabric])
@six_methods
def test_same_bits_under_a_wrapper(case: Case, wire: Callable[[Case, nn.Module], Wired]) -> None:
    inner = network()
    assert equal(run(wire(case, inner), inner), expected(case))


@pytest.mark.filterwarnings(COMPILER_WARNING)
@pytest.mark.parametrize("name", ["gmp", "dpf", "str"])
@pytest.mark.slow
def test_same_bits_when_compiled_before(name: str) -> None:
    """The matrix compiles all methods after sparsify; here a compiled model is given to it."""
    inner = network()
    assert equal(run(after_compile(CASE[name], inner), inner), expected(CASE[name]))
    torch.compiler.reset()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wire", [before_ddp, after_ddp])
@six_methods
def test_same_bits_under_ddp(case: Case, wire: Callable[[Case, nn.Module], Wired]) -> None:
    inner = network()
    if wire is after_ddp and isinstance(case.method(), Feedback | Parametrized):
        with pytest.raises(RuntimeError, match="before wrapping the model in DDP"):
            wire(case, inner)
        return
    assert equal(run(wire(case, inner), inner), expected(case))


@pytest.mark.usefixtures("process_group")
def test_ddp_is_found_inside_other_wrappers() -> None:
    inner = network()
    model = torch.compile(DistributedDataParallel(inner), backend="eager")
    with pytest.raises(RuntimeError, match="before wrapping the model in DDP"):
        attach(CASE["str"], model, sgd(inner))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the way into its compiler
@six_methods
def test_same_numbers_under_inductor(case: Case, record_property: Callable[[str, object], None]) -> None:
    inner = network()
    found, wanted = run(before_compile(case, inner, backend="inductor"), inner), expected(case)
    gap = max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
    record_property("greatest difference", gap)
    print(f"{case}: {'bit-identical' if equal(found, wanted) else f'greatest difference {gap:.1e}'}")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    torch.compiler.reset()


@all_cases
def test_explicit_calls_equal_hooks(case: Case) -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = attach(case, model, optimizer, hooks=False)
    for number in range(STEPS):
        inputs, targets = batch(number)
        optimizer.zero_grad()
        error(model(inputs), targets).backward()
        sparsifier.before_step()
        optimizer.step()
        sparsifier.after_step()
    assert equal(final(sparsifier, model), expected(case))


def test_without_hooks_nothing_happens_by_itself() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = attach(CASE["gmp"], model, optimizer, hooks=False)
    error(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    assert sparsifier.clock == 0


@pytest.mark.parametrize("as_keyword", [False, True])
@six_methods
def test_closure_gives_the_same_bits(case: Case, as_keyword: bool) -> None:
    bench = Bench(case)
    for number in range(STEPS):
        inputs, targets = batch(number)

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            bench.optimizer.zero_grad()
            loss = error(bench.model(inputs), targets)
            loss.backward()
            return loss

        loss = bench.optimizer.step(closure=closure) if as_keyword else bench.optimizer.step(closure)
        assert torch.is_tensor(loss)
    assert bench.sparsifier.clock == STEPS
    assert equal(final(bench.sparsifier, bench.model), expected(case))


@pytest.mark.parametrize("name", ["gmp", "rigl", "dpf"])
def test_line_search_calls_its_closure_often_and_counts_once(name: str) -> None:
    model, calls = network(), 0
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=2, line_search_fn="strong_wolfe")
    sparsifier = attach(CASE[name], model, optimizer)
    inputs, targets = batch(0)

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = error(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    assert calls > 2 * STEPS
    assert sparsifier.clock == STEPS
    masks = sparsifier.finalize()
    assert all(not plain(model)[layer][~mask].any() for layer, mask in masks.items())
    assert equal_counts(masks, raw(name)[0])


class Jitter(torch.optim.SGD):
    """Moves every weight, with a gradient or without, as Langevin dynamics does."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(0.01)
        return loss


@pytest.mark.parametrize("name", ["random", "rigl", "gsm"])
def test_weights_moved_without_a_gradient_are_put_back(name: str) -> None:
    model = network()
    optimizer = Jitter(model.parameters(), lr=0.1)
    sparsifier = attach(CASE[name], model, optimizer)
    for number in range(STEPS + 2):
        optimizer.zero_grad()
        error(model(batch(number)[0]), batch(number)[1]).backward()
        optimizer.step()
        assert all(not plain(model)[layer][~mask].any() for layer, mask in sparsifier.masks.items())
    assert sparsifier.sparsity() == pytest.approx(SPARSITY, abs=0.01)


@pytest.mark.parametrize("name", [*SIX, "snfs", "dst"])
def test_accumulation_counts_one_step(name: str) -> None:
    bench = Bench(CASE[name])
    for number in range(STEPS):
        inputs, targets = batch(number)
        bench.optimizer.zero_grad()
        for half in (slice(0, 8), slice(8, 16)):
            (error(bench.model(inputs[half]), targets[half]) / 2).backward()
        bench.optimizer.step()
    assert bench.sparsifier.clock == STEPS
    torch.testing.assert_close(final(bench.sparsifier, bench.model), expected(CASE[name]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gmp", "rigl", "str"])
def test_accelerate_accumulates_into_one_step(name: str) -> None:
    inner, accelerator = network(), Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(inner, sgd(inner))
    sparsifier = attach(CASE[name], model, optimizer)
    for number in range(STEPS):
        inputs, targets = batch(number)
        for half in (slice(0, 8), slice(8, 16)):
            with accelerator.accumulate(model):
                accelerator.backward(error(model(inputs[half]), targets[half]))
                optimizer.step()
                optimizer.zero_grad()
    assert sparsifier.clock == STEPS
    torch.testing.assert_close(final(sparsifier, inner), expected(CASE[name]), rtol=0, atol=1e-9)


FUSED: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": sgd,
    "fused-sgd": lambda model: torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01, fused=True),
    "fused-adam": lambda model: torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.01, fused=True),
}


@pytest.mark.parametrize("unscale_first", [False, True], ids=["", "unscaled-by-the-loop"])
@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("name", ["gmp", "rigl", "dpf", "dst", "lc"])
def test_gradient_scaler_gives_the_same_bits_and_skips_uncounted(name: str, kind: str, unscale_first: bool) -> None:
    """Scales are powers of two, hence exact; before step 6 comes a batch whose gradient overflows."""
    case, model, plain_model = CASE[name], network().float(), network().float()
    optimizer, plain_optimizer = FUSED[kind](model), FUSED[kind](plain_model)
    sparsifier, plain_sparsifier = attach(case, model, optimizer), attach(case, plain_model, plain_optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def scaled_step(loss: Tensor) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    for number in range(STEPS):
        inputs, targets = (tensor.float() for tensor in batch(number))
        if number == 6:
            masks = {layer: mask.clone() for layer, mask in sparsifier.masks.items()}
            scaled_step(error(model(inputs), targets) * torch.inf)
            assert scaler.get_scale() == 2.0**9
            assert sparsifier.clock == 6
            assert equal(sparsifier.masks, masks)
        scaled_step(error(model(inputs), targets))
        plain_optimizer.zero_grad()
        error(plain_model(inputs), targets).backward()
        plain_optimizer.step()
    assert sparsifier.clock == STEPS
    assert equal(final(sparsifier, model), final(plain_sparsifier, plain_model))


@six_methods
def test_autocast(case: Case) -> None:
    model = network().float()
    optimizer = sgd(model)
    sparsifier = attach(case, model, optimizer)
    for number in range(STEPS):
        inputs, targets = (tensor.float() for tensor in batch(number))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(inputs)
        assert output.dtype == torch.bfloat16
        error(output.float(), targets).backward()
        optimizer.step()
    masks = sparsifier.finalize()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(not plain(model)[layer][~mask].any() for layer, mask in masks.items())
    assert case.count is None or equal_counts(masks, raw(str(case))[0])


@all_cases
def test_scheduler_made_before_sparsify(case: Case) -> None:
    model = network()
    optimizer = sgd(model)
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    if is_parametrized(case):
        with pytest.raises(RuntimeError, match="make the learning-rate scheduler after sparsify"):
            attach(case, model, optimizer)
        return
    attach(case, model, optimizer)
    error(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.09)]


def test_scheduler_made_on_a_wrapped_optimizer_is_found() -> None:
    inner = network()
    model, optimizer = Fabric(accelerator="cpu", devices=1).setup(inner, sgd(inner))
    LambdaLR(optimizer, lambda step: 0.9**step)
    with pytest.raises(RuntimeError, match="make the learning-rate scheduler after sparsify"):
        attach(CASE["str"], model, optimizer)


def test_scheduler_made_after_sparsify_moves_the_thresholds_too() -> None:
    bench = Bench(CASE["str"])
    scheduler = LambdaLR(bench.optimizer, lambda step: 0.5**step)
    bench.step(0)
    scheduler.step()
    assert [group["lr"] for group in bench.optimizer.param_groups] == [pytest.approx(0.05)] * 2


def test_thresholds_train_with_the_rate_and_decay_of_the_weights() -> None:
    model = network()
    named = dict(model.named_parameters())
    biases = {"params": [named[name] for name in named if "bias" in name], "lr": 0.3, "weight_decay": 0.0}
    weights = {"params": [named[name] for name in named if "weight" in name]}
    optimizer = torch.optim.SGD([biases, weights], lr=0.1, momentum=0.9, weight_decay=0.01)
    sparsify(model, optimizer, str_(SPARSITY), STEPS)
    assert (optimizer.param_groups[-1]["lr"], optimizer.param_groups[-1]["weight_decay"]) == (0.1, 0.01)


def decoupled(model: nn.Module) -> Optimizer:
    return torch.optim.NAdam(model.parameters(), weight_decay=0.01, decoupled_weight_decay=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda model: torch.optim.AdamW(model.parameters()), "AdamW's decay bypasses them; use SGD or Adam"),
        (decoupled, "decay bypasses them"),
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1), "which is 0; set weight_decay"),
    ],
    ids=["adamw", "decoupled-nadam", "no-decay"],
)
def test_lc_refuses_what_it_cannot_edit(make: Callable[[nn.Module], Optimizer], reason: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=reason):
        sparsify(model, make(model), lc(SPARSITY), STEPS)


def test_lc_edits_no_gradient_left_from_before() -> None:
    model, other = network(), network()
    for one in (model, other):
        error(one(batch(0)[0]), batch(0)[1]).backward()
    sparsify(model, sgd(model), lc(SPARSITY), STEPS)
    assert all(torch.equal(*map(grad_of, pair)) for pair in zip(model.parameters(), other.parameters(), strict=True))


def grad_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_a_last_update_by_gradient_is_not_lost() -> None:
    """A rule that reads gradients has no step after the last one, yet the sparsity asked for has to be reached."""
    case = Case("granet", lambda: None, None, "", {"update_every": 8, "until": 1.0})
    assert Bench(case).train().sparsifier.sparsity() == pytest.approx(SPARSITY, abs=0.5 / 164)


def test_state_takes_one_bit_a_weight_and_belongs_to_a_length() -> None:
    bench = Bench(CASE["gmp"])
    state = bench.sparsifier.state_dict()
    assert {name: (m.dtype, m.numel()) for name, m in state["method"]["masks"].items()} == {
        "0.weight": (torch.uint8, 8),
        "2.weight": (torch.uint8, 10),
        "4.weight": (torch.uint8, 3),
    }
    with pytest.raises(ValueError, match="the state is of a training with other steps: 16, here 8"):
        Bench(CASE["gmp"], steps=8).sparsifier.load_state_dict(state)


def test_sparsify_says_what_it_needs() -> None:
    model = network()
    with pytest.raises(ValueError, match="steps must be the number of optimizer steps of the training, at least 1"):
        sparsify(model, sgd(model), gmp(0.5), steps=0)
    with pytest.raises(ValueError, match=r"does not hold 0\.weight, 2\.weight, 4\.weight; make it from this model's"):
        sparsify(model, sgd(network()), gmp(0.5), steps=1)


def test_sparsifier_prints_a_table() -> None:
    model = network()
    text = str(sparsify(model, sgd(model), magnitude_pruning(0.5), steps=1))
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["0.weight", "10x6"],
        ["2.weight", "8x10"],
        ["4.weight", "3x8"],
        ["all", "164"],
    ]
    assert text.endswith("0.5000")


def test_weights_moved_by_other_hands_are_zero_off_the_mask_after_the_next_step() -> None:
    bench = Bench(CASE["gmp"]).train(last=12)
    with torch.no_grad():
        for weight in bench.sparsifier.site.weights.values():
            weight.data.add_(1.0)  # as noise, a swapped average or a loaded state would; no version counter sees it
    bench.step(12)
    for name, mask in bench.sparsifier.masks.items():
        assert not mask.all()
        assert not plain(bench.model)[name][~mask].any()


def test_a_state_of_another_training_is_refused() -> None:
    def attached(method: Carrier, steps: int = 10, **options: Any) -> Sparsifier:
        model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
        return sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method, steps, **options)

    half = {"0.weight": torch.arange(60).view(10, 6) % 2 == 0, "2.weight": torch.arange(30).view(3, 10) % 2 == 0}
    state = attached(gmp(0.9)).state_dict()
    for other, words in (
        (attached(gmp(0.9), steps=11), "other steps: 10, here 11"),
        (attached(gmp(0.9), exclude="2.*"), "other prunable weights"),
        (attached(gmp(0.9), start=half), r"other sparsity at its start: 0\.0, here 0\.5"),
        (attached(str_(0.9)), "another kind of method"),
    ):
        with pytest.raises(ValueError, match=words):
            other.load_state_dict(state)
