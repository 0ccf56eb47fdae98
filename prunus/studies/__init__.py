"""Many tasks, many workers: an Optuna study that survives the death of any of them."""

from prunus.studies.tasks import Label, Tasks

__all__ = ["Label", "Tasks"]
