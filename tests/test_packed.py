"""Gradients that travel packed, and weights that are spread over ranks: as in one process, through every trap."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import packed_ranks
import pytest
import torch
from cases import CASES, STEPS
from torch import nn

from prunus.distributed import pack_gradients_
from prunus.distributed.choice import ROUNDS, Choice
from prunus.methods import gmp
from prunus.sparsifier import sparsify

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "shard_equivalence.json").read_text())
WHOLE = {"snfs", "dpf", "dnw", "str", "str-decay", "dst", "cs", "gsm", "lc"}  # which need all gradients in every step
FEW = ("magnitude", "gmp", "gmp-recover", "rigl", "imp", "dpf", "str")
TRAPS = ("rebuilt", "channels last", "channels last in views", "views", "static graph", "no sync")
OTHER = ("batch norm", "unequal", "nothing dropped", "fp16", "bf16", "vector", "loaded", "measured", "differing")
SHARDS = ("thresholds", "rounds", "refused", "fully sharded")
LETTERS = 8  # bytes of a value in the cases
Found = dict[str, dict[str, Any]]


def on_ranks(size: int, *names: str, steps: int = STEPS) -> list[Found]:
    """What each rank found."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "STEPS": str(steps)}
    command = [sys.executable, packed_ranks.__file__, str(size), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    found: list[Found] = json.loads(done.stdout)
    assert len(found) == size
    return found


@cache
def found() -> list[Found]:
    """The findings of two ranks, from one start."""
    return on_ranks(2, *FEW, *TRAPS, *OTHER, *SHARDS)


def as_one_process(ranks: list[Found], name: str) -> None:
    """A case trained on shards with packed gradients is the case trained whole."""
    for one in ranks:
        assert one[name]["difference"] <= 1e-12
        assert one[name]["same_masks"]
    assert len({one[name]["hash"] for one in ranks}) == 1
    assert (ranks[0][name]["sent"] < ranks[0][name]["dense"]) is (name not in WHOLE)
    assert ranks[0][name]["sent"] <= ranks[0][name]["dense"]


@pytest.mark.parametrize("name", FEW)
def test_a_method_trains_as_in_one_process(name: str) -> None:
    as_one_process(found(), name)


def test_what_is_sent_can_be_counted_by_hand() -> None:
    biases, weights = 21, 164
    both = found()[0]
    kept = both["magnitude"]["kept"]
    assert both["magnitude"]["sent"] == STEPS * (kept + biases) * LETTERS
    updates = 3  # of 16 steps, whose gradients rigl reads
    whole = updates * (weights + biases) * LETTERS
    assert both["rigl"]["sent"] == (STEPS - updates) * (kept + biases) * LETTERS + whole


@pytest.mark.parametrize("name", [*TRAPS, "unequal", "nothing dropped"])
def test_gradients_arrive_whatever_ddp_does_with_its_buckets(name: str) -> None:
    for one in found():
        assert one[name]["worst"] <= 1e-6
    assert (found()[0][name]["sent"] < 0.25 * found()[0][name]["dense"]) is (name != "nothing dropped")


def test_ddp_has_made_other_buckets_meanwhile() -> None:
    assert found()[0]["rebuilt"]["buckets"] == 3  # one before, two from then on


@pytest.mark.parametrize(("name", "worst"), [("fp16", 1e-3), ("bf16", 8e-3)])
def test_sixteen_bits_a_value_halve_the_bytes(name: str, worst: float) -> None:
    both = found()[0]
    assert 0 < both[name]["worst"] <= worst
    assert 2 * both[name]["sent"] == both["channels last"]["sent"]


def test_shards_of_unequal_size_are_weighed() -> None:
    for one in found():
        for name, key in (("weighted", "grad_full_mean"), ("mean", "grad_mean_of_means_WRONG")):
            torch.testing.assert_close(torch.tensor(one["vector"][name]), torch.tensor(GOLDEN[key]), rtol=0, atol=3e-8)


def test_masks_of_a_loaded_state_are_noticed() -> None:
    assert [one["loaded"] for one in found()] == 2 * [{"before": 24, "after": 0}]


def test_ranks_whose_masks_differ_are_told_before_anything_is_packed() -> None:
    for one in found():
        assert one["differing"]["error"].startswith("the masks of rank 1 differ from those of rank 0; give every rank")


def test_all_ranks_choose_alike_and_train_alike() -> None:
    first, second = (one["measured"] for one in found())
    assert first == second
    (trial,) = first["trials"]
    assert trial["kept"] == pytest.approx(0.2, abs=0.01)
    assert len(set(first["masks"])) == 1
    assert first["sent"] < first["dense"]


def sharded_as_whole(ranks: list[Found], name: str, count: int) -> None:
    for one in ranks:
        assert len(one["thresholds"]) == 36
        assert all(one["thresholds"].values())
        assert len(one[name]) == count
        for method in one[name].values():
            assert method["same"]
            assert method["difference"] <= 1e-6
            assert method["off"] == 0 < method["kept"]


def test_rankings_and_methods_on_shards_are_those_of_the_whole() -> None:
    sharded_as_whole(found(), "fully sharded", 1)


def test_a_threshold_takes_a_round_a_bit() -> None:
    assert found()[0]["rounds"] == {"rounds": 32}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "scores of 'b' hold NaN, which has no rank"),
        ("few", "sparsity 0.99 keeps 1 weights for 6 layers; at least one each must stay"),
        ("rule", "a sharded method must prune by an elementwise criterion over the whole network"),
        ("whole", "0.weight must be spread over ranks by rows"),
    ],
)
def test_what_cannot_be_ranked_or_sharded_is_said_on_every_rank(name: str, message: str) -> None:
    for one in found():
        assert one["refused"][name].startswith(message)


