"""Several environments as one, for stable-baselines3; deaths of their processes and of ours lose no episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from prunus.learned.past import Past
from prunus.learned.workers import DiedError, Here, Host, MakeEnvironment, Reply, Task, Vector, Worker

PATIENCE = 3  # deaths of a worker in one decision


@dataclass
class Place:
    """The episode of one environment: the seed of its network and the actions so far, which all follows from."""

    network: int
    actions: list[Vector] = field(default_factory=list)
    replies: dict[int, Reply] = field(default_factory=dict)  # by how many actions came before
    live: bool = False  # whether its environment is there too, and not only what it once came to

    @property
    def latest(self) -> Reply:
        """What it has come to."""
        return self.replies[len(self.actions)]

    def came_to(self, reply: Reply) -> None:
        """Keep what the latest action came to, or the beginning where there was none."""
        self.replies[len(self.actions)] = reply

    def next(self) -> Task:
        """What brings its environment here: the latest action, or the whole episode so far."""
        return Task(None, (self.actions[-1],)) if self.live else self.replay()

    def replay(self) -> Task:
        """The whole episode so far."""
        return Task(self.network, tuple(self.actions))


class Episodes(VecEnv):
    """Environments in step, one for each of ``makes``, in as many ``workers``; 0 for all of them in this process.

    Episodes take the networks of seeds ``first``, ``first`` + 1, … in the order in which they begin: the first of each
    environment in the order of the environments, then, whenever some end at the same decision, again in their order.
    So what happens depends on the number of environments, never on that of workers.

    An environment must follow from the seed of its network and the actions alone, as `SparsityEnv` does. Then a worker
    that was killed is started again and replays its episodes, and so does `restore_` from `state`. With a ``past``,
    episodes are left there as they end, and those that did are not run again. The environments of different networks
    must have the same spaces.
    """

    past: Past | None = None

    def __init__(self, makes: Sequence[MakeEnvironment], *, workers: int = 0, first: int = 0) -> None:
        if not makes or not 0 <= workers <= len(makes):
            raise ValueError(
                f"workers share the {len(makes)} environments, of which there is one or more, got {workers}"
            )
        self._next, self._places = first, [Place(-1) for _ in makes]
        self._hosts: list[Host] = []
        shares = [dict(list(enumerate(makes))[number :: workers or 1]) for number in range(workers or 1)]
        self._home = {number: place for place, share in enumerate(shares) for number in share}
        try:
            for share in shares:
                self._hosts.append(Worker(share) if workers else Here(share))
            if any(host.spaces != self._hosts[0].spaces for host in self._hosts):
                raise ValueError("environments at work together must have the same spaces; pad them with Layerwise")
            super().__init__(len(makes), *self._hosts[0].spaces)
        except BaseException:
            self.close()
            raise

    @property
    def hosts(self) -> Sequence[Host]:
        """Where the environments are."""
        return self._hosts

    def reset(self) -> Vector:
        """Begin an episode in every environment."""
        return self._observations(self._begin_(list(range(self.num_envs))))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Have every environment take its action."""
        for place, action in zip(self._places, actions, strict=True):
            place.actions.append(np.array(action, np.float32))
        self._ask(list(range(self.num_envs)))

    def step_wait(self) -> tuple[Vector, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """What the actions came to. Environments whose episode has ended have begun the next."""
        replies = self._replies(list(range(self.num_envs)))
        ended = [number for number, reply in replies.items() if reply.done]
        self._leave([self._places[number] for number in ended])
        begun = self._begin_(ended)
        infos = [self._info(replies[number]) for number in range(self.num_envs)]
        rewards = np.array([replies[number].reward for number in range(self.num_envs)], np.float32)
        dones = np.array([replies[number].done for number in range(self.num_envs)])
        return self._observations(replies | begun), rewards, dones, infos

    def close(self) -> None:
        """End the environments and their workers."""
        for host in self._hosts:
            host.close()

    def state(self) -> dict[str, Any]:
        """The episodes under way, in plain numbers."""
        places = [
            {"network": place.network, "actions": [action.tolist() for action in place.actions]}
            for place in self._places
        ]
        return {"next": self._next, "places": places}

    def restore_(self, state: Mapping[str, Any]) -> Vector:
        """Bring episodes back to where they were by running them again; what was seen last."""
        if len(state["places"]) != self.num_envs:
            raise ValueError(f"the state is of {len(state['places'])} environments, here are {self.num_envs}")
        self._next = state["next"]
        self._places = [
            Place(place["network"], [np.array(action, np.float32) for action in place["actions"]])
            for place in state["places"]
        ]
        self._ask(list(range(self.num_envs)))
        return self._observations(self._replies(list(range(self.num_envs))))

    def _leave(self, ended: Sequence[Place]) -> None:
        for place in ended:
            if self.past is not None and place.live:
                self.past.leave(place.network, place.actions, place.replies)

    def _begin_(self, numbers: Sequence[int]) -> dict[int, Reply]:
        for number in numbers:
            self._places[number] = Place(self._next)
            self._next += 1
        self._ask(numbers)
        return self._replies(numbers)

    def _ask(self, numbers: Sequence[int]) -> None:
        """Bring these environments to their places, unless it is known what that came to."""
        tasks: dict[int, Task] = {}
        for number in numbers:
            place = self._places[number]
            known = None if place.live or self.past is None else self.past.recall(place.network, place.actions)
            if known is None:
                tasks[number] = place.next()
                place.live = True
            else:
                place.came_to(known)
        for number, host in enumerate(self._hosts):
            if own := {place: task for place, task in tasks.items() if self._home[place] == number}:
                host.ask(own)

    def _replies(self, numbers: Sequence[int]) -> dict[int, Reply]:
        """What came of it."""
        live = [number for number in numbers if self._places[number].live]
        for at, host in enumerate(self._hosts):
            if any(self._home[number] == at for number in live):
                for number, reply in self._patiently(at, host).items():
                    self._places[number].came_to(reply)
        return {number: self._places[number].latest for number in numbers}

    def _patiently(self, number: int, host: Host) -> dict[int, Reply]:
        """The replies of a host, which replays all its episodes and goes on where it died."""
        for death in range(PATIENCE):
            try:
                if death:
                    host.restart()
                    own = [place for place, home in self._home.items() if home == number and self._places[place].live]
                    host.ask({place: self._places[place].replay() for place in own})
                return host.replies()
            except DiedError:
                continue
        raise ChildProcessError(
            f"a worker must live until its decision is done, and {PATIENCE} were killed in one, perhaps for memory; "
            "go on with fewer workers: episodes continue from the last checkpoint"
        )

    def _observations(self, replies: Mapping[int, Reply]) -> Vector:
        return np.stack([replies[number].observation for number in range(self.num_envs)])

    def _info(self, reply: Reply) -> dict[str, Any]:
        if not reply.done:
            return reply.info
        return reply.info | {"terminal_observation": reply.observation, "record": reply.record}

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """None of those of an environment but that it draws nothing."""
        if attr_name != "render_mode":
            raise AttributeError(f"episodes have no attribute {attr_name!r}")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Environments follow from their makers alone."""
        raise NotImplementedError("environments cannot be changed from outside; change what makes them")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Environments do nothing but begin episodes and take actions."""
        raise NotImplementedError("environments begin episodes and take actions, and do nothing else for others")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """None is."""
        return [False] * self.num_envs
