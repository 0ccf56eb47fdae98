"""Tasks shared by processes of which any may be killed, on a journal and on a PostgreSQL server."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import postgresql
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from prunus.studies import Tasks, tasks

COUNT = 6
SQUARES = {number: float(number**2) for number in range(COUNT)}

# opens the study when told to, and may kill itself on the way
OPENER = """
import os, signal, sys, time
from pathlib import Path
from prunus.studies import Tasks
storage, go, deadly = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
assert "torch" not in sys.modules
go.with_name(f"ready-{os.getpid()}").touch()
while not go.exists():
    time.sleep(0.001)
Tasks.open(storage, "squares", 6, labels=lambda number: {"even": 1} if number != deadly else os.kill(os.getpid(), 9))
"""

# writes what it does; the first attempt at task 2 never ends
WORKER = """
import os, sys, time
from pathlib import Path
from prunus.studies import Tasks
storage, log = sys.argv[1], Path(sys.argv[2])
def say(what, number):
    with log.open("a") as file:
        file.write(f"{what} {number} {os.getpid()}\\n")
def do(number):
    say("begins", number)
    if number == 2 and log.read_text().count("begins 2") == 1:
        time.sleep(60)
    time.sleep(0.05)
    say("ends", number)
    return number ** 2
Tasks.open(storage, "squares", 6, heartbeat=1).work(do)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: initdb is neither on the PATH nor in /usr/lib/postgresql")
    with postgresql.server(programs) as address:
        yield address


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for studies."""
    if request.param == "journal":
        return str(tmp_path / "study.journal")
    address = request.getfixturevalue("server")
    name = f"study_{time.monotonic_ns()}"
    engine = create_engine(address.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(address.format(name))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", code, *map(str, arguments)])


def lines(log: Path, what: str) -> list[tuple[int, int]]:
    """Number and process of each line of a worker's log that says ``what``."""
    found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(int(number), int(process)) for said, number, process in found if said == what]


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def states(opened: Tasks) -> dict[str, list[int]]:
    """The tasks of the trials in each state."""
    trials = opened.study.get_trials()
    return {
        state.name: numbers
        for state in TrialState
        if (numbers := [trial.params["task"] for trial in trials if trial.state == state])
    }