def test_batch_norm_over_all_ranks_trains_as_in_one_process() -> None:
    assert all(one["batch norm"]["difference"] <= 1e-12 for one in found())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_every_method_on_shards_is_that_of_the_whole(size: int) -> None:
    name = "every method fully sharded"
    sharded_as_whole(on_ranks(size, "thresholds", name), name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_every_method_trains_as_in_one_process(size: int) -> None:
    names = [str(case) for case in CASES]
    ranks = on_ranks(size, *names, steps=50)
    for name in names:
        as_one_process(ranks, name)


def test_a_model_without_ddp_is_refused() -> None:
    model = nn.Linear(2, 2)
    sparsifier = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), gmp(0.5), steps=2)
    with pytest.raises(ValueError, match="DistributedDataParallel, found none; wrap the model first"):
        pack_gradients_(model, sparsifier)


def tried(choice: Choice, kept: float, dense: float, packed: float) -> list[bool]:
    """How the steps of a trial went, decided by these seconds."""
    ways = []
    while not (medians := choice.medians()):
        ways.append(choice.packs(kept))
        choice.add_(ways[-1], packed if ways[-1] else dense)
    choice.decide_(7, *medians)
    return ways


def test_what_is_faster_is_chosen_and_tried_again_when_masks_have_changed_much() -> None:
    choice = Choice()
    assert not choice.packs(1.0)
    assert not choice.packs(0.51)
    assert tried(choice, 0.5, dense=2.0, packed=3.0) == ROUNDS * [True, False]
    assert not choice.packs(0.26)
    assert tried(choice, 0.25, dense=2.0, packed=1.0) == ROUNDS * [True, False]
    assert choice.packs(0.13)
    copy = Choice()
    copy.load_state_dict(json.loads(json.dumps(choice.state_dict())))
    assert copy == choice
    assert copy.packs(0.49)
    assert tried(copy, 0.5, dense=1.0, packed=1.0) == ROUNDS * [True, False]
    assert not copy.packs(0.5)
    assert [trial.packed for trial in copy.trials] == [False, True, False]
