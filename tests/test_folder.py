"""Images in files: found, read, cropped, streamed, trained on; and each bad folder's line."""

import io
import math
import multiprocessing
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_resume import kill, same, silent, small
from tiny import prunus, tiny, written

from prunus.check import describe
from prunus.data import Data, DataError, FileEvaluation, Files, FileStream, Order, evaluation_batches, load, split
from prunus.data import folder as folder_module
from prunus.data.file_stream import readers_here
from prunus.data.pictures import CHANCES, centre_crop, crop_box, crop_chances, read, resized_crop
from prunus.prepare import prepare
from prunus.randomness import seeded
from prunus.recipes import read as read_recipe
from prunus.runs import train
from prunus.tables import Builder, RecipeError

RECIPES = Path(__file__).parents[1] / "recipes" / "retraining"
SIZE = 14  # whose images are scaled to 16 on their short side
WHOLE = (0.99999, 0.5) * 10 + (0.0, 0.0)  # the chances of a box that is all of a square image; the flip comes after

properties = settings(deadline=None, max_examples=100)  # a busy machine is no failure


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)
    return Image.fromarray(values if channels > 1 else values[:, :, 0])


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def make(folder: Path, train: int = 5, test: int = 2, held_out: str = "val") -> Path:
    """Three classes of small images of different sizes, kinds and depths."""
    for part, count in (("train", train), (held_out, test)):
        for place, name in enumerate(("cat", "ant", "Bee")):
            for number in range(count):
                suffix = ("png", "JPG", "webp", "bmp", "jpeg")[number % 5]
                path = folder / part / name / ("deep" if number % 3 == 0 else "") / f"{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                channels = {0: 4, 3: 1}.get(number % 5, 3)
                picture(16 + number, 20 + place, channels, seed=10 * place + number).save(path)
    return folder


@pytest.fixture(autouse=True)
def _read_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_READERS", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(f"{make(tmp_path_factory.mktemp('images'))}@{SIZE}")


def take(stream: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = zip(*islice(stream, count), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def equal(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def test_classes_are_folders_in_order_and_images_lie_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, train=2)
    (tmp_path / "train" / ".hidden").mkdir()
    for other in ("notes.txt", ".hidden.png"):
        (tmp_path / "train" / "ant" / other).touch()
    data = load(str(tmp_path))
    assert isinstance(data.train, Files)
    assert (data.name, data.classes, data.input_shape) == (tmp_path.name, 3, (3, 224, 224))
    names = [name.decode() for name in data.train.names]
    assert names == [f"train/{of}/{path}" for of in ("Bee", "ant", "cat") for path in ("1.JPG", "deep/0.png")]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(data.test) == 6


def test_a_folder_is_found_by_path_or_below_the_root_and_val_goes_before_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "root" / "mine", held_out="test")
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path / "root"))
    for name in ("mine", "mine/", str(tmp_path / "root" / "mine")):
        assert len(load(name).test) == 6
    assert load("mine@64").input_shape == load("mine/@64").input_shape == (3, 64, 64)
    make(tmp_path / "here", held_out="test")
    make(tmp_path / "here", test=1)
    monkeypatch.chdir(tmp_path)
    assert len(load("here").test) == 3


def test_a_folder_is_listed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    before = load(str(tmp_path))
    monkeypatch.setattr(folder_module, "_images", None)
    after = load(f"{tmp_path}@32")
    assert len(before.train) == len(after.train) == 15
    assert (before.train.shape, after.train.shape) == ((3, 224, 224), (3, 32, 32))


def test_splitting_selects_files_as_it_selects_images(data: Data) -> None:
    train, validation = split(data.train, 0.2, seed=1)
    assert (len(train), len(validation)) == (12, 3)
    order = np.random.RandomState(1).permutation(15)
    assert isinstance(train, Files)
    assert train.names.tolist() == data.train.names[order[3:]].tolist()
    assert torch.equal(validation.labels, data.train.labels[order[:3]])
    mask = data.train.labels == 1
    assert len(data.train.select(mask)) == 5