def interrupted(number: int) -> float:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_two_open_an_empty_storage_at_once(storage: str, tmp_path: Path) -> None:
    openers = [start(OPENER, storage, tmp_path / "go", -1) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    (tmp_path / "go").touch()
    assert [opener.wait(60) for opener in openers] == [0, 0]
    assert states(Tasks.open(storage, "squares", COUNT)) == {"WAITING": list(range(COUNT))}


def test_one_killed_while_it_adds_the_tasks(storage: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert start(OPENER, storage, tmp_path / "go", 4).wait(60) == -signal.SIGKILL
    assert states(Tasks.open(storage, "squares", COUNT)) == {"WAITING": list(range(COUNT))}


def test_the_task_of_a_killed_worker_is_run_again(storage: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(WORKER, storage, log) for _ in range(2)]
    wait_for(lambda: len(lines(log, "ends")) == COUNT - 1)
    (victim,) = [process for number, process in lines(log, "begins") if number == 2]
    if storage.startswith("postgresql"):
        time.sleep(3.5)  # longer than a silent worker is waited for
    assert len(lines(log, "begins")) == COUNT, "a task of a living worker was taken over"
    os.kill(victim, signal.SIGKILL)
    assert sorted(worker.wait(60) for worker in workers) == [-signal.SIGKILL, 0]
    assert Counter(number for number, _ in lines(log, "begins")) == Counter([*range(COUNT), 2])
    assert [process for number, process in lines(log, "ends") if number == 2] == [
        worker.pid for worker in workers if worker.pid != victim
    ]
    opened = Tasks.open(storage, "squares", COUNT)
    assert opened.values() == SQUARES
    assert states(opened) == {"COMPLETE": [0, 1, 3, 4, 5, 2], "FAIL": [2]}


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(storage: str) -> None:
    code = (
        "import sys, time; from prunus.studies import Tasks\n"
        "Tasks.open(sys.argv[1], 'many', 80, heartbeat=1).work(lambda number: time.sleep(0.02) or number)"
    )
    workers = [start(code, storage) for _ in range(3)]
    for kill in range(16):
        time.sleep(0.4 + 0.05 * (kill % 8))
        workers[kill % 3].kill()
        workers[kill % 3].wait()
        workers[kill % 3] = start(code, storage)
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    opened = Tasks.open(storage, "many", 80)
    assert opened.values() == {number: float(number) for number in range(80)}
    assert Counter(states(opened)["COMPLETE"]) == Counter(range(80))
    assert set(states(opened)) <= {"COMPLETE", "FAIL"}


def test_a_study_is_resumed_and_its_values_are_kept(storage: str) -> None:
    opened = Tasks.open(storage, "squares", COUNT)

    def interrupted_at_three(number: int) -> float:
        return interrupted(number) if number == 3 else number**2

    with pytest.raises(KeyboardInterrupt):
        opened.work(interrupted_at_three)
    assert (opened.values(), opened.left()) == ({0: 0, 1: 1, 2: 4}, 3)
    done: list[int] = []
    again = Tasks.open(storage, "squares", COUNT)
    again.work(lambda number: done.append(number) or number**2)
    assert done == [4, 5, 3]
    assert (again.values(), again.left()) == (SQUARES, 0)


@pytest.mark.parametrize("failure", [None, math.nan])
def test_a_task_that_fails_for_its_own_reason_is_not_run_again(storage: str, failure: float | None) -> None:
    opened = Tasks.open(storage, "squares", 2)
    opened.work(lambda number: failure if number else 7)
    Tasks.open(storage, "squares", 2).work(lambda number: pytest.fail("a task was run again"))
    assert opened.values() == {0: 7.0, 1: None}
    assert states(opened) == {"COMPLETE": [0], "PRUNED": [1]}


def test_what_is_lost_is_done_again_and_once_where_two_say_so(storage: str) -> None:
    opened, other = Tasks.open(storage, "squares", 3), Tasks.open(storage, "squares", 3)
    opened.work(lambda number: None if number == 2 else 7)
    second = threading.Thread(target=other.redo, args=(lambda number, value: number == 0,))

    def lost(number: int, value: float | None) -> bool:
        if number == 0:
            second.start()
            second.join(0.2)  # it must wait for the first
        return (number, value) == (0, 7.0)

    opened.redo(lost)
    second.join()
    assert (opened.left(), opened.values()) == (1, {1: 7.0, 2: None})
    assert states(opened) == {"COMPLETE": [0, 1], "PRUNED": [2], "WAITING": [0]}
    with pytest.raises(KeyboardInterrupt):
        opened.work(interrupted)
    assert other.left() == 1  # an attempt that failed does not bring the former back
    other.work(lambda number: 8)
    assert opened.values() == {0: 8.0, 1: 7.0, 2: None}
    assert states(opened) == {"COMPLETE": [0, 1, 0], "PRUNED": [2], "FAIL": [0]}


def test_a_worker_wrongly_taken_for_dead_leaves_the_value_to_the_other(storage: str) -> None:
    opened = Tasks.open(storage, "squares", 1)
    attempts = itertools.count()

    def suspended(number: int) -> float:
        attempt = next(attempts)
        if attempt == 0:
            opened.study.tell(0, state=TrialState.FAIL)
        return attempt

    opened.work(suspended)
    assert opened.values() == {0: 1.0}
    assert states(opened) == {"COMPLETE": [0], "FAIL": [0]}


def test_another_count_is_refused(storage: str) -> None:
    Tasks.open(storage, "squares", COUNT)
    with pytest.raises(ValueError, match=r"must have the 7 tasks asked for, .* it has 6; give the command"):
        Tasks.open(storage, "squares", 7)
    assert Tasks.open(storage, "cubes", 7).left() == 7


def test_optuna_reads_the_study(storage: str, capfd: pytest.CaptureFixture[str]) -> None:
    opened = Tasks.open(storage, "squares", 3, labels=lambda number: {"method": "gmp", "rate": 0.1 * number})
    opened.work(lambda number: -abs(number - 1))
    assert opened.study.best_params == {"task": 1}
    frame = opened.study.trials_dataframe()
    assert list(frame["user_attrs_rate"]) == [0.0, 0.1, 0.2]
    assert list(frame["user_attrs_method"]) == ["gmp"] * 3
    assert all(f":{os.getpid()}" in worker for worker in frame["user_attrs_worker"])
    least = Tasks.open(storage, "least", 2, direction="minimize")
    least.work(lambda number: number + 1)
    assert least.study.best_value == 1
    assert capfd.readouterr() == ("", "")


def test_optuna_keeps_its_voice(journal: Path) -> None:
    before = optuna.logging.get_verbosity()
    Tasks.open(journal, "squares", COUNT)
    assert optuna.logging.get_verbosity() == before


def test_a_line_cut_off_by_a_full_disk_is_dropped(journal: Path) -> None:
    Tasks.open(journal, "squares", COUNT)
    with journal.open("a") as file:
        file.write('{"op_code":4,"worker_')
    opened = Tasks.open(journal, "squares", COUNT)
    opened.work(lambda number: number**2)
    assert Tasks.open(journal, "squares", COUNT).values() == opened.values() == SQUARES


def test_a_journal_keeps_no_locks_of_finished_tasks(journal: Path) -> None:
    Tasks.open(journal, "squares", COUNT).work(lambda number: number)
    assert {path.name for path in journal.with_name("study.journal.locks").iterdir()} == {"append.lock", "claims.lock"}


def test_a_worker_looks_less_often_the_longer_others_work(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Tasks.open(journal, "squares", 1)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 6:
            opened.study.tell(0, 5.0)

    monkeypatch.setattr(tasks.time, "sleep", sleep)
    with opened.place.presence(opened.study.trials[0]._trial_id):
        opened.study.ask()
        Tasks.open(journal, "squares", 1).work(lambda number: pytest.fail("two ran one task"))
    assert waits == [0.5, 1, 2, 4, 4, 4]


def test_what_another_program_claims_is_left_to_it(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, other = Tasks.open(journal, "squares", 1), Tasks.open(journal, "squares", 1)

    @contextmanager
    def presence(trial_id: int) -> Iterator[None]:
        other.study.ask()
        yield

    monkeypatch.setattr(opened.place, "presence", presence)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: other.study.tell(0, 5.0))
    opened.work(lambda number: pytest.fail("two ran one task"))
    assert opened.values() == {0: 5.0}


@pytest.mark.slow
def test_a_heartbeat_survives_a_server_that_restarts(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Tasks.open(server.format("postgres"), "beating", 1, heartbeat=1)
    beat = opened.place.storage.record_heartbeat
    beats: list[int] = []

    def record(trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) == 2:
            raise optuna.exceptions.StorageInternalError
        beat(trial_id)

    monkeypatch.setattr(opened.place.storage, "record_heartbeat", record)
    opened.work(lambda number: time.sleep(2.5))
    assert len(beats) == 3


@pytest.mark.parametrize("address", ["sqlite:///study.db", "mysql+pymysql://host/studies"])
def test_other_databases_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"journal file or a postgresql\+psycopg:// address, got "):
        Tasks.open(address, "squares", COUNT)


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"//ada:\*\*\*@/none\?.* does not: .*; start it") as raised:
        Tasks.open(f"postgresql+psycopg://ada:secret@/none?host={tmp_path}", "squares", COUNT)
    assert "secret" not in str(raised.value)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"needs pg8000; pip install 'prunus\[postgres\]'"):
        Tasks.open("postgresql+pg8000://ada@host/studies", "squares", COUNT)
