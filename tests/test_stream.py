"""Streams: endless, reshuffled, sharded without repeats, resumed exactly; evaluation in one plain pass."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from prunus.data import DatasetStream, Images, Order, Stream, crop_flip, evaluation_batches, normalise, split
from prunus.data.images import Data
from prunus.data.transforms import crop_flip_draws
from prunus.randomness import seeded

COUNT = 23
IMAGES = Images(
    torch.randint(1, 256, (COUNT, 3, 6, 5), dtype=torch.uint8, generator=seeded(0, "pixels")), torch.arange(COUNT)
)
DATA = Data("x", IMAGES, IMAGES, COUNT, 255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), augmentation="crop-flip")
PLAIN = replace(DATA, augmentation="none")

properties = settings(deadline=None, max_examples=30)  # a busy machine is no failure
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def take(stream, count):
    """The next ``count`` batches, joined."""
    inputs, labels = zip(*islice(stream, count), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def same(left, right):
    return all(torch.equal(*pair) for pair in zip(left, right, strict=True))


@properties
@given(length=sizes, batch_size=sizes, seed=seeds)
def test_every_epoch_is_a_permutation_and_no_batch_is_short(length, batch_size, seed):
    order = Order(length, batch_size, seed=seed)
    batches = [order(step) for step in range(3 * length)]
    assert {len(batch) for batch in batches} == {batch_size}
    epochs = torch.cat(batches).view(-1, length)
    assert torch.equal(epochs.sort(1).values, torch.arange(length).expand_as(epochs))


@properties
@given(length=sizes, share=st.integers(1, 6), world_size=st.integers(1, 5), step=st.integers(0, 50), seed=seeds)
def test_shards_joined_are_the_batch_of_one_process(length, share, world_size, step, seed):
    batch_size = share * world_size
    shards = [Order(length, batch_size, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([shard(step) for shard in shards]), Order(length, batch_size, seed=seed)(step))


def test_epochs_and_seeds_differ():
    orders = [Order(100, 100, seed=seed)(step).tolist() for seed in range(2) for step in range(2)]
    assert len(set(map(tuple, orders))) == 4


def test_impossible_shards_are_refused():
    with pytest.raises(ValueError, match=r"must be divisible .* got 10 for 4; the nearest below is 8"):
        Stream(IMAGES, 10, data=DATA, world_size=4)
    with pytest.raises(ValueError, match=r"rank must be in \[0, world_size\), got 2 of 2"):
        DatasetStream(TensorDataset(torch.zeros(4, 1)), 4, rank=2, world_size=2)


def test_a_plain_stream_is_the_order_normalised():
    stream, order = Stream(IMAGES, 7, data=PLAIN, seed=3), Order(COUNT, 7, seed=3)
    for step in range(8):
        inputs, labels = next(stream)
        assert torch.equal(labels, IMAGES.labels[order(step)])
        assert torch.equal(inputs, normalise(IMAGES.images[order(step)], *DATA.pixel_statistics()))


def test_an_augmented_stream_crops_and_flips_raw_pixels_by_named_draws():
    stream, order = Stream(IMAGES, 7, data=DATA, seed=3), Order(COUNT, 7, seed=3)
    for step in range(8):
        inputs, labels = next(stream)
        images = crop_flip(IMAGES.images[order(step)], crop_flip_draws(7, seeded(3, "augment", step)))
        assert torch.equal(labels, IMAGES.labels[order(step)])
        assert torch.equal(inputs, normalise(images, *DATA.pixel_statistics()))
        assert inputs.amin((0, 2, 3)) == pytest.approx([-2, -5 / 3, -6])  # the frame is black: zero, then normalised


@properties
@given(share=st.integers(1, 9), world_size=st.integers(1, 4), seed=seeds)
def test_ranks_together_see_bit_for_bit_what_one_process_does(share, world_size, seed):
    batch_size = share * world_size
    ranks = [
        Stream(IMAGES, batch_size, data=DATA, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    single = Stream(IMAGES, batch_size, data=DATA, seed=seed)
    for _ in range(4):
        inputs, labels = zip(*map(next, ranks), strict=True)
        assert same((torch.cat(inputs), torch.cat(labels)), next(single))


@properties
@given(batch_size=sizes, drawn=st.integers(0, 6), seed=seeds)
def test_resume_equals_uninterrupted(batch_size, drawn, seed):
    uninterrupted = Stream(IMAGES, batch_size, data=DATA, seed=seed)
    list(islice(uninterrupted, drawn))
    state = uninterrupted.state_dict()
    assert state == {"batches": drawn}
    resumed = Stream(IMAGES, batch_size, data=DATA, seed=seed)
    next(resumed)
    resumed.load_state_dict(state)
    assert same(take(resumed, 3), take(uninterrupted, 3))


def test_evaluation_is_one_pass_in_order_and_repeats():
    batches = evaluation_batches(IMAGES, 10, PLAIN)
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    assert len(batches) == 3
    assert same(take(batches, 3), (normalise(IMAGES.images, *DATA.pixel_statistics()), IMAGES.labels))
    assert same(take(batches, 3), take(batches, 3))


def test_validation_is_never_augmented_and_never_trained_on():
    train, validation = split(IMAGES, 0.3)
    assert DATA.augmentation == "crop-flip"
    inputs, _ = take(evaluation_batches(validation, 4, DATA), 2)
    assert torch.equal(inputs, normalise(validation.images, *DATA.pixel_statistics()))
    _, trained = take(Stream(train, 8, data=DATA), 10)
    assert not set(trained.tolist()) & set(validation.labels.tolist())


class Squares(Dataset):
    """Map-style, neither tensors in memory nor images."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return torch.tensor([float(index**2)]), index


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_streams_in_the_same_order_and_resumes(workers):
    stream = DatasetStream(Squares(), 8, seed=5, rank=1, world_size=2, workers=workers)
    order = Order(COUNT, 8, seed=5, rank=1, world_size=2)
    expected = torch.cat([order(step) for step in range(9)])
    inputs, labels = take(stream, 9)
    assert torch.equal(labels, expected)
    assert torch.equal(inputs[:, 0], expected.square().float())
    stream.load_state_dict({"batches": 2})
    assert torch.equal(take(stream, 3)[1], expected[8:20])
    assert stream.state_dict() == {"batches": 5}


def test_streams_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    take(Stream(IMAGES, 7, data=DATA), 2)
    take(DatasetStream(Squares(), 7), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_the_batches_of_the_cpu():
    there = take(Stream(IMAGES.to("cuda"), 7, data=DATA), 8)
    here = take(Stream(IMAGES, 7, data=DATA), 8)
    assert torch.equal(there[1].cpu(), here[1])
    assert torch.allclose(there[0].cpu(), here[0], atol=1e-6)
