"""The folder that is followed: files taken once, whole, or set aside with a reason; images found by number."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megabatches import SPARSITY, stream
from numpy.typing import NDArray
from rich.console import Console

from prunus.anytime import inbox as inbox_module
from prunus.anytime.follow import CURRENT, Kept, Until, follow
from prunus.anytime.inbox import Inbox, read_megabatch
from prunus.data import Images, load
from prunus.packing import load_packed
from prunus.tables import RecipeError

pytestmark = pytest.mark.usefixtures("unsynced")

DIGITS = load("digits")
PIXELS, LABELS = DIGITS.train.images.numpy(), DIGITS.train.labels.numpy()
examples = settings(max_examples=40, deadline=None)


def npz(**arrays: NDArray[Any]) -> bytes:
    """The content of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def megabatch(start: int, count: int) -> bytes:
    """Some of the digits."""
    return npz(inputs=PIXELS[start : start + count], targets=LABELS[start : start + count])


def put(folder: Path, name: str, content: bytes) -> None:
    """A file by rename, as a careful writer does it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.writing").write_bytes(content)
    (folder / f"{name}.writing").rename(folder / name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass, which otherwise stands still."""
    now = 1000.0

    def pass_(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", pass_)
    return pass_


def take(inbox: Inbox, clock: Callable[[float], None]) -> list[str]:
    """What is said of files that have settled."""
    inbox.take()
    clock(inbox_module.SETTLED)
    return inbox.take()


def begun(tmp_path: Path) -> Inbox:
    """An inbox as a new process finds it."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "home").mkdir(exist_ok=True)
    return Inbox(tmp_path / "in", tmp_path / "home", DIGITS)


def test_files_are_taken_once_in_the_order_of_their_names(tmp_path: Path, clock: Callable[[float], None]) -> None:
    inbox = begun(tmp_path)
    tensors = {"inputs": DIGITS.train.images[5:9], "targets": DIGITS.train.labels[5:9].int()}
    put(inbox.folder, "b.safetensors", safetensors.torch.save(tensors))
    put(inbox.folder, "a.npz", megabatch(0, 5))
    put(inbox.folder, "note.txt", b"not for us")
    put(inbox.folder, ".hidden.npz", b"nor this")
    assert take(inbox, clock) == []
    assert [name for name, _ in inbox.ledger] == ["a.npz", "b.safetensors"]
    assert sorted(path.name for path in inbox.folder.iterdir()) == [".hidden.npz", "note.txt"]
    kept = Kept(inbox)
    kept.add(5), kept.add(4)
    images = kept.select(torch.arange(9))
    assert torch.equal(images.images, DIGITS.train.images[:9])
    assert torch.equal(images.labels, DIGITS.train.labels[:9])
    assert images.labels.dtype == torch.int64


def test_a_file_counts_as_written_once_it_has_not_changed_for_a_while(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    inbox, content = begun(tmp_path), megabatch(0, 50)
    path = inbox.folder / "slow.npz"
    for end in range(0, len(content), len(content) // 4):
        path.write_bytes(content[:end])
        assert inbox.take() == []
        clock(0.9 * inbox_module.SETTLED)
        assert inbox.arriving()
    path.write_bytes(content)
    assert take(inbox, clock) == []
    assert len(inbox.ledger) == 1
    assert not inbox.arriving()


@pytest.mark.parametrize("again", [True, False])
def test_a_file_that_comes_again_is_taken_only_if_it_is_another(
    again: bool, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    inbox = begun(tmp_path)
    put(inbox.folder, "a.npz", megabatch(0, 5))
    take(inbox, clock)
    inbox = begun(tmp_path)  # by another process
    put(inbox.folder, "a.npz", megabatch(0 if again else 5, 5))
    take(inbox, clock)
    assert len(inbox.ledger) == (1 if again else 2)
    assert not list(inbox.folder.iterdir())


@pytest.mark.parametrize("moment", ["megabatch", "ledger", "unlink"])
def test_killed_while_it_takes_a_file_nothing_is_lost_or_taken_twice(
    moment: str, tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def dying(path: Path, *rest: Any, **options: Any) -> None:
        wanted = {"megabatch": "000001.safetensors", "ledger": "ledger.json", "unlink": "b.npz"}[moment]
        if path.name == wanted:
            raise KilledError
        unlinking(path, **options) if moment == "unlink" else writing(path, *rest)

    writing, unlinking = inbox_module.write_atomically, Path.unlink
    inbox = begun(tmp_path)
    put(inbox.folder, "a.npz", megabatch(0, 5))
    take(inbox, clock)
    put(inbox.folder, "b.npz", megabatch(5, 5))
    place, name = (Path, "unlink") if moment == "unlink" else (inbox_module, "write_atomically")
    with monkeypatch.context() as patched:
        patched.setattr(place, name, dying)
        with pytest.raises(KilledError):
            take(inbox, clock)
    put(tmp_path / "in", "aa.npz", megabatch(10, 5))  # after the one whose taking was cut short, whatever its name
    inbox = begun(tmp_path)
    take(inbox, clock)
    names = [name for name, _ in inbox.ledger]
    assert names == ["a.npz", "b.npz", "aa.npz"]
    kept = Kept(inbox)
    firsts = {"a.npz": 0, "b.npz": 5, "aa.npz": 10}
    for number, name in enumerate(names):
        labels = DIGITS.train.labels[firsts[name] : firsts[name] + 5]
        assert torch.equal(kept.megabatch(number).labels, labels)
    assert not list(inbox.folder.iterdir())


X, Y = PIXELS[:6], LABELS[:6]
SPOILT: dict[str, tuple[bytes, str]] = {
    "empty.npz": (b"", "must be a whole .npz file of plain arrays, got 0 bytes"),
    "cut.npz": (megabatch(0, 50)[:-100], "must be a whole .npz file"),
    "text.npz": (b"hello" * 100, "must be a whole .npz file"),
    "pickled.npz": (npz(inputs=np.array([{}]), targets=Y), "must be a whole .npz file of plain arrays"),
    "cut.safetensors": (
        safetensors.torch.save({"inputs": DIGITS.train.images[:5]})[:-1],
        "must be a whole safetensors file",
    ),
    "empty.safetensors": (b"", "must be a whole safetensors file, got 0 bytes"),
    "unnamed.npz": (npz(images=X, labels=Y), "must hold inputs and targets, inputs and targets missing"),
    "without.npz": (npz(inputs=X), "targets missing"),
    "float.npz": (npz(inputs=X / 16, targets=Y), r"inputs must be uint8 (n, 1, 8, 8), got torch.float64 (6, 1, 8, 8)"),
    "flat.npz": (npz(inputs=X.reshape(6, 64), targets=Y), "got torch.uint8 (6, 64)"),
    "fewer.npz": (
        npz(inputs=X, targets=Y[:5]),
        "targets must be one integer an image, of two at least, got torch.int64 (5,)",
    ),
    "one.npz": (npz(inputs=X[:1], targets=Y[:1]), "of two at least, got torch.int64 (1,)"),
    "shares.npz": (npz(inputs=X, targets=Y / 9), "targets must be one integer an image"),
    "yes.npz": (npz(inputs=X, targets=Y > 3), "of two at least, got torch.bool (6,)"),
    "complex.npz": (npz(inputs=X, targets=Y + 0j), "targets must be one integer an image"),
    "eleven.npz": (npz(inputs=X, targets=Y + 10), "targets must be in [0, 10), got"),
    "below.npz": (npz(inputs=X, targets=Y - 20), "targets must be in [0, 10), got"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_megabatch_is_set_aside_with_a_reason(
    name: str, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    inbox = begun(tmp_path)
    content, reason = SPOILT[name]
    put(inbox.folder, name, content)
    put(inbox.folder, "good.npz", megabatch(0, 5))
    (said,) = take(inbox, clock)
    assert said.startswith(f"{name}: ")
    assert reason in said
    assert "\n" not in said
    assert [entry[0] for entry in inbox.ledger] == ["good.npz"]
    (aside,) = inbox.aside.glob(f"*-{name}")
    assert aside.read_bytes() == content
    assert aside.with_name(f"{aside.name}.reason.txt").read_text() == said.removeprefix(f"{name}: ") + "\n"
    assert not list(inbox.folder.iterdir())


def test_what_may_not_be_read_is_set_aside(
    tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        if path.name == "secret.npz":
            raise PermissionError(13, "Permission denied", str(path))
        return reading(path)

    reading, inbox = Path.read_bytes, begun(tmp_path)
    put(inbox.folder, "secret.npz", megabatch(0, 5))
    put(inbox.folder, "good.npz", megabatch(0, 5))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    (said,) = take(inbox, clock)
    assert said.startswith("secret.npz: [Errno 13] Permission denied")
    assert [name for name, _ in inbox.ledger] == ["good.npz"]
    assert len(list(inbox.aside.glob("*secret.npz*"))) == 2


def test_all_that_is_set_aside_is_kept(tmp_path: Path, clock: Callable[[float], None]) -> None:
    inbox = begun(tmp_path)
    inbox.held_out = 0.9
    for content in (b"one", b"other", megabatch(0, 5)):
        put(inbox.folder, "same.npz", content)
        take(inbox, clock)
    assert len(list(inbox.aside.glob("*-same.npz"))) == 3
    assert not inbox.ledger
    assert any("validat" in reason.read_text() for reason in inbox.aside.glob("*.txt"))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "uint64"])
def test_targets_are_integers_of_any_kind(dtype: str) -> None:
    images = read_megabatch(npz(inputs=X, targets=Y.astype(dtype)), ".npz", DIGITS)
    assert torch.equal(images.labels, DIGITS.train.labels[:6])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_however_bytes_are_spoilt_the_file_is_read_or_refused(suffix: str) -> None:
    tensors = {"inputs": DIGITS.train.images[:20], "targets": DIGITS.train.labels[:20]}
    whole = megabatch(0, 20) if suffix == ".npz" else safetensors.torch.save(tensors)
    chance, refused = random.Random(0), 0
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            assert len(read_megabatch(bytes(content), suffix, DIGITS)) == 20
        except ValueError:
            refused += 1
    assert refused > 50


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def filled(tmp_path: Path, lengths: list[int]) -> Kept:
    """Megabatches of these sizes, taken; image k is full of k."""
    inbox = begun(tmp_path)
    kept, first = Kept(inbox), 0
    for number, length in enumerate(lengths):
        numbers = torch.arange(first, first + length, dtype=torch.uint8)
        images = Images(numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), numbers.long())
        tensors = {"inputs": images.images, "targets": images.labels}
        inbox.file(number).write_bytes(safetensors.torch.save(tensors))
        kept.add(length)
        first += length
    return kept


@examples
@given(lengths=sizes, data=st.data())
def test_images_are_found_by_their_number_of_arrival(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    kept = filled(tmp_path_factory.mktemp("kept"), lengths)
    ids = data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=20))
    images = kept.select(torch.tensor(ids))
    assert images.labels.tolist() == ids
    assert images.images[:, 0, 1, 1].tolist() == ids


@examples
@given(lengths=sizes, data=st.data())
def test_what_no_image_is_needed_of_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    kept = filled(tmp_path_factory.mktemp("kept"), lengths)
    before = data.draw(st.integers(0, len(lengths)))
    needed = data.draw(st.lists(st.integers(0, sum(lengths) - 1), max_size=5))
    if needed and data.draw(st.booleans()):
        kept.select(torch.tensor(needed))
    kept.forget_(torch.tensor(needed, dtype=torch.int64), before)
    number_of = [number for number, length in enumerate(lengths) for _ in range(length)]
    expected = {number for number in range(len(lengths)) if number >= before} | {number_of[k] for k in needed}
    assert {number for number in range(len(lengths)) if kept.inbox.file(number).exists()} == expected
    if needed:
        assert kept.select(torch.tensor(needed)).labels.tolist() == needed


FOLLOWED = {"megabatches": None, "horizon": 3}


def followed(tmp_path: Path, until: Until, anytime: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The directory of a follower that has ended."""
    run = stream(FOLLOWED | (anytime or {}), **{"steps": 2} | changes)
    home, said = tmp_path / "home", io.StringIO()
    follow(run, tmp_path / "in", home, Console(file=said), until=until, checkpoint_every=3600.0)
    with (home / "said.txt").open("a") as file:
        file.write(said.getvalue())
    return home


@pytest.mark.parametrize("idle", [0.0, 0.3, 5.0])
def test_files_that_are_there_are_taken_before_it_is_idle(
    idle: float, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    for number in range(2):
        put(tmp_path / "in", f"{number}.npz", megabatch(100 * number, 100))
    home = followed(tmp_path, Until(idle=idle))
    records = json.loads((home / "stream.json").read_text())
    assert [record["examples"] for record in records] == [100, 100]
    assert (home / CURRENT).is_file()


@pytest.mark.parametrize(
    ("replay", "wait"),
    [("none", 1), ("none", 2), ("full", 1), ({"last": 1}, 1), ({"last": 1}, 2), ({"reservoir": 50}, 2)],
    ids=str,
)
def test_files_are_kept_as_long_as_a_replay_needs_them(
    replay: Any, wait: int, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    for number in range(4):
        put(tmp_path / "in", f"{number}.npz", megabatch(100 * number, 100))
    settings = {"replay": replay, "wait": wait}
    for until in (3, 4):  # by a new process each
        home = followed(tmp_path, Until(until), settings, steps=1, evaluations=1)
    left = sorted(int(path.stem) for path in (home / "taken").iterdir())
    at_least = {"none": [], "full": [0, 1, 2, 3]}.get(str(replay))
    assert left == at_least if at_least is not None else set(left) <= {0, 1, 2, 3}
    if replay == {"last": 1}:
        assert left == list(range(4 - wait, 4))
    trains = [
        record["trained"][0]["train"] for record in json.loads((home / "stream.json").read_text()) if record["trained"]
    ]
    assert len(trains) == 4 // wait


def test_what_a_killed_process_half_wrote_is_swept_away(tmp_path: Path, clock: Callable[[float], None]) -> None:
    put(tmp_path / "in", "0.npz", megabatch(0, 100))
    (tmp_path / "home" / "taken").mkdir(parents=True)
    (tmp_path / "home" / "taken" / "000000.safetensors.123-abc.partial").write_bytes(b"half")
    home = followed(tmp_path, Until(1))
    assert not list(home.rglob("*.partial"))


WITH_BATCH_NORM = """
from torch import nn

def normed(input_shape, classes):
    \"\"\"A network that no single image can train.\"\"\"
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
"""


def test_a_megabatch_that_nothing_can_be_trained_on_is_left_out(tmp_path: Path, clock: Callable[[float], None]) -> None:
    (tmp_path / "normed.py").write_text(WITH_BATCH_NORM)
    for number, size in enumerate((100, 2, 100)):
        put(tmp_path / "in", f"{number}.npz", megabatch(100 * number, size))
    for until in (2, 3):  # by a new process each
        plugin = {"model": "normed", "plugins": [str(tmp_path / "normed.py")]}
        home = followed(tmp_path, Until(until), {"replay": "none"}, **plugin)
    first, second, third = json.loads((home / "stream.json").read_text())
    assert second["trained"] == []
    assert second["errors"] == first["errors"]
    assert third["trained"][0]["train"] + third["trained"][0]["validation"] == 100
    (said,) = [line for line in (home / "said.txt").read_text().splitlines() if line.startswith("not trained on")]
    assert said.startswith("not trained on: 1.npz: Expected more than 1 value per channel when training")
    state, metadata = load_packed(home / CURRENT)
    assert metadata["megabatch"] == "3"
    kept = sum(int(state[name].count_nonzero()) for name in ("1.weight", "4.weight"))
    assert 1 - kept / (64 * 16 + 16 * 10) == pytest.approx(SPARSITY, abs=0.001)


def test_a_network_that_never_trains_is_never_published(tmp_path: Path, clock: Callable[[float], None]) -> None:
    put(tmp_path / "in", "0.npz", megabatch(0, 100))
    home = followed(tmp_path, Until(1), learning_rate=1e30, steps=10)
    assert not (home / CURRENT).exists()
    assert "not trained on: 0.npz: the loss became" in (home / "said.txt").read_text()


def test_what_cuts_a_data_set_is_refused_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"anytime.size, anytime.order cut a data set into megabatches"):
        followed(tmp_path, Until(1), {"size": 10, "order": "balanced"})


def test_following_needs_a_horizon_and_the_recipe_it_began_with(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with pytest.raises(RecipeError, match=r"anytime.horizon must say over how many megabatches sparsity grows"):
        followed(tmp_path / "other", Until(idle=0), {"horizon": None})
    followed(tmp_path, Until(idle=0))
    with pytest.raises(RecipeError, match=r"follows a stream by another recipe"):
        followed(tmp_path, Until(idle=0), seed=1)
