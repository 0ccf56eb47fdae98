"""State dicts in files, by whatever they were written."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from prunus.foreign import read_foreign
from prunus.masks import Tensors
from prunus.packing import load_packed

TORCH_SUFFIXES = (".pt", ".pth")


def read_state(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The state dict in a safetensors file, packed or not, or in one of torch, on the CPU; and the file's metadata.

    What other pruning tools left in a file of torch becomes plain weights (see `read_foreign`). No code in the file
    runs. Raises ValueError for a file that is cut off or holds something else.
    """
    if path.suffix in TORCH_SUFFIXES:
        return read_foreign(_torch_saved(path))[0], {}
    return load_packed(path)


def _torch_saved(path: Path) -> Mapping[str, object]:
    with path.open("rb") as file:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises what the bytes happen to lead to
            reason = "holds more than tensors" if isinstance(error, pickle.UnpicklingError) else "is not whole"
            raise ValueError(
                f"{path} must be a state dict that torch.save wrote, but {reason} ({type(error).__name__}); save "
                "model.state_dict() again"
            ) from error
    if isinstance(saved, Mapping) and str(saved.get("format")).startswith("prunus-checkpoint/"):
        raise ValueError(
            f"{path} must hold the weights of a network, but is the checkpoint of a run in progress; give that run's "
            "command again to finish it, then use its directory"
        )
    if not isinstance(saved, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(saved).__name__}; save model.state_dict()")
    return saved
