"""The data sets: reading, checking, fetching, splitting and transforming, on tiny files written here."""

import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.data import DATA, DataError, Images, check, crop_flip, crop_flip_draws, fetch, load, normalise, split
from prunus.data.cifar import read_binary, read_pickle
from prunus.data.files import Archive, File, Layout, Published, data_root
from prunus.data.idx import read_idx
from prunus.data.images import Data
from prunus.data.manifest import PUBLISHED
from prunus.data.npz import channel_statistics
from prunus.data.transforms import pad
from prunus.randomness import seeded

properties = settings(deadline=None, max_examples=50)  # a busy machine is no failure
IDX_NAMES = [file.name for file in PUBLISHED["mnist"].layouts[0].files]


def pixels(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeded(seed, "pixels"))


def idx(tensor):
    sizes = b"".join(size.to_bytes(4) for size in tensor.shape)
    return bytes([0, 0, 8, tensor.dim()]) + sizes + tensor.numpy().tobytes()


def records(images, *labels):
    columns = [label.to(torch.uint8)[:, None] for label in labels]
    return torch.cat((*columns, images.flatten(1)), 1).numpy().tobytes()


def pickled(images, labels, key=b"labels"):
    """A batch as CIFAR's authors wrote theirs, opcode by opcode: Python 2, protocol 2, numpy at its old address."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def integer(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    values = images.flatten(1)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + short(b"u1") + b"K\0K\1\x87R(K\3" + short(b"|") + b"NNN" + 2 * integer(-1) + b"K\0tb"
    shape = b"".join(map(integer, values.shape)) + b"\x86"
    data = b"T" + values.numel().to_bytes(4, "little") + values.numpy().tobytes()
    array = empty + b"(K\1" + shape + dtype + b"\x89" + data + b"tb"
    numbers = b"](" + b"".join(map(integer, labels.tolist())) + b"e"
    return b"\x80\2}(" + short(b"data") + array + short(key) + numbers + b"u."


def tiny(name, folder, contents, archives=()):
    files = tuple(File(file, len(content), hashlib.md5(content).hexdigest()) for file, content in contents.items())
    return Published(name, (Layout(folder, files),), tuple(archives))


@pytest.fixture
def mnist_files(monkeypatch):
    """Contents of a tiny MNIST, which takes the real one's place."""
    tensors = (pixels(7, 28, 28), torch.arange(7).byte(), pixels(3, 28, 28, seed=1), torch.arange(3).byte())
    contents = dict(zip(IDX_NAMES, map(idx, tensors), strict=True))
    layouts = [tiny("mnist", folder, contents).layouts[0] for folder in ("mnist", "MNIST/raw")]
    monkeypatch.setitem(PUBLISHED, "mnist", Published("mnist", tuple(layouts), ()))
    return contents


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)])
def test_idx_gives_back_what_was_written(shape):
    assert torch.equal(read_idx(idx(pixels(*shape))), pixels(*shape))


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_read_raw_or_gzipped_from_either_folder(tmp_path, mnist_files, folder, compressed):
    zipped = {f"{name}.gz": gzip.compress(content) for name, content in mnist_files.items()}
    write(tmp_path / folder, zipped if compressed else mnist_files)
    data = load("mnist", tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert torch.equal(data.train.images[:, 0], pixels(7, 28, 28))
    assert torch.equal(data.test.images[:, 0], pixels(3, 28, 28, seed=1))
    assert torch.equal(data.train.labels, torch.arange(7))
    assert torch.equal(data.test.labels, torch.arange(3))


def test_missing_files_are_named_with_folder_size_md5_and_command(tmp_path, mnist_files):
    absent = IDX_NAMES[2]
    write(tmp_path / "mnist", {name: content for name, content in mnist_files.items() if name != absent})
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    content = mnist_files[absent]
    for part in (
        "prunus data fetch mnist",
        f"{tmp_path / 'mnist' / absent}  {len(content):,} bytes  md5 {hashlib.md5(content).hexdigest()}",
    ):
        assert part in str(error.value)
    assert IDX_NAMES[0] not in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("", lambda content: content[:-1]),
        ("", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        (".gz", lambda content: gzip.compress(content)[:-20]),
        (".gz", lambda content: gzip.compress(content)[:10] + b"\xff" * 30),
        (".gz", lambda content: content),
    ],
    ids=["truncated", "altered", "gz truncated", "gz altered", "not gz"],
)
def test_broken_files_are_refused_by_name_with_a_remedy(tmp_path, mnist_files, suffix, damage):
    broken = IDX_NAMES[0]
    write(tmp_path / "mnist", mnist_files)
    (tmp_path / "mnist" / broken).unlink()
    (tmp_path / "mnist" / f"{broken}{suffix}").write_bytes(damage(mnist_files[broken]))
    with pytest.raises(DataError, match=f"{broken}{suffix} is not whole .*delete it and run `prunus data fetch mnist`"):
        load("mnist", tmp_path)


