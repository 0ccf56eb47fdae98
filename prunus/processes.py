"""What processes of ours owe each other: errors that arrive, and an end with the one that began them."""

import multiprocessing
import os
import pickle


def portable(error: Exception) -> Exception:
    """The error, or its name and text in another one where it cannot be sent, or not be made again there."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own parts raise
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def end_with_parent() -> None:
    """Wait for the end of the process that began this one, and end too: for a thread of its own."""
    # a worker must not go on writing beside the study that follows a killed one
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def cores() -> int:
    """How many cores this process may use, which a scheduler may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
