"""Where a file of weights comes from: the recipe that made it, the shapes of its data and its sparsity."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from prunus import __version__
from prunus.data import Data
from prunus.models import MODELS
from prunus.recipes import Recipe, single
from prunus.tables import Builder, canonical, only

FORMAT = "prunus-weights/1"
_PREFIX = "prunus."


@dataclass(frozen=True)
class Provenance:
    """A resolved recipe, the input (channels, height, width) and classes of its data, the sparsity asked and realized.

    ``version`` is that of the prunus that trained.
    """

    recipe: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    classes: int
    sparsity: float
    realised_sparsity: float
    version: str = __version__

    def metadata(self) -> dict[str, str]:
        """The metadata of a file: each field as JSON under ``prunus.`` and its name."""
        fields = {f"{_PREFIX}{name}": json.dumps(value) for name, value in asdict(self).items()}
        return {"format": "pt", f"{_PREFIX}format": FORMAT} | fields  # `format` is what transformers looks for

    def model(self) -> nn.Module | None:
        """The built-in model, with initial weights; None where the recipe's model is of a plug-in.

        A file must not decide what code is imported, so plug-ins stay out. Torch's generator is left as it was.
        """
        name, _ = only(self.recipe["model"], "model")
        if "/" not in name and canonical(name) not in MODELS:
            return None
        given = {"input_shape": self.input_shape, "classes": self.classes}
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = Builder(given).build("model", self.recipe["model"])
        return model.double() if self.recipe["precision"] == "64-true" else model


def provenance(recipe: Recipe, data: Data, realised_sparsity: float) -> Provenance:
    """The provenance of what a run's recipe trained on ``data``."""
    return Provenance(recipe.resolved(), data.input_shape, data.classes, single(recipe).sparsity, realised_sparsity)


def from_metadata(metadata: Mapping[str, str]) -> Provenance | None:
    """The provenance in a file's metadata; None in a file that prunus did not write or of a later format."""
    if metadata.get(f"{_PREFIX}format") != FORMAT:
        return None
    fields = {name: json.loads(metadata[f"{_PREFIX}{name}"]) for name in Provenance.__dataclass_fields__}
    return Provenance(**fields | {"input_shape": tuple(fields["input_shape"])})