def test_a_wrong_file_is_told_by_expected_and_found(tmp_path, mnist_files):
    write(tmp_path / "mnist", mnist_files | {IDX_NAMES[1]: b"other"})
    found = hashlib.md5(b"other").hexdigest()
    with pytest.raises(DataError, match=f"expected 15 bytes with md5 .*, found 5 bytes with md5 {found}"):
        load("mnist", tmp_path)


def test_cifar_records_hold_label_bytes_then_planes():
    images, fine, coarse = pixels(4, 3, 32, 32), torch.tensor([3, 0, 99, 7]), torch.tensor([1, 2, 3, 4])
    for found in (read_binary(records(images, fine), 1), read_binary(records(images, coarse, fine), 2)):
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, fine)


@pytest.mark.parametrize("version", ["bin", "python"])
@pytest.mark.parametrize(("name", "key"), [("cifar10", b"labels"), ("cifar100", b"fine_labels")])
def test_cifar_is_read_from_either_version(tmp_path, monkeypatch, name, key, version):
    parts = [Images(pixels(2, 3, 32, 32, seed=seed), torch.tensor([seed, 9 - seed])) for seed in range(3)]
    if version == "bin":
        extra = [torch.tensor([5, 6])] * (name == "cifar100")
        contents = {f"{i}.bin": records(part.images, *extra, part.labels) for i, part in enumerate(parts)}
    else:
        contents = {f"{i}": pickled(part.images, part.labels, key) for i, part in enumerate(parts)}
    monkeypatch.setitem(PUBLISHED, name, tiny(name, "folder", contents))
    write(tmp_path / "folder", contents)
    data = load(name, tmp_path)
    assert torch.equal(data.train.images, torch.cat([parts[0].images, parts[1].images]))
    assert data.train.labels.tolist() == [0, 9, 1, 8]
    assert torch.equal(data.test.images, parts[2].images)
    assert data.test.labels.tolist() == [2, 7]
    assert data.augmentation == "crop-flip"


