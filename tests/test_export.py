"""A trained network as a file, and back: every format gives the same network, and says what it is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from tiny import prunus, tiny
from torch import Tensor, nn
from torch.nn.utils import prune

import prunus as package
from prunus import __version__
from prunus.data import load as load_data
from prunus.export import Exported, export, load, read
from prunus.masks import multiply_, prunable, sparsity_of
from prunus.models import MODELS
from prunus.packing import load_packed, save_packed
from prunus.provenance import provenance


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    """The model without the smallest weights of each layer."""
    with torch.no_grad():
        for weight in prunable(model).values():
            dropped = weight.abs().flatten().kthvalue(max(1, round(sparsity * weight.numel()))).values
            multiply_(weight, weight.abs() > dropped)
    return model.eval()


def finished(directory: Path, network: nn.Module | None = None, **changes: Any) -> tuple[Path, nn.Module]:
    """A finished run as its directory, and its network."""
    recipe = tiny(**changes)
    torch.manual_seed(0)
    model = pruned(network or MODELS["mlp"]((1, 8, 8), 10, widths=(64,)))
    home = directory / recipe.name()
    home.mkdir(parents=True)
    realised = sparsity_of(prunable(model).values())
    metadata = provenance(recipe, load_data("digits"), realised).metadata()
    save_packed(home / "model.safetensors", model.state_dict(), metadata=metadata)
    return home, model


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, nn.Module]:
    return finished(tmp_path / "runs", model={"mlp": {"widths": [64]}})


IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_loads_as_its_model(run: tuple[Path, nn.Module]) -> None:
    home, model = run
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for path in (home, str(home), home / "model.safetensors"):
        found = package.load(path)
        assert isinstance(found, nn.Module)
        assert not found.training
        assert_same(found.state_dict(), model.state_dict())
        assert torch.equal(found(IMAGES), model(IMAGES))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("format", ["safetensors", "packed"])
def test_exported_files_load_as_the_model(run: tuple[Path, nn.Module], format: Any, zstd: bool) -> None:
    home, model = run
    exported = export(home, format, zstd=zstd)
    assert exported.path.suffix == (".zst" if zstd else ".safetensors")
    assert exported.path.parent == home
    assert exported.bytes == exported.path.stat().st_size
    assert exported.dense_bytes == sum(tensor.nbytes for tensor in model.state_dict().values())
    found = load(exported.path)
    assert isinstance(found, nn.Module)
    assert torch.equal(found(IMAGES), model(IMAGES))


def test_dense_keys_load_into_any_torch_code(run: tuple[Path, nn.Module]) -> None:
    home, model = run
    plain = nn.Sequential()
    plain.add_module("linear1", nn.Linear(64, 64))
    plain.add_module("linear2", nn.Linear(64, 10))
    plain.load_state_dict(load_file(export(home).path))
    assert_same(dict(plain.state_dict()), model.state_dict())


@pytest.mark.parametrize("format", ["safetensors", "packed"])
def test_bf16_rounds_the_weights(run: tuple[Path, nn.Module], format: Any) -> None:
    home, model = run
    found = load(export(home, format, bf16=True, zstd=True).path)
    assert isinstance(found, nn.Module)
    expected = {
        name: tensor.bfloat16().float() if tensor.dim() > 1 else tensor for name, tensor in model.state_dict().items()
    }
    assert_same(found.state_dict(), expected)
    assert_same(load(home).state_dict(), model.state_dict())


def test_metadata_say_where_the_weights_come_from(run: tuple[Path, nn.Module]) -> None:
    home, model = run
    for format in ("safetensors", "packed"):
        with safetensors.safe_open(export(home, format).path, "pt") as file:
            metadata = file.metadata()
        assert metadata["format"] == "pt"
        assert metadata["prunus.format"] == "prunus-weights/1"
        fields = {
            name: json.loads(value) for name, value in metadata.items() if name not in ("format", "prunus.format")
        }
        assert fields["prunus.version"] == __version__
        assert fields["prunus.recipe"] == tiny(model={"mlp": {"widths": [64]}}).resolved()
        assert fields["prunus.sparsity"] == 0.9
        assert fields["prunus.realised_sparsity"] == sparsity_of(prunable(model).values())
        assert fields["prunus.input_shape"] == [1, 8, 8]
        assert fields["prunus.classes"] == 10


@pytest.mark.slow
def test_onnx_gives_the_same_outputs_for_any_batch(run: tuple[Path, nn.Module]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    home, model = run
    exported = export(home, "onnx")
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        (logits,) = session.run(["logits"], {"input": IMAGES[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(IMAGES[:batch]), rtol=0, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["prunus.classes"] == "10"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg16-bn", "wrn-22-2", "conv-net"])
def test_onnx_of_every_family(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    shape = (1, 8, 8) if name == "resnet20" else (3, 32, 32)
    recipe = tiny(model=name)
    torch.manual_seed(0)
    model = pruned(MODELS[name](shape, 10))
    metadata = provenance(recipe, load_data("digits"), 0.9).metadata() | {"prunus.input_shape": json.dumps(shape)}
    save_packed(tmp_path / "network.safetensors", model.state_dict(), metadata=metadata)
    session = onnxruntime.InferenceSession(export(tmp_path / "network.safetensors", "onnx").path)
    images = torch.randn(3, *shape)
    (logits,) = session.run(["logits"], {"input": images.numpy()})
    expected = model(images).detach()
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_onnx_takes_no_compression(run: tuple[Path, nn.Module]) -> None:
    for options in ({"bf16": True}, {"zstd": True}):
        with pytest.raises(ValueError, match="drop --bf16 and --zstd, or choose --format packed"):
            export(run[0], "onnx", **options)


def test_onnx_needs_its_packages(run: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'prunus\[onnx\]'"):
        export(run[0], "onnx")


def test_double_precision_stays_double(tmp_path: Path) -> None:
    network = MODELS["mlp"]((1, 8, 8), 10, widths=(16,)).double()
    home, model = finished(tmp_path, network, precision="64-true")
    found = load(home)
    assert_same(found.state_dict(), model.state_dict())
    assert torch.equal(found(IMAGES.double()), model(IMAGES.double()))


def test_a_plug_in_model_loads_as_its_state_dict(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("raise AssertionError('a file of weights runs no code')\n")
    recipe = tiny(model="mine", plugins=[str(tmp_path / "plugin.py")])
    metadata = provenance(recipe, load_data("digits"), 0.5).metadata()
    state = {"weight": torch.eye(2)}
    save_packed(tmp_path / "weights.safetensors", state, metadata=metadata)
    assert_same(load(tmp_path / "weights.safetensors"), state)
    with pytest.raises(ValueError, match="does not name a built-in model, which ONNX needs"):
        export(tmp_path / "weights.safetensors", "onnx")


def test_state_dicts_of_others_load_and_export(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4))
    prune.l1_unstructured(model[0], "weight", 0.95)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "best.pt")
    found = load(tmp_path / "best.pt")
    prune.remove(model[0], "weight")
    assert_same(found, model.state_dict())
    exported = export(tmp_path / "best.pt", "packed")
    assert exported.path == tmp_path / "best-packed.safetensors"
    assert exported.sparsity == sparsity_of([model[0].weight, model[1].weight])
    assert exported.bytes < exported.dense_bytes / 3
    assert_same(load(exported.path), found)


def test_shared_weights_count_once(tmp_path: Path) -> None:
    weight = torch.randn(40, 40)
    save_packed(tmp_path / "tied.safetensors", {"first": weight, "second": weight})
    assert read(tmp_path / "tied.safetensors").dense_bytes() == weight.nbytes


def test_the_command_says_what_it_wrote(run: tuple[Path, nn.Module], capsys: pytest.CaptureFixture[str]) -> None:
    home, _ = run
    out = home.parent / "new" / "small.safetensors.zst"
    assert prunus("export", home, "--format", "packed", "--bf16", "--zstd", "--out", out) == 0
    size = out.stat().st_size
    dense = read(home).dense_bytes()
    sparsity = read(home).sparsity()
    assert capsys.readouterr().out == f"{out}: {size:,} bytes, {size / dense:.3f} of dense, sparsity {sparsity:.4f}\n"
    assert prunus("export", home) == 0
    assert " of dense, no gain, sparsity " in capsys.readouterr().out
    assert (home / "dense.safetensors").is_file()


def test_gain_is_said_only_where_there_is_one() -> None:
    assert "no gain" in str(Exported(Path("x"), 100, 100, 0.9))
    assert "no gain" not in str(Exported(Path("x"), 99, 100, 0.9))


def test_the_run_keeps_its_own_weights(run: tuple[Path, nn.Module]) -> None:
    home, model = run
    with pytest.raises(ValueError, match="is the file to export, and stays; choose another with --out"):
        export(home, "packed", bf16=True, out=home / "model.safetensors")
    assert_same(load(home).state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", b"", "must be a state dict that torch.save wrote, but is not whole (EOFError)"),
        ("model.pt", b"junk junk", "must be a state dict that torch.save wrote, but is not whole"),
        ("model.safetensors", b"junk junk", "must be a whole safetensors file"),
    ],
)
def test_bad_files_are_one_line(
    tmp_path: Path, name: str, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert prunus("export", tmp_path / name) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_torch_file_cut_off_or_with_code_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(30, 30).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="but is not whole"):
        load(path)
    torch.save(nn.Linear(30, 30), path)
    with pytest.raises(ValueError, match="but holds more than tensors"):
        load(path)
    torch.save([torch.ones(3)], path)
    with pytest.raises(ValueError, match="must hold a state dict, got list"):
        load(path)


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model\.safetensors; train it to its end"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"a file of weights, found none at .*missing\.safetensors"):
        load(tmp_path / "missing.safetensors")


def test_unknown_formats_in_the_metadata_load_as_state_dicts(tmp_path: Path, run: tuple[Path, nn.Module]) -> None:
    state, metadata = load_packed(run[0] / "model.safetensors")
    save_packed(tmp_path / "later.safetensors", state, metadata=metadata | {"prunus.format": "prunus-weights/2"})
    assert_same(load(tmp_path / "later.safetensors"), state)
