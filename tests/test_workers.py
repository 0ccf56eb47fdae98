"""Workers of a study: an error that ends one reaches the study, whatever it is made of."""

import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest

from prunus import workers
from prunus.workers import Hear, Job


class CannotLeaveError(Exception):
    """Holds what no process can send."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CannotArriveError(Exception):
    """Is sent, but not made again: its one argument is none of those that it was made from."""

    def __init__(self, place: str, value: int) -> None:
        super().__init__(f"{place} is {value}")


def fail(error: Exception) -> Exception:
    """What the study hears of a worker that meets ``error``."""

    def work(name: str, unit: None, hear: Hear) -> float:
        raise error

    job = Job("job", [("unit", None)], work, Path("tasks.journal"), {"unit": "what it is"})
    ours, theirs = Pipe(duplex=False)
    with pytest.raises(SystemExit):
        workers._work(job, 1, theirs)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        workers._listen(ours, {}, lambda news: pytest.fail("an error is no news"))
    return raised.value


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "end_with_parent", lambda: None)  # this process has none above it
    monkeypatch.chdir(tmp_path)


def test_an_error_ends_the_study_as_it_is() -> None:
    heard = fail(FileNotFoundError(2, "none", "there"))
    assert type(heard) is FileNotFoundError
    assert heard.filename == "there"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CannotLeaveError("the disk is full"), "CannotLeaveError: the disk is full"),
        (CannotArriveError("size", 3), "CannotArriveError: size is 3"),
    ],
)
def test_an_error_that_cannot_travel_is_told_by_its_name_and_text(error: Exception, text: str) -> None:
    heard = fail(error)
    assert type(heard) is RuntimeError
    assert str(heard) == text