class Evil:
    """Makes a folder when unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    witness = tmp_path / "executed"
    content = pickle.dumps({b"data": Evil(witness), b"labels": [0]}, protocol=2)
    with pytest.raises(DataError, match=r"found one that calls (posix|nt)\.mkdir; it was not executed"):
        read_pickle(content)
    assert not witness.exists()
    pickle.loads(content)
    assert witness.exists()  # it would have run


def test_an_npz_that_would_run_something_is_refused(tmp_path):
    evil = np.array([Evil(tmp_path / "executed")], dtype=object)
    np.savez(tmp_path / "evil.npz", train_images=evil, train_labels=evil)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        load("evil.npz", tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_cannot_choose_a_codec():
    class Chooses:
        def __reduce__(self):
            return __import__("_codecs").encode, ("labels", "rot13")

    batch = {b"data": pixels(1, 3, 32, 32).flatten(1).numpy(), Chooses(): [4]}
    assert read_pickle(pickle.dumps(batch, protocol=2)).labels.tolist() == [4]


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3)], ids=["grey", "colour"])
def test_npz_gives_back_what_was_written(tmp_path, shape):
    train, test = pixels(*shape).numpy(), pixels(2, *shape[1:], seed=1).numpy()
    path = tmp_path / "mine.npz"
    np.savez(
        path, train_images=train, train_labels=[0, 1, 2, 0, 1, 2], test_images=test, test_labels=[6, 1], names=["x"]
    )
    channels = 1 if len(shape) == 3 else 3
    for data in (load(str(path)), load("mine.npz", tmp_path)):
        assert (data.name, data.classes, data.input_shape) == ("mine", 7, (channels, 5, 4))
        assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy().reshape(shape), train)
        assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy().reshape(test.shape), test)
        assert (data.test.labels.tolist(), data.scale) == ([6, 1], 255.0)
        assert data.augmentation == "none"
        inputs = normalise(data.train.images, *data.pixel_statistics()).transpose(0, 1).flatten(1).double()
        assert torch.allclose(inputs.mean(1), torch.zeros(channels).double(), atol=1e-6)
        assert torch.allclose(inputs.std(1, correction=0), torch.ones(channels).double(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, r"found \['test_images', 'train_images', 'train_labels'\]; add \['test_labels'\]"),
        ({"train_images": np.zeros((2, 4, 4))}, r"train_images must be uint8 .* got float64 of \(2, 4, 4\)"),
        ({"train_images": np.zeros((2, 4), np.uint8)}, r"got uint8 of \(2, 4\)"),
        ({"train_labels": np.zeros(3)}, r"train_labels must be of shape \(2,\), one an image, got \(3,\)"),
    ],
)
def test_npz_of_another_kind_is_refused(tmp_path, change, message):
    arrays = {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros(2, int)}
    arrays |= {"test_images": np.zeros((2, 4, 4), np.uint8), "test_labels": np.zeros(2, int)} | change
    np.savez(tmp_path / "bad.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=message):
        load("bad.npz", tmp_path)


def test_npz_that_is_absent_or_cut_short_is_named(tmp_path):
    np.savez(tmp_path / "whole.npz", train_images=np.zeros(1000))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-30])
    (tmp_path / "text.npz").write_text("no archive at all")
    for name in ("absent.npz", "cut.npz", "text.npz"):
        with pytest.raises(DataError, match=f"{name}: expected an .npz file"):
            load(name, tmp_path)


def test_digits_are_embedded_whole_and_stratified():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (len(data.train), len(data.test), data.classes, data.input_shape) == (1437, 360, 10, (1, 8, 8))
    every = torch.cat((data.train.images, data.test.images)).flatten(1)
    source = torch.from_numpy(load_digits().data).byte()
    assert torch.equal(every.unique(dim=0), source.unique(dim=0))
    tests, trains = data.test.labels.bincount(), data.train.labels.bincount()
    assert (5 * tests - (tests + trains)).abs().max() < 5
    assert torch.equal(load("digits").test.images, data.test.images)


def test_digits_constants_are_those_of_the_training_images():
    data = load("digits")
    mean, std = channel_statistics(data.train.images, data.scale)
    assert (round(mean[0], 4), round(std[0], 4)) == (data.mean[0], data.std[0])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"data must be one of \['digits', .*got 'minst'"):
        load("minst")
    with pytest.raises(ValueError, match=r"data to fetch must be one of .*got 'digits'"):
        fetch("digits")
    images = Images(pixels(1, 1, 2, 2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"augmentation must be one of .*got 'flip'"):
        Data("x", images, images, 1, 255.0, (0.5,), (0.5,), augmentation="flip")


def test_every_set_is_described_in_a_line():
    assert set(DATA) == {"digits", *PUBLISHED, "imagenet"}
    for source in DATA.values():
        assert source.__doc__.splitlines()[0].rstrip()[-1] in ".)"


def test_images_move_and_select_together():
    images = Images(pixels(5, 1, 2, 2), torch.arange(5))
    some = images.select(torch.tensor([4, 0, 4]))
    assert torch.equal(some.images, images.images[[4, 0, 4]])
    assert some.labels.tolist() == [4, 0, 4]
    moved = images.to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")


def test_root_is_the_argument_then_the_environment_then_the_cache(monkeypatch):
    monkeypatch.setenv("PRUNUS_DATA", "there")
    assert data_root(Path("here")) == Path("here")
    assert data_root() == Path("there")
    monkeypatch.delenv("PRUNUS_DATA")
    assert data_root() == Path.home() / ".cache" / "prunus"


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'sklearn', 'pooch', 'requests', 'scipy', 'pandas'}"
    subprocess.run(
        [sys.executable, "-c", f"import sys, prunus.data; assert not {heavy} & set(sys.modules)"], check=True
    )


# Splitting


GOLDEN_SPLITS = {  # numpy's RandomState(0), Lee et al. 2020's code: the first tenth validates
    60000: (
        [3048, 19563, 58303, 8870],
        "7960991a84c8e5383ca49a1aa1dc99262cc0b0dfe8a98ef9ffa8432a0851f4b0",
        [50234, 22686],
    ),
    50000: (
        [11841, 19602, 45519, 25747],
        "6bc58f8926f80f0b7913320eede89a0b85492fbb91844e5f6fb3e84199ce1ca5",
        [19977, 31768],
    ),
}


@pytest.mark.parametrize("count", GOLDEN_SPLITS)
def test_split_is_that_of_the_published_code(count):
    first, digest, rest = GOLDEN_SPLITS[count]
    train, validation = split(Images(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count)))
    assert (len(train), len(validation)) == (count * 9 // 10, count // 10)
    assert validation.labels[:4].tolist() == first
    assert hashlib.sha256(validation.labels.numpy().tobytes()).hexdigest() == digest
    assert train.labels[:2].tolist() == rest


@properties
@given(count=st.integers(1, 50), fraction=st.floats(0, 1), seed=st.integers(0, 9))
def test_split_loses_and_repeats_nothing(count, fraction, seed):
    images = Images(torch.arange(count).byte().view(-1, 1, 1, 1), torch.arange(count))
    train, validation = split(images, fraction, seed)
    assert len(validation) == round(fraction * count)
    assert torch.cat((train.labels, validation.labels)).sort().values.tolist() == list(range(count))
    assert torch.equal(train.images.flatten(), train.labels.byte())


# Transforms


def naive_crop_flip(image, top, left, flip, padding):
    """One image at a time, as one would say it."""
    _, height, width = image.shape
    framed = pad(image.flip(-1) if flip else image, (padding,) * 4)
    return framed[:, top : top + height, left : left + width]


@properties
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    padding=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_crop_flip_is_its_naive_twin(shape, padding, seed):
    images = pixels(*shape, seed=seed)
    draws = crop_flip_draws(len(images), seeded(seed, "draws"), padding)
    expected = [naive_crop_flip(image, *draw, padding) for image, draw in zip(images, draws.T.tolist(), strict=True)]
    assert torch.equal(crop_flip(images, draws, padding), torch.stack(expected))


def test_crop_flip_draws_cover_their_ranges_evenly():
    draws = crop_flip_draws(90_000, seeded(0, "draws"))
    for row, values in zip(draws, (9, 9, 2), strict=True):
        share = row.bincount(minlength=values) / row.numel() * values
        assert len(share) == values
        assert (share - 1).abs().max() < 0.05


def test_normalise_is_scale_then_mean_then_std():
    images = Images(pixels(6, 3, 4, 4), torch.zeros(6))
    data = Data("x", images, images, 10, 255.0, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    expected = (images.images / 255 - mean) / std
    assert torch.allclose(normalise(images.images, *data.pixel_statistics()), expected, atol=1e-6)


# Fetching, from a server of one's own


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the address at which it is served."""
    monkeypatch.setenv("NO_PROXY", "*")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def archive(path, content, *files):
    path.write_bytes(content)
    return partial(Archive, md5=hashlib.md5(content).hexdigest(), files=files)


