"""The global random generators, of which an episode has its own: a policy draws from them too."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def states() -> dict[str, Any]:
    """Those of torch, NumPy and Python, as they are; loads with ``weights_only=True``."""
    numpy_state: Any = np.random.get_state()
    gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # where it is not, nobody has drawn from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if gpu else [],
        "python": random.getstate(),
        "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in numpy_state],
    }


def set_states_(state: dict[str, Any]) -> None:
    """Take them back."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))


class Generators:
    """The generators of one episode, from a seed: in its `use` they take the place of the global ones."""

    def __init__(self, seed: int) -> None:
        outside = states()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self._inside = states()
        set_states_(outside)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Draw from the episode's generators, and afterwards from those of before again."""
        outside = states()
        set_states_(self._inside)
        try:
            yield
        finally:
            self._inside = states()
            set_states_(outside)
