"""Episodes that ended since a learning was saved, on disk: what an episode came to is not trained for again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prunus.learned.workers import Reply, Vector
from prunus.storage import write_atomically


class Past:
    """A folder of ended episodes, each by the seed of its network: its actions, and replies by how many came before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def leave(self, network: int, actions: Sequence[Vector], replies: Mapping[int, Reply]) -> None:
        """Write an episode that has ended."""
        self._folder.mkdir(parents=True, exist_ok=True)
        held = {
            "actions": [action.tolist() for action in actions],
            "replies": {taken: [reply.observation.tolist(), *reply[1:]] for taken, reply in replies.items()},
        }
        write_atomically(self._path(network), json.dumps(held))

    def recall(self, network: int, actions: Sequence[Vector]) -> Reply | None:
        """What these first actions of an episode came to, bit for bit; None where it did not end, or took others."""
        path = self._path(network)
        if not path.is_file():
            return None
        held = json.loads(path.read_text())
        found = held["replies"].get(str(len(actions)))
        if found is None or held["actions"][: len(actions)] != [action.tolist() for action in actions]:
            return None
        observation, *others = found
        return Reply(np.array(observation, np.float32), *others)

    def forget_(self) -> None:
        """Remove all episodes: whoever learns from them has been saved since."""
        for path in self._folder.glob("episode-*.json"):
            path.unlink()

    def _path(self, network: int) -> Path:
        return self._folder / f"episode-{network}.json"
