"""Two processes under torchrun: their masks are the same after every step, by hash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch

from prunus.masks import Masks, masks_hash

ROOT = Path(__file__).parents[1]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def run(*arguments: str) -> str:
    """What Python prints, run with these arguments."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def launch(*names: str, by: tuple[str, ...] = ()) -> dict[str, str]:
    """The hash by method that both of two ranks found; what the check says of masks that differ is checked here."""
    first, second = json.loads(run(*by, ranks.__file__, *names))
    assert first == second
    assert [*first] == [*names, "error"]
    assert first.pop("error").startswith("the masks of rank 1 differ from those of rank 0; give every rank the same")
    return dict(first)


@pytest.mark.slow  # tests/test_packed.py has ranks that agree every time
def test_ranks_agree() -> None:
    launch("rigl", "dpf")


@pytest.mark.slow
def test_ranks_agree_under_torchrun_for_every_kind_of_method() -> None:
    found = launch("snip", "snip-batches", "gmp", "rigl", "set", "dpf", "str", by=TORCHRUN)
    assert len(set(found.values())) == len(found) == 7, "seven methods, seven masks"


@pytest.mark.slow
def test_the_script_in_the_documentation_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "integrations" / "torchrun.md").read_text()
    (tmp_path / "train.py").write_text(page.split('```python title="train.py"\n')[1].split("```")[0])
    agreed = dict(line.split() for line in run(*TORCHRUN, str(tmp_path / "train.py")).splitlines())
    assert agreed["0"] == agreed["1"]


def test_hash_knows_masks_and_nothing_else() -> None:
    masks: Masks = {"a": torch.arange(24).view(2, 3, 2, 2) % 3 == 0, "b": torch.ones(3, dtype=torch.bool)}
    last = {
        name: mask.to(memory_format=torch.channels_last) if mask.dim() == 4 else mask for name, mask in masks.items()
    }
    assert masks_hash(dict(reversed(last.items()))) == masks_hash(masks)
    flipped = masks | {"b": torch.tensor([True, True, False])}
    reshaped = masks | {"a": masks["a"].view(3, 2, 2, 2)}
    renamed = {"a": masks["a"], "c": masks["b"]}
    assert len({masks_hash(other) for other in (masks, flipped, reshaped, renamed)}) == 4