def tarred(folder, contents):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_fetch_brings_what_is_missing_or_broken_and_nothing_else(tmp_path, monkeypatch, mnist_files, served):
    folder, address = served
    archives = [
        archive(folder / f"{name}.gz", gzip.compress(content), name)((f"{address}/{name}.gz",))
        for name, content in mnist_files.items()
    ]
    monkeypatch.setitem(PUBLISHED, "mnist", tiny("mnist", "mnist", mnist_files, archives))
    write(tmp_path / "mnist", {IDX_NAMES[0]: mnist_files[IDX_NAMES[0]], IDX_NAMES[1]: b"broken"})
    (folder / f"{IDX_NAMES[0]}.gz").unlink()  # whole already: must not be asked for
    assert len(load("mnist", tmp_path, download=True).train) == 7
    assert {path.name: path.read_bytes() for path in (tmp_path / "mnist").iterdir()} == mnist_files


def test_fetch_unpacks_a_tar_from_the_second_address(tmp_path, monkeypatch, served):
    folder, address = served
    contents = {"train.bin": b"one", "test.bin": b"two"}
    source = archive(folder / "set.tar.gz", tarred("elsewhere", contents | {"notes": b"-"}), *contents)
    urls = (f"{address}/moved.tar.gz", f"{address}/set.tar.gz")
    monkeypatch.setitem(PUBLISHED, "cifar100", tiny("cifar100", "cifar", contents, [source(urls)]))
    assert fetch("cifar100", tmp_path) == tmp_path / "cifar"
    assert {path.name: path.read_bytes() for path in (tmp_path / "cifar").iterdir()} == contents


