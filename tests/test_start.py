"""Training that begins from a network which is sparse already goes on from there: the same sparsity or a higher one."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import prunus, tiny, written
from torch import nn

from prunus import methods, sparsify
from prunus.allocation import ALLOCATIONS
from prunus.carriers import Carrier
from prunus.loop import Progress
from prunus.masks import Masks, sparsity_of
from prunus.methods import METHODS
from prunus.packing import load_packed, save_packed
from prunus.prepare import prepare
from prunus.ranking import top_k
from prunus.recipes import Recipe, RecipeError
from prunus.retraining import Pretraining
from prunus.runs import train

LEARNED = ("str", "dst", "cs")
STEPS = 8


def silent(progress: Progress) -> None:
    """Nobody listens."""


def network() -> tuple[nn.Module, torch.optim.Optimizer, Masks]:
    """A network of 80 % sparsity, its optimizer and its masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    masks = {}
    with torch.no_grad():
        for name, kept in (("0.weight", 100), ("2.weight", 50)):
            weight = model.get_parameter(name)
            masks[name] = top_k(weight.abs(), kept)
            weight.mul_(3 * masks[name] if name == "2.weight" else masks[name])
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3), masks


def made(method: str, sparsity: float) -> Carrier:
    """The method, with whatever it must be told."""
    batches = [(torch.ones(4, 20), torch.arange(4))]
    given: dict[str, dict[str, Any]] = {
        "grasp": {"batches": batches, "loss": nn.functional.cross_entropy},
        "synflow": {"input_shape": (20,)},
        "imp": {"pretraining": Pretraining((0.1,) * 30), "cycles": 2},
        "granet": {"initial": min(0.5, sparsity)},
    }
    return METHODS[method](sparsity=sparsity, **given.get(method, {}))


def train_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        outputs = model(torch.randn(16, 20, generator=generator))
        nn.functional.cross_entropy(outputs, torch.randint(5, (16,), generator=generator)).backward()
        optimizer.step()


@pytest.mark.parametrize("sparsity", [0.8, 0.9])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in LEARNED])
def test_every_method_goes_on_to_the_same_or_a_higher_sparsity(method: str, sparsity: float) -> None:
    model, optimizer, start = network()
    sparsifier = sparsify(model, optimizer, made(method, sparsity), STEPS, start=start)
    assert sparsifier.sparsity() >= sparsity_of(start.values()) - 1e-9
    train_on(model, optimizer)
    masks = sparsifier.finalize()
    # layers whose budget is larger than what they have left cannot give it back
    assert sparsity - 0.01 <= sparsity_of(masks.values()) <= sparsity + (0.05 if method == "random" else 0.01)
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


@pytest.mark.parametrize("method", ["magnitude", "gmp", "one-shot", "snip", "gsm", "lc"])
def test_what_pruning_dropped_stays_dropped(method: str) -> None:
    model, optimizer, start = network()
    sparsifier = sparsify(model, optimizer, made(method, 0.9), STEPS, start=start)
    train_on(model, optimizer)
    masks = sparsifier.finalize()
    assert all(bool((mask <= start[name]).all()) for name, mask in masks.items())


@pytest.mark.parametrize("method", ["rigl", "set", "snfs", "magnitude", "dpf", "dnw"])
def test_no_live_weight_is_lost_at_the_same_sparsity(method: str) -> None:
    model, optimizer, start = network()
    before = {name: model.get_parameter(name).detach().clone() for name in start}
    sparsifier = sparsify(model, optimizer, made(method, 0.8), STEPS, start=start)
    assert {name: mask.equal(start[name]) for name, mask in sparsifier.masks.items()} == dict.fromkeys(start, True)
    sparsifier.finalize()
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in before.items())


@pytest.mark.parametrize("method", ["magnitude", "gmp", "rigl", "dpf", "rp-rr", "granet", "gsm"])
def test_a_lower_sparsity_is_refused_with_the_reason(method: str) -> None:
    model, optimizer, start = network()

    def go_on() -> None:
        sparsifier = sparsify(model, optimizer, made(method, 0.5), STEPS, start=start)
        train_on(model, optimizer)
        sparsifier.finalize()

    with pytest.raises(ValueError, match=r"began at sparsity 0\.8 and cannot end at 0\.5: .* at least 0\.8, or begin"):
        go_on()


@pytest.mark.parametrize("method", LEARNED)
def test_learned_thresholds_cannot_hold_first_masks(method: str) -> None:
    model, optimizer, start = network()
    with pytest.raises(ValueError, match="begin it from dense weights"):
        sparsify(model, optimizer, made(method, 0.9), STEPS, start=start)


def test_masks_of_another_network_are_refused() -> None:
    model, optimizer, start = network()
    with pytest.raises(ValueError, match=r"a mask for every prunable weight and no other, they differ in '2\.weight'"):
        sparsify(model, optimizer, methods.gmp(0.9), STEPS, start={"0.weight": start["0.weight"]})


def started(start: Path, **changes: Any) -> Recipe:
    (run,) = tiny(start=str(start), **changes).runs()
    return run