def test_the_centre_of_an_image_that_needs_no_scaling(tmp_path: Path) -> None:
    image = picture(16, 23)
    image.save(tmp_path / "x.png")
    assert torch.equal(read(tmp_path / "x.png", 14), pixels(image)[:, 1:15, 4:18])  # torchvision rounds 4.5 to 4


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (40, 90)])
def test_the_centre_is_the_short_side_scaled_and_the_middle_of_it(width: int, height: int) -> None:
    image = picture(height, width)
    long = int(64 * max(width, height) / min(width, height))
    scaled = image.resize((64, long) if height > width else (long, 64), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 56) / 2), round((scaled.height - 56) / 2)
    expected = pixels(scaled)[:, top : top + 56, left : left + 56]
    assert torch.equal(pixels(centre_crop(image, 56)), expected)


def test_gray_becomes_three_channels_and_transparency_is_dropped(tmp_path: Path) -> None:
    gray, clear = picture(16, 16, 1), picture(16, 16, 4)
    gray.save(tmp_path / "gray.png")
    clear.save(tmp_path / "clear.png")
    palette = picture(16, 16).quantize(8)
    palette.info["transparency"] = bytes(range(8))
    palette.save(tmp_path / "palette.png")
    expected = torch.from_numpy(np.array(gray))[1:15, 1:15].expand(3, 14, 14)
    assert torch.equal(read(tmp_path / "gray.png", 14), expected)
    assert torch.equal(read(tmp_path / "clear.png", 14), pixels(clear)[:3, 1:15, 1:15])
    assert torch.equal(
        read(tmp_path / "palette.png", 14), pixels(palette.convert("RGBA").convert("RGB"))[:, 1:15, 1:15]
    )


def test_a_box_of_the_whole_image_is_the_image_or_its_mirror() -> None:
    image = picture(12, 12)
    assert torch.equal(pixels(resized_crop(image, 12, (*WHOLE, 0.5))), pixels(image))
    assert torch.equal(pixels(resized_crop(image, 12, (*WHOLE, 0.49))), pixels(image).flip(-1))


@properties
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=CHANCES, max_size=CHANCES),
)
def test_a_box_lies_in_the_image_and_has_a_share_and_a_ratio_in_bounds(
    width: int, height: int, chances: list[float]
) -> None:
    left, top, wide, high = crop_box(width, height, chances)
    assert 0 <= left <= left + wide <= width
    assert 0 <= top <= top + high <= height
    assert min(wide, high) >= 1
    assert (wide - 0.5) / (high + 0.5) <= 4 / 3  # sides are rounded
    assert (wide + 0.5) / (high - 0.5) >= 3 / 4
    if 3 / 4 <= width / height <= 4 / 3:  # else none may have fitted
        assert (wide + 0.5) * (high + 0.5) >= 0.08 * width * height


def test_boxes_are_spread_as_their_formula_says() -> None:
    boxes = [crop_box(1000, 1000, row) for row in crop_chances(2000, seeded(0, "boxes")).tolist()]
    fitting = [box for box in boxes if box.width * box.height < 0.75e6]  # of a square, all of these fit
    shares = torch.tensor([box.width * box.height / 1e6 for box in fitting]).sort().values
    uniform = torch.linspace(0.08, 0.75, len(shares))
    assert (shares - uniform).abs().max() < 0.04
    logs = torch.tensor([math.log(box.width / box.height) for box in fitting])
    assert (logs.sort().values - torch.linspace(-1, 1, len(logs)) * math.log(4 / 3)).abs().max() < 0.04
    assert 0.4 < np.mean([box.left / (1000 - box.width) for box in fitting if box.width < 1000]) < 0.6


def test_a_box_is_placed_anywhere_and_where_none_fits_it_is_the_middle() -> None:
    quarter = ((0.25 - 0.08) / 0.92, 0.5) * 10  # 50 x 50 of 100 x 100
    assert crop_box(100, 100, (*quarter, 0.0, 0.999, 0.5)) == (50, 0, 50, 50)
    assert crop_box(100, 100, (*quarter, 0.999, 0.0, 0.5)) == (0, 50, 50, 50)
    assert crop_box(100, 10, (*WHOLE, 0.5)) == (43, 0, 13, 10)
    assert crop_box(10, 100, (*WHOLE, 0.5)) == (0, 43, 10, 13)
    second = (0.99, 0.99, *quarter[2:], 0.0, 0.0, 0.5)  # the first does not fit
    assert crop_box(100, 100, second) == (0, 0, 50, 50)