@pytest.mark.parametrize("fault", ["no network", "wrong checksum", "other content"])
def test_fetch_that_fails_leaves_nothing_and_says_what_to_place(tmp_path, monkeypatch, served, fault):
    folder, address = served
    source = archive(folder / "a.gz", gzip.compress(b"other" if fault == "other content" else b"right"), "a")
    if fault == "wrong checksum":
        (folder / "a.gz").write_bytes(gzip.compress(b"wrong"))
    url = "http://127.0.0.1:9/a.gz" if fault == "no network" else f"{address}/a.gz"
    monkeypatch.setitem(PUBLISHED, "mnist", tiny("mnist", "mnist", {"a": b"right"}, [source((url,))]))
    with pytest.raises(DataError) as error:
        fetch("mnist", tmp_path)
    assert "5 bytes" in str(error.value)
    assert hashlib.md5(b"right").hexdigest() in str(error.value)
    if fault != "other content":
        assert url in str(error.value)
        assert str(tmp_path / "mnist" / "a") in str(error.value)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_check_tells_whole_from_missing_and_broken(tmp_path, mnist_files):
    assert not any(status.whole for status in check(tmp_path))
    write(tmp_path / "MNIST" / "raw", mnist_files)
    (status,) = [status for status in check(tmp_path) if status.whole]
    assert (status.name, status.folder, status.remedy) == ("mnist", tmp_path / "MNIST" / "raw", "")
    write(tmp_path / "MNIST" / "raw", {IDX_NAMES[3]: b"broken"})
    (status,) = [status for status in check(tmp_path) if status.name == "mnist"]
    assert not status.whole
    assert f"{IDX_NAMES[3]} is not whole" in status.remedy


# The real files


REAL = {
    "mnist": (60_000, 10_000, (1, 28, 28), 10),
    "fashion-mnist": (60_000, 10_000, (1, 28, 28), 10),
    "cifar10": (50_000, 10_000, (3, 32, 32), 10),
    "cifar100": (50_000, 10_000, (3, 32, 32), 100),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_as_published(name):
    if "PRUNUS_DATA" not in os.environ:
        pytest.skip("PRUNUS_DATA is not set: it is the folder with the real files")
    if all(layout.missing(data_root()) for layout in PUBLISHED[name].layouts):
        pytest.skip(f"{name} is not in $PRUNUS_DATA")
    data = load(name)
    assert (len(data.train), len(data.test), data.input_shape, data.classes) == REAL[name]
    assert torch.equal(data.train.labels.unique(), torch.arange(data.classes))
    mean, std = channel_statistics(data.train.images, data.scale)
    assert mean == pytest.approx(data.mean, abs=1e-4)
    assert std == pytest.approx(data.std, abs=1e-4)