def test_a_run_goes_on_where_another_ended(tmp_path: Path) -> None:
    (first,) = tiny(method="rigl", sparsity=0.8).runs()
    train(first, tmp_path, silent)
    home = tmp_path / first.name()
    state, _ = load_packed(home / "model.safetensors")
    layers = ("linear1.weight", "linear2.weight")
    for start in (home, home / "model.safetensors"):
        model = prepare(started(start, sparsity=0.8)).model
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    result = train(started(home, sparsity=0.95), tmp_path, silent)
    final, _ = load_packed(tmp_path / started(home, sparsity=0.95).name() / "model.safetensors")
    assert result["realised_sparsity"] == pytest.approx(0.95, abs=0.001)
    assert all(bool((final[name] != 0).le(state[name] != 0).all()) for name in layers)
    with pytest.raises(
        RecipeError, match=r"has sparsity 0\.7998 and a run from it cannot end at 0\.5: .* at least 0\.7"
    ):
        prepare(started(home, sparsity=0.5))


def test_a_start_is_known_for_its_images_however_their_path_is_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    (first,) = tiny(method="dense", data=str(tmp_path / "own.npz")).runs()
    train(first, tmp_path, silent)
    other = f"{tmp_path}/../{tmp_path.name}/own.npz"
    (later,) = tiny(data=other, start=str(tmp_path / first.name()), split_seed=1).runs()
    with pytest.raises(RecipeError, match="it was trained on images that this run would validate on"):
        prepare(later)


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("split_seed=7", r"0\.1, 0 and None, got 0\.1, 7 and None"),
        ("validation=0.3", r"0\.1, 0 and None, got 0\.3, 0 and None"),
        ("images=1000", r"0\.1, 0 and None, got 0\.1, 0 and 1000"),
    ],
)
def test_a_start_that_has_seen_the_validation_images_is_refused(
    command: str, change: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = tiny(method="dense").runs()
    train(first, tmp_path, silent)
    path = written(tmp_path, start=str(tmp_path / first.name()))
    assert prunus("check", path) == 0
    capsys.readouterr()
    assert prunus(command, path, change, *(["--out", tmp_path / "out"] if command == "train" else [])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"validation, split_seed and images must be those of the start, {words}: it was trained", line)
    assert not list(tmp_path.rglob("out/*/result.json"))


def test_a_dense_start_binds_no_weight(tmp_path: Path) -> None:
    (first,) = tiny(method="dense").runs()
    train(first, tmp_path, silent)
    prepared = prepare(started(tmp_path / first.name(), method="str"))
    assert prepared.sparsifier is not None
    assert prepared.sparsifier.site.start is None


@pytest.mark.parametrize("sparsity", [0.8, 0.9])
@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_layers_with_more_left_bear_what_others_cannot(allocation: str, sparsity: float) -> None:
    model, optimizer, _ = network()
    start = {"0.weight": torch.zeros(30, 20, dtype=torch.bool), "2.weight": torch.ones(5, 30, dtype=torch.bool)}
    start["0.weight"].view(-1)[:20] = True
    start["2.weight"].view(-1)[:20] = False  # 150 of 750 are left, most of them in the small layer
    sparsifier = sparsify(
        model, optimizer, methods.gmp(sparsity, allocation=ALLOCATIONS[allocation]), STEPS, start=start
    )
    train_on(model, optimizer)
    assert sparsity_of(sparsifier.finalize().values()) == pytest.approx(sparsity, abs=0.002)


def test_weights_that_are_kept_at_zero_do_not_count_as_dropped(tmp_path: Path) -> None:
    (first,) = tiny(method={"set": {"update_every": 1}}, sparsity=0.5).runs()
    train(first, tmp_path, silent)  # pixels that are always black leave grown weights at zero
    prepared = prepare(started(tmp_path / first.name(), method="set", sparsity=0.5))
    assert prepared.sparsifier is not None
    assert prepared.sparsifier.sparsity() == pytest.approx(0.5, abs=0.001)
    state, _ = load_packed(tmp_path / first.name() / "model.safetensors")
    assert sparsity_of(state[name] for name in ("linear1.weight", "linear2.weight")) > 0.501


def test_a_checkpoint_of_a_run_in_progress_is_no_start(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": "prunus-checkpoint/1"}, path)
    with pytest.raises(ValueError, match=r"is the checkpoint of a run in progress; give that run's command again"):
        prepare(started(path))


def test_data_in_a_file_of_their_own_are_part_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(b"one")
    first = tiny(data=str(path)).name()
    path.write_bytes(b"another")
    assert tiny(data=str(path)).name() != first


def test_a_run_is_named_by_the_weights_that_it_starts_from(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    model = prepare(tiny(method="dense")).model
    save_packed(path, model.state_dict())
    first = started(path).name()
    assert first == started(path).name() != tiny().name()
    save_packed(path, {name: 2 * tensor for name, tensor in model.state_dict().items()})
    assert started(path).name() != first


def test_a_plugin_file_is_part_of_a_run(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text("STRENGTH = 1\n")
    first = tiny(plugins=str(plugin)).name()
    plugin.write_text("STRENGTH = 2\n")
    assert tiny(plugins=str(plugin)).name() != first


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("nowhere", "must be the directory of a finished run or a file of weights, found none at nowhere"),
        (".", r"found none at model\.safetensors"),
        ("cut.safetensors", r"cut\.safetensors"),
        ("other.safetensors", r"start other\.safetensors must hold the weights of model"),
    ],
)
def test_a_start_that_cannot_be_used(
    start: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_packed(tmp_path / "other.safetensors", {"weight": torch.ones(3, 3)})
    whole = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert prunus("train", written(tmp_path), f"start={start}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prunus: ")
    assert re.search(words, line)