@pytest.mark.parametrize("cut", [lambda image: centre_crop(image, 60), lambda image: resized_crop(image, 60, BOX)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(cut: Any) -> None:
    down, across = np.mgrid[:768, :1024]
    image = Image.fromarray(np.stack([across / 4, down / 3, (across + down) / 7], 2).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=95)
    decoded = Image.open(file)
    difference = pixels(cut(decoded)).int() - pixels(cut(image)).int()
    assert difference.abs().max() <= 3
    assert decoded.size == (128, 96)


BOX = ((0.5 - 0.08) / 0.92, 0.5) * 10 + (0.3, 0.7, 0.5)  # 627 x 627 of 1024 x 768


def test_a_stream_is_the_order_cropped_by_named_draws_and_normalised(data: Data) -> None:
    stream, order = FileStream(data.train, 4, data=data, seed=3), Order(15, 4, seed=3)
    mean, std = data.pixel_statistics()
    for step in range(5):
        inputs, labels = next(stream)
        chances = crop_chances(4, seeded(3, "augment", step)).tolist()
        names = data.train.names[order(step).numpy()]  # type: ignore[union-attr]
        raw = [read(data.train.folder / name.decode(), SIZE, row) for name, row in zip(names, chances, strict=True)]  # type: ignore[union-attr]
        assert torch.equal(inputs, (torch.stack(raw).float() - mean) / std)
        assert torch.equal(labels, data.train.labels[order(step)])


def test_a_stream_without_augmentation_sees_what_evaluation_sees(data: Data) -> None:
    plain = replace(data, augmentation="none")
    seen, labels = take(FileStream(data.train, 5, data=plain), 3)
    order = torch.cat([Order(15, 5)(step) for step in range(3)])
    inputs, expected = take(evaluation_batches(data.train, 4, data), 4)
    assert equal((seen, labels), (inputs[order], expected[order]))


def test_evaluation_is_one_pass_in_order_and_repeats(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = evaluation_batches(data.train, 6, data)
    assert [len(labels) for _, labels in batches] == [6, 6, 3]
    assert len(batches) == 3
    assert equal(take(batches, 3), take(batches, 3))
    monkeypatch.setattr("prunus.data.file_stream.MOST_AT_ONCE", 4)
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 3]
    assert len(batches) == 4


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_bit_for_bit_what_one_process_does(world_size: int, data: Data) -> None:
    single = FileStream(data.train, 6, data=data, seed=1)
    ranks = [FileStream(data.train, 6, data=data, seed=1, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(4):
        inputs, labels = zip(*map(next, ranks), strict=True)
        assert equal((torch.cat(inputs), torch.cat(labels)), next(single))


@pytest.mark.parametrize("readers", [0, 1])
def test_resume_equals_uninterrupted(readers: int, data: Data) -> None:
    uninterrupted = FileStream(data.train, 4, data=data)
    list(islice(uninterrupted, 3))
    state = uninterrupted.state_dict()
    assert state == {"batches": 3}
    resumed = FileStream(data.train, 4, data=data, readers=readers)
    next(resumed)
    resumed.load_state_dict(state)
    assert equal(take(resumed, 4), take(uninterrupted, 4))


def test_readers_see_the_same_and_end_with_their_stream(data: Data) -> None:
    before = torch.get_rng_state()
    stream = FileStream(data.train, 4, data=data, readers=2)
    assert equal(take(stream, 5), take(FileStream(data.train, 4, data=data), 5))
    assert len(multiprocessing.active_children()) == 2
    del stream
    assert not multiprocessing.active_children()
    evaluated = take(FileEvaluation(data.test, 4, data, readers=1), 2)
    assert equal(evaluated, take(evaluation_batches(data.test, 4, data), 2))
    assert not multiprocessing.active_children()
    assert torch.equal(torch.get_rng_state(), before)


def test_readers_are_as_many_as_the_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert readers_here() == 0
    monkeypatch.setenv("PRUNUS_READERS", "many")
    with pytest.raises(ValueError, match=r"PRUNUS_READERS must be a number of processes, got 'many'"):
        readers_here()
    monkeypatch.delenv("PRUNUS_READERS")
    monkeypatch.setattr(os, "cpu_count", lambda: 48)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert readers_here() == 3
    for processes, readers in ((8, 6), (1, 16), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
        assert readers_here() == readers


@pytest.mark.parametrize("readers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(readers: int, tmp_path: Path) -> None:
    make(tmp_path, train=1)
    whole = tmp_path / "train" / "cat" / "deep" / "0.png"
    for content in (whole.read_bytes()[:200], b"no image", b""):
        whole.write_bytes(content)
        data = load(f"{tmp_path}@8")
        with pytest.raises(DataError, match=r"train/cat/deep/0\.png: expected a whole image .* replace") as caught:
            next(FileStream(data.train, 3, data=data, readers=readers))
        assert "\n" not in str(caught.value)
    Image.fromarray(np.full((9, 9), 1000, dtype=np.uint16)).save(whole)
    with pytest.raises(DataError, match="more than 8 bits a channel, mode I;16"):
        next(FileStream(data.train, 3, data=data, readers=readers))


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"data": f"{folder}@8", "steps": 8, "batch_size": 4, "validation": 0.2, "method": "gmp"} | changes


def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_READERS", "1")
    run = small(**values(make(tmp_path / "images"), model="conv-net", evaluations=4))
    kill(run, tmp_path / "killed", 6)
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")
    assert not multiprocessing.active_children()


def test_augmentation_of_a_recipe_reaches_the_stream(tmp_path: Path) -> None:
    make(tmp_path)
    streams = [prepare(tiny(**values(tmp_path, augmentation=name))).stream for name in (None, "resized-crop", "none")]
    first, same_one, plain = (next(stream)[0] for stream in streams)
    assert torch.equal(first, same_one)
    assert not torch.equal(first, plain)
    assert streams[2].data.augmentation == "none"


def test_the_name_of_a_run_is_of_the_path_and_the_size_alone(tmp_path: Path) -> None:
    names = {tiny(data=data).name() for data in ("there/", "there/@64", "imagenet", "imagenet@160")}
    assert len(names) == 4
    before = tiny(**values(tmp_path)).name()
    make(tmp_path)
    assert tiny(**values(tmp_path)).name() == before


def test_check_and_data_check_say_what_a_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "images")
    assert prunus("data", "check", f"{tmp_path / 'images'}@8") == 0
    assert capsys.readouterr().out == "images@8: 15 + 6 images, 3 x 8 x 8, 3 classes\n"
    assert prunus("check", written(tmp_path, **values(tmp_path / "images"))) == 0
    assert "1 runs of 8 steps on images@8: " in capsys.readouterr().out


def test_a_start_at_another_size_may_not_have_seen_what_is_validated(tmp_path: Path) -> None:
    make(tmp_path)
    before = tiny(**values(tmp_path, method="dense", split_seed=1, steps=1))
    train(next(before.runs()), tmp_path / "runs", silent)
    start = str(tmp_path / "runs" / next(before.runs()).name())
    with pytest.raises(RecipeError, match="it was trained on images that this run would validate on"):
        prepare(tiny(**values(tmp_path, data=f"{tmp_path}@9", start=start)))


def bare(folder: Path) -> None:
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()


def without(part: str) -> Any:
    def build(folder: Path) -> None:
        make(folder)
        (folder / part).rename(folder / "elsewhere")

    return build


def emptied(folder: Path) -> None:
    make(folder)
    for name in ("deep/0.png", "1.JPG"):
        (folder / "val" / "ant" / name).unlink()


def broken(folder: Path) -> None:
    make(folder)
    for path in (folder / "train").rglob("*.*"):
        path.write_bytes(b"no image")


def nothing(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("name", "build", "override", "message"),
    [
        (
            "images",
            nothing,
            "data=images/",
            r"images: expected train/CLASS/ and val/CLASS/ \(or test/CLASS/\).* no such",
        ),
        ("images", nothing, "data=images", r"no data set is called 'images'"),
        ("images", nothing, "data=imagenet", r"imagenet: expected train/CLASS/ .* no such folder; place them there"),
        (
            "imagenet",
            make,
            "data=imagenet@8",
            r"imagenet: expected ImageNet's 1000 classes, found 3; complete them, or",
        ),
        (
            "images",
            bare,
            "data=images",
            r"images: expected train/CLASS/ .*, found no folder in train/; give each class",
        ),
        ("images", without("val"), "data=images", r"images: expected .*, found elsewhere, train; place them there"),
        ("images", without("train"), "data=images", r"images: expected .*, found elsewhere, val; place them there or"),
        (
            "images",
            without("val/ant"),
            "data=images",
            r"expected the classes of train/ in val/, found 3 and 2, missing ant, too many none; give both the same",
        ),
        (
            "images",
            emptied,
            "data=images",
            r"val/ant: expected .*, found none of \.jpg, \.jpeg, .*; add some or remove",
        ),
        (
            "images",
            broken,
            "data=images@8",
            r"train/.*: expected a whole image .* UnidentifiedImageError .* replace the",
        ),
        (
            "images",
            make,
            "augmentation=crop-flip",
            r"of images@8 must be 'none' or 'resized-crop', got 'crop-flip': ",
        ),
        ("images", make, "data=images@0", r"size of images must be at least 1, got 0 in 'images@0'; 224 is usual"),
        ("images", make, "data=digits@3", "images of 8 x 8 can be pooled to a side that divides both, got digits@3"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    name: str,
    build: Any,
    override: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path / "root"))
    build(tmp_path / "root" / name)
    path = written(tmp_path, **values(Path("images")))
    assert prunus("check", path, override) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line), line


def test_resized_crops_are_for_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus("check", written(tmp_path), "augmentation=resized-crop") == 2
    assert "of digits must be 'none' or 'crop-flip', got 'resized-crop'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "weights", "classes", "width", "epochs"),
    [("cifar100", 36_518_832, 100, 640, 200), ("imagenet", 25_502_912, 1000, 2048, 90)],
)
def test_recipes_of_the_paper_build_but_for_their_data(
    data: str, weights: int, classes: int, width: int, epochs: int, tmp_path: Path
) -> None:
    make(tmp_path)
    schedules, methods = (
        read_recipe(RECIPES / f"{table}-paper-{data}.yaml", [f"data={tmp_path}@32"])
        for table in ("schedules", "methods")
    )
    for recipe in (schedules, methods.model_copy(update={"search": None})):
        assert f"{weights - (classes - 3) * width} prunable weights" in describe(recipe)
    assert isinstance(schedules.start, dict)
    assert schedules.epochs
    shares = [length / schedules.start["epochs"] for length in schedules.epochs]
    assert shares == pytest.approx([0.0222, 0.0555, 0.1111], abs=1e-4)
    assert methods.epochs == (schedules.start["epochs"],) == (epochs,)
    rates = Builder().build("schedule", schedules.start["learning_rate"], "start.learning_rate")
    assert rates(1 - shares[-1]) == rates(1.0)  # the longest rewinding is no more than fine-tuning, as in the paper


@pytest.mark.slow
def test_a_folder_of_real_pictures_is_learned(tmp_path: Path) -> None:
    real = load("restricted-tiny-imagenet.npz")
    for part, images in (("train", real.train), ("val", real.test)):
        for number, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            path = tmp_path / "real" / part / f"{label:02}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=95)
    named = {"data": f"{tmp_path / 'real'}@32", "model": "resnet8", "method": "gmp", "steps": 300, "batch_size": 64}
    (run,) = tiny(**named, learning_rate=0.05, sparsity=0.8).runs()
    result = train(run, tmp_path, silent)
    assert (result["test"]["n"], result["realised_sparsity"]) == (2500, pytest.approx(0.8, abs=1e-3))
    assert result["test"]["accuracy"] > 3 / 14  # chance is a third of it
