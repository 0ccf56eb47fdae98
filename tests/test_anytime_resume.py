"""A run over a stream that is killed, at any moment, goes on bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from megabatches import masks_of, stream

from prunus import checkpoints
from prunus.anytime.course import STAGES, Course
from prunus.loop import Progress
from prunus.recipes import Recipe
from prunus.runs import train
from prunus.start import WEIGHTS

pytestmark = pytest.mark.usefixtures("unsynced")


class KilledError(BaseException):
    """Stands for SIGKILL."""


def silent(progress: Progress) -> None:
    """Nobody listens."""


def kill_after(news: int) -> Callable[[Progress], None]:
    """Dies at the evaluation that comes after so many others."""
    left = news

    def tell(progress: Progress) -> None:
        nonlocal left
        if not progress.note:
            left -= 1
        if left < 0:
            raise KilledError

    return tell


def without_seconds(value: Any) -> Any:
    """The same nest of values, without how long things took."""
    if isinstance(value, dict):
        return {key: without_seconds(one) for key, one in value.items() if not key.endswith("seconds")}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def same(run: Recipe, one: Path, other: Path) -> None:
    """Weights, masks, log and result are those of the other directory."""
    homes = [directory / run.name() for directory in (one, other)]
    assert len({(home / WEIGHTS).read_bytes() for home in homes}) == 1
    assert len({(home / "metrics.jsonl").read_bytes() for home in homes}) == 1
    masks, others = map(masks_of, homes)
    assert all((mask == others[name]).all() for name, mask in masks.items())
    first, second = (without_seconds(json.loads((home / "result.json").read_text())) for home in homes)
    assert first == second
    assert not any(left.exists() for home in homes for left in (home / STAGES, home / "checkpoints"))


def killed(run: Recipe, directory: Path, news: int, every: float = 0.0) -> Path:
    """A run that died after so many evaluations; its directory."""
    with pytest.raises(KilledError):
        train(run, directory, kill_after(news), checkpoint_every=every)
    return directory / run.name()


RARE = pytest.mark.slow
STREAMS = [
    pytest.param({"replay": {"reservoir": 150}}, {"method": {"rigl": {"update_every": 2}}}, id="reservoir"),
    pytest.param({"patience": 1.5}, {"learning_rate": 1e-12, "steps": 12, "evaluations": 6}, id="patience", marks=RARE),
    pytest.param({"learner": "ensemble", "members": 2, "wait": 2}, {}, id="ensemble"),
    pytest.param({"learner": "growing", "warm": False, "replay": "none"}, {}, id="growing", marks=RARE),
    pytest.param({"replay": {"fraction": 0.5}, "order": "by-class"}, {}, id="fraction", marks=RARE),
    pytest.param({"optimizer_state": "reset", "rates": "whole"}, {"optimizer": "adam"}, id="reset", marks=RARE),
    pytest.param({}, {"method": {"dpf": {"update_every": 2}}}, id="full", marks=RARE),
    pytest.param({"wait": 2}, {"method": "random"}, id="wait", marks=RARE),
    pytest.param({"weights": "last", "replay": {"last": 1}}, {"method": "magnitude"}, id="last", marks=RARE),
]


@pytest.mark.parametrize(("settings", "changes"), STREAMS)
def test_a_stream_killed_again_and_again_ends_the_same(settings: Any, changes: Any, tmp_path: Path) -> None:
    run = stream(settings, **{"images": 300, "evaluations": 3} | changes)
    for news in (1, 3):  # amid the first megabatch, and in a later one
        killed(run, tmp_path / "killed", news)
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("save", "moment"),
    [(0, "after"), (3, "before"), *(pytest.param(*one, marks=RARE) for one in ((0, "before"), (3, "after")))],
)
def test_killed_between_two_megabatches(
    save: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stream(images=300, steps=2, evaluations=1)
    saving, left = Course._save, save

    def dying(self: Course) -> None:
        nonlocal left
        left -= 1
        if moment == "after":
            saving(self)
        if left < 0:
            raise KilledError
        saving(self)

    monkeypatch.setattr(Course, "_save", dying)
    with pytest.raises(KilledError):
        train(run, tmp_path / "killed", silent)
    monkeypatch.undo()
    train(run, tmp_path / "killed", silent)
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    run = stream(images=300)
    home = killed(run, tmp_path, 5)  # the third megabatch's second evaluation
    assert [path.name for path in (home / "checkpoints").iterdir()] == ["0002-0"]
    notes: list[str] = []
    train(run, tmp_path, lambda progress: notes.append(progress.note))
    assert [note for note in notes if note] == ["megabatch 3: resumed after step 5"]
    assert len(notes) == 2  # only its last evaluation was left


@pytest.mark.slow
def test_a_megabatch_ends_at_the_same_step_however_often_it_is_saved(tmp_path: Path) -> None:
    changes = {"learning_rate": 1e-12, "steps": 20, "evaluations": 4, "images": 300}
    run = stream({"patience": 1.3}, **changes)
    for every in (0.0, 3600.0):
        train(run, tmp_path / str(every), silent, checkpoint_every=every)
    same(run, tmp_path / "0.0", tmp_path / "3600.0")


@pytest.mark.slow
def test_a_spoilt_record_of_megabatches_is_passed_over(tmp_path: Path) -> None:
    run = stream(images=300)
    home = killed(run, tmp_path / "killed", 5)
    newest = sorted((home / STAGES).iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    notes: list[str] = []
    train(run, tmp_path / "killed", lambda progress: notes.append(progress.note))
    assert notes[0].startswith(f"checkpoint {newest} is cut off or spoilt")
    train(run, tmp_path / "whole", silent)
    same(run, tmp_path / "killed", tmp_path / "whole")


def test_a_log_that_was_lost_is_not_filled_with_zeros(tmp_path: Path) -> None:
    run = stream(images=300)
    home = killed(run, tmp_path, 4)
    (home / "metrics.jsonl").unlink()
    train(run, tmp_path, silent)
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert {line["megabatch"] for line in lines} == {2}


def test_a_checkpoint_of_a_stream_holds_no_more_than_it_needs(tmp_path: Path) -> None:
    home = killed(stream(images=300), tmp_path, 5)
    state = checkpoints.load(home / STAGES, lambda text: None)
    assert state is not None
    assert state["number"] == 2
    assert sum(len(ids) for ids in state["memories"]["train"]) == 180
    assert all(ids.untyped_storage().nbytes() == ids.nbytes for ids in state["memories"]["train"])
