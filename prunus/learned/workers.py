"""Environments at work, in this process or in one of their own: they begin episodes, take actions and reply."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import cloudpickle
import gymnasium
import numpy as np
from numpy.typing import NDArray

from prunus.processes import end_with_parent, portable

Vector = NDArray[np.float32]
Environment = gymnasium.Env[Vector, Vector]
MakeEnvironment = Callable[[], Environment]
Space = gymnasium.spaces.Box


class Task(NamedTuple):
    """Begin an episode on the network of a seed, or go on where it is None, and take actions one after the other."""

    network: int | None
    actions: tuple[Vector, ...] = ()


class Reply(NamedTuple):
    """What the last action came to, or the beginning where there was none; ``record`` once the episode has ended."""

    observation: Vector
    reward: float
    done: bool
    info: dict[str, Any]
    record: dict[str, Any] | None = None


def do(environment: Environment, task: Task) -> Reply:
    """Do the task."""
    reply = None
    if task.network is not None:
        observation, info = environment.reset(options={"network": task.network})
        reply = Reply(observation, 0.0, False, info)
    for action in task.actions:
        observation, reward, terminated, truncated, info = environment.step(action)
        reply = Reply(observation, float(reward), terminated or truncated, info)
    assert reply is not None, "a task begins an episode or takes an action"
    log = getattr(environment.unwrapped, "log", None)
    return reply._replace(record=log.record()) if reply.done and log is not None else reply


class DiedError(RuntimeError):
    """A worker is no more."""


class Host(Protocol):
    """Some environments, by their numbers."""

    @property
    def spaces(self) -> tuple[Space, Space]:
        """Of observations and of actions."""

    def ask(self, tasks: Mapping[int, Task]) -> None:
        """Have the tasks done."""

    def replies(self) -> dict[int, Reply]:
        """The replies to them. Raises DiedError where the host is no more."""

    def restart(self) -> None:
        """Begin anew after that; the episodes are lost."""

    def close(self) -> None:
        """End."""


class Here:
    """Environments in this process, which do their tasks when the replies are asked for."""

    def __init__(self, makes: Mapping[int, MakeEnvironment]) -> None:
        self._environments = {number: make() for number, make in makes.items()}
        self._tasks: Mapping[int, Task] = {}

    @property
    def spaces(self) -> tuple[Space, Space]:
        """Of observations and of actions."""
        return _spaces(self._environments)

    def ask(self, tasks: Mapping[int, Task]) -> None:
        """Have the tasks done."""
        self._tasks = tasks

    def replies(self) -> dict[int, Reply]:
        """The replies to them."""
        return {number: do(self._environments[number], task) for number, task in self._tasks.items()}

    def restart(self) -> None:
        """Not needed: it lives as long as whoever asks."""

    def close(self) -> None:
        """End the environments."""
        for environment in self._environments.values():
            environment.close()


@dataclass(frozen=True)
class _Failure:
    """The error that an environment met, which is none of the worker's life."""

    error: Exception


class Worker:
    """Environments in a process of their own, with one thread; it ends when this one does, however that happens."""

    def __init__(self, makes: Mapping[int, MakeEnvironment]) -> None:
        self._makes = cloudpickle.dumps(dict(makes))
        self._begin_()

    @property
    def pid(self) -> int | None:
        """The process."""
        return self._process.pid

    @property
    def spaces(self) -> tuple[Space, Space]:
        """Of observations and of actions."""
        return self._spaces

    def ask(self, tasks: Mapping[int, Task]) -> None:
        """Have the tasks done; for a worker that is no more, `replies` says so."""
        try:
            self._connection.send(dict(tasks))
        except OSError:
            self._connection.close()

    def replies(self) -> dict[int, Reply]:
        """The replies to them. Raises the error of an environment, and DiedError where the worker is no more."""
        replies: dict[int, Reply] = self._receive()
        return replies

    def restart(self) -> None:
        """Another process, without episodes."""
        self.close()
        self._begin_()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _begin_(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(self._makes, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._spaces: tuple[Space, Space] = self._receive()

    def _receive(self) -> Any:
        try:
            news = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DiedError("a worker was killed") from error
        if isinstance(news, _Failure):
            raise news.error
        return news


def _work(makes: bytes, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks hears it, and ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        environments: dict[int, Environment] = {number: make() for number, make in cloudpickle.loads(makes).items()}
        if "torch" in sys.modules:  # which an environment may do without
            sys.modules["torch"].set_num_threads(1)
        connection.send(_spaces(environments))
        while True:
            connection.send({number: do(environments[number], task) for number, task in connection.recv().items()})
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit()
    except Exception as error:
        connection.send(_Failure(portable(error)))


def _spaces(environments: Mapping[int, Environment]) -> tuple[Space, Space]:
    pairs = [(environment.observation_space, environment.action_space) for environment in environments.values()]
    observations, actions = pairs[0]
    assert isinstance(observations, Space)
    assert isinstance(actions, Space)
    if any(pair != pairs[0] for pair in pairs):
        raise ValueError(
            f"environments at work together must have the same spaces, got {pairs}; pad them with Layerwise"
        )
    return observations, actions
