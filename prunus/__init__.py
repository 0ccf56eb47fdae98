"""Train sparse neural networks.

The names below load on first use, so that ``prunus --help`` and ``import prunus.report`` load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prunus.carriers import Carrier, Edited, Feedback, Masked, Parametrized
    from prunus.export import load
    from prunus.masks import keep_count, project_, project_state_, prunable
    from prunus.own_advice import advise
    from prunus.ranking import top_k
    from prunus.recovery import Retraining, retrain
    from prunus.sparsifier import Sparsifier, sparsify
    from prunus.training import Step, Training

_HOMES = {
    "Carrier": "carriers",
    "Edited": "carriers",
    "Feedback": "carriers",
    "Masked": "carriers",
    "Parametrized": "carriers",
    "Retraining": "recovery",
    "Sparsifier": "sparsifier",
    "Step": "training",
    "Training": "training",
    "advise": "own_advice",
    "keep_count": "masks",
    "load": "export",
    "project_": "masks",
    "project_state_": "masks",
    "prunable": "masks",
    "retrain": "recovery",
    "sparsify": "sparsifier",
    "top_k": "ranking",
}

__all__ = [
    "Carrier",
    "Edited",
    "Feedback",
    "Masked",
    "Parametrized",
    "Retraining",
    "Sparsifier",
    "Step",
    "Training",
    "advise",
    "keep_count",
    "load",
    "project_",
    "project_state_",
    "prunable",
    "retrain",
    "sparsify",
    "top_k",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    return getattr(import_module(f"prunus.{_HOMES[name]}"), name)
