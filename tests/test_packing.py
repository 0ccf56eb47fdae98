"""Files of tensors: what is saved comes back, whatever its shape, type and density, and is as small as it can be."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus import packing
from prunus.masks import pack
from prunus.packing import decode_gaps, encode_gaps, load_packed, save_dense, save_packed

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)


def sparse(*shape: int, density: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    return (torch.randn(shape, generator=generator) * kept).to(dtype)


def layouts(path: Path) -> dict[str, str]:
    """The layout of every tensor that the metadata list."""
    with safetensors.safe_open(path, "pt") as file:
        entries = json.loads(file.metadata()[packing.KEY])["tensors"]
    return {name: entry["layout"] for name, entry in entries.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        # NaN is equal to itself here, as it must survive
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


shapes = st.lists(st.integers(0, 40), max_size=3).map(tuple)
fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(
    shape=shapes,
    density=st.sampled_from([0.0, 0.005, 0.05, 0.12, 0.13, 0.5, 1.0]),
    dtype=st.sampled_from(FLOATS),
    compress=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_tensor_comes_back(
    tmp_path: Path, shape: tuple[int, ...], density: float, dtype: torch.dtype, compress: bool, seed: int
) -> None:
    state = {"layer.weight": sparse(*shape, density=density, seed=seed, dtype=dtype), "steps": torch.tensor(seed)}
    path = tmp_path / "model.safetensors"
    save_packed(path, state, compress=compress, metadata={"seed": str(seed)})
    found, metadata = load_packed(path)
    assert_same(found, state)
    assert metadata == {"seed": str(seed)}


@fast
@given(st.lists(st.integers(0, 3000), unique=True).map(sorted))
def test_gaps_of_any_length_come_back(positions: list[int]) -> None:
    assert decode_gaps(encode_gaps(np.array(positions, np.int64))).tolist() == positions


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 509, 510, 511, 70_000])
def test_escaped_gaps(gap: int) -> None:
    positions = np.array([gap, 2 * gap + 1])
    gaps = encode_gaps(positions)
    assert decode_gaps(gaps).tolist() == positions.tolist()
    assert gaps.tolist() == 2 * ([255] * (gap // 255) + [gap % 255])


@pytest.mark.parametrize(
    ("density", "layout"), [(0.001, "gaps"), (0.05, "gaps"), (0.11, "gaps"), (0.15, "mask"), (0.9, "mask"), (1.0, None)]
)
def test_each_tensor_takes_its_smallest_layout(tmp_path: Path, density: float, layout: str | None) -> None:
    weight = sparse(200, 300, density=density)
    path = tmp_path / "model.safetensors"
    save_packed(path, {"weight": weight})
    assert layouts(path).get("weight") == layout
    kept = int(weight.count_nonzero())
    best = min(weight.numel() / 8, kept + 60_000 / 255) + 4 * kept
    assert path.stat().st_size <= min(best, weight.nbytes) + 400


def test_a_small_tensor_is_not_worth_two_names(tmp_path: Path) -> None:
    save_packed(tmp_path / "model.safetensors", {"weight": sparse(10, 10, density=0.5)})
    assert layouts(tmp_path / "model.safetensors") == {}


def test_a_long_gap_makes_the_mask_smaller(tmp_path: Path) -> None:
    weight = torch.zeros(80_000)
    weight[:9900] = 1
    for last, layout in ((10_000, "gaps"), (79_999, "mask")):
        weight[9900:] = 0
        weight[last] = 1
        save_packed(tmp_path / "model.safetensors", {"weight": weight})
        assert layouts(tmp_path / "model.safetensors") == {"weight": layout}
        assert_same(load_packed(tmp_path / "model.safetensors")[0], {"weight": weight})


@pytest.mark.parametrize("bf16", [False, True])
def test_the_reader_in_the_documentation_reads_every_layout(tmp_path: Path, bf16: bool) -> None:
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    (code,) = (part for part in page.split("```python\n") if "def read_packed" in part)
    namespace: dict[str, object] = {}
    exec(code.split("\n\n\narrays = ")[0], namespace)
    tied = sparse(60, 70, density=0.05)
    tied[20:40] = 0  # a gap of more than 255
    state = {"gaps": tied, "mask": sparse(60, 70, density=0.4), "dense": torch.randn(4, 5), "again": tied}
    state |= {"steps": torch.tensor(7), "nothing": torch.zeros(40, 50)}
    save_packed(tmp_path / "model.safetensors", state, bf16=bf16)
    assert {"gaps": "gaps", "mask": "mask"}.items() <= layouts(tmp_path / "model.safetensors").items()
    found = namespace["read_packed"](tmp_path / "model.safetensors")
    expected = load_packed(tmp_path / "model.safetensors")[0]
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())


def test_the_mask_is_the_one_of_masks(tmp_path: Path) -> None:
    weight = sparse(37, 41, density=0.4)
    save_packed(tmp_path / "model.safetensors", {"weight": weight})
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["weight:mask"], pack(weight != 0))
    assert torch.equal(stored["weight:values"], weight[weight != 0])


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("save", [save_packed, save_dense])
def test_other_types_are_left_as_they_are(tmp_path: Path, dtype: torch.dtype, save: object) -> None:
    tensor = (sparse(64, 64) > 1).to(dtype)
    save(tmp_path / "model.safetensors", {"buffer": tensor}, bf16=True)
    found = load_packed(tmp_path / "model.safetensors")[0]["buffer"]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


def test_special_values_survive(tmp_path: Path) -> None:
    weight = torch.zeros(1000)
    weight[[3, 400, 401, 999]] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-45])
    weight[5] = -0.0
    save_packed(tmp_path / "model.safetensors", {"weight": weight})
    assert layouts(tmp_path / "model.safetensors") == {"weight": "gaps"}
    found = load_packed(tmp_path / "model.safetensors")[0]["weight"]
    assert_same({"": found}, {"": weight})
    assert found[999] == weight[999] != 0
    assert not found.signbit()[5]  # a negative zero is a zero


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("save", [save_packed, save_dense])
def test_bf16_rounds_weights_alone(tmp_path: Path, save: object, compress: bool) -> None:
    state = {
        "weight": sparse(50, 60),
        "full": torch.randn(9, 9),
        "bias": torch.randn(500),
        "half": sparse(50, 60).half(),
    }
    save(tmp_path / "model.safetensors", state, bf16=True, compress=compress)
    rounded = {name: tensor.bfloat16().float() for name, tensor in state.items() if name in ("weight", "full")}
    assert not torch.equal(rounded["full"], state["full"])
    assert_same(load_packed(tmp_path / "model.safetensors")[0], state | rounded)


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    model = nn.ModuleDict({"input": nn.Embedding(300, 20), "output": nn.Linear(20, 300, bias=False)})
    model["output"].weight = model["input"].weight
    save_packed(tmp_path / "model.safetensors", model.state_dict())
    assert (tmp_path / "model.safetensors").stat().st_size < 300 * 20 * 4 + 1000
    found, _ = load_packed(tmp_path / "model.safetensors")
    assert_same(found, model.state_dict())
    assert found["input.weight"] is found["output.weight"]


def test_views_of_one_memory_come_back_as_they_were(tmp_path: Path) -> None:
    flat = torch.randn(60)
    state = {"all": flat, "table": flat.view(6, 10), "turned": flat.view(6, 10).T, "first": flat[:7], "rest": flat[7:]}
    square = torch.randn(5, 5)
    state |= {"square": square, "transposed": square.T, "nothing": torch.empty(0), "void": torch.empty(0)}
    for save in (save_packed, save_dense):
        save(tmp_path / "model.safetensors", state)
        assert_same(load_packed(tmp_path / "model.safetensors")[0], state)


def test_dense_files_load_anywhere_under_their_own_names(tmp_path: Path) -> None:
    shared = sparse(30, 40)
    state = {"weight": shared, "again": shared, "strided": torch.randn(4, 5, 6).permute(2, 0, 1)}
    save_dense(tmp_path / "model.safetensors", state)
    assert_same(safetensors.torch.load_file(tmp_path / "model.safetensors"), state)


def test_channels_last_weights_come_back(tmp_path: Path) -> None:
    weight = sparse(8, 4, 3, 3, density=0.3).to(memory_format=torch.channels_last)
    save_packed(tmp_path / "model.safetensors", {"weight": weight})
    assert_same(load_packed(tmp_path / "model.safetensors")[0], {"weight": weight})


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    metadata = {f"key{number}": "value" for number in range(20)}
    state = {"weight": sparse(100, 100), "bias": torch.randn(3)}
    save_packed(tmp_path / "first", state, metadata=metadata)
    save_packed(tmp_path / "second", dict(reversed(state.items())), metadata=dict(reversed(metadata.items())))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_every_tensor_is_aligned_to_its_size(tmp_path: Path) -> None:
    for length in range(8):
        state = {"a" * length: torch.ones(3, dtype=torch.bool), "b": torch.ones(3).half(), "c": torch.ones(3)}
        save_dense(tmp_path / "model.safetensors", state)
        content = (tmp_path / "model.safetensors").read_bytes()
        head = int.from_bytes(content[:8], "little")
        assert head % 8 == 0
        header = json.loads(content[8 : 8 + head])
        assert all(header[name]["data_offsets"][0] % tensor.element_size() == 0 for name, tensor in state.items())


def test_plain_files_load(tmp_path: Path) -> None:
    state = {"weight": sparse(10, 10)}
    safetensors.torch.save_file(state, tmp_path / "plain.safetensors", {"format": "pt"})
    found, metadata = load_packed(tmp_path / "plain.safetensors")
    assert_same(found, state)
    assert metadata == {"format": "pt"}
    safetensors.torch.save_file(state, tmp_path / "bare.safetensors")
    assert load_packed(tmp_path / "bare.safetensors")[1] == {}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_off_is_named(tmp_path: Path, compress: bool, kept: float) -> None:
    path = tmp_path / "model.safetensors"
    save_packed(path, {"weight": sparse(100, 100), "bias": torch.randn(100)}, compress=compress)
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(kept * len(content))])
    with pytest.raises(
        ValueError, match=r"model\.safetensors must be a whole safetensors file.* export or copy it again"
    ):
        load_packed(path)


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.zst"
    save_packed(path, {"weight": torch.randn(1000)}, compress=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_packed(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"not a network at all", b"\x28\xb5\x2f\xfdxx"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"got {len(content)} bytes that are not"):
        load_packed(tmp_path / "model.safetensors")


def test_a_later_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "VERSION", 2)
    save_packed(tmp_path / "model.safetensors", {"weight": torch.ones(3)})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="layout version 2, expected 1; update prunus"):
        load_packed(tmp_path / "model.safetensors")


def test_a_type_that_safetensors_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got torch\.complex128; convert it"):
        save_packed(tmp_path / "model.safetensors", {"w": torch.ones(3, dtype=torch.complex128)})


def test_names_of_parts_are_refused(tmp_path: Path) -> None:
    state = {"w": sparse(100, 100), "w:values": torch.ones(3)}
    for clashing in (state, dict(reversed(state.items()))):
        with pytest.raises(ValueError, match="got 'w:values'; rename it"):
            save_packed(tmp_path / "model.safetensors", clashing)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_packed(path, {"weight": torch.ones(3)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_packed(path, {"weight": torch.zeros(3)})
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(load_packed(path)[0]["weight"], torch.ones(3))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix")
def test_saving_copies_nothing_that_stays_dense(tmp_path: Path) -> None:
    code = (
        "import resource, sys, torch\nfrom pathlib import Path\nfrom prunus.packing import save_packed\n"
        "state = {'weight': torch.rand(8000, 4000)}\n"  # 128 MB that nothing shrinks
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); save_packed(Path(sys.argv[1]), state); print((peak() - before) * 1024 / 128e6)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5  # one byte a weight finds the zeros
