"""Models of timm, torchvision and transformers, with random weights; each package is imported when first asked for."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn


def from_timm(name: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The model that timm calls ``name``."""
    timm = _imported("timm")
    _expect(name, timm.list_models(), "timm")
    channels, *sides = input_shape
    # timm drops a None; only models of a fixed size, such as vision transformers, know the argument
    size = tuple(sides) if timm.get_pretrained_cfg(name).fixed_input_size else None
    model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=channels, img_size=size)
    return model


def from_torchvision(name: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The classifier that torchvision calls ``name``; it takes 3 channels."""
    models = _imported("torchvision").models
    _expect(name, models.list_models(module=models), "torchvision")
    if input_shape[0] != 3:
        raise ValueError(f"models of torchvision take 3 channels, got {input_shape[0]}; timm/NAME takes any number")
    model: nn.Module = models.get_model(name, num_classes=classes)
    model.register_forward_hook(_logits)
    return model


def from_transformers(config: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The image classifier of transformers of a model type, such as ``vit``, or of a configuration's path (.json).

    Nothing is downloaded. ``model(x)`` is the logits, not the package's output object.
    """
    transformers = _imported("transformers")
    names = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    settings: dict[str, Any] = (
        json.loads(Path(config).read_text()) if config.endswith(".json") else {"model_type": config}
    )
    _expect(settings["model_type"], names, "transformers")
    configuration = transformers.AutoConfig.for_model(**settings | _sizes(input_shape, classes))
    found = names[configuration.model_type]
    architecture = found if isinstance(found, str) else found[0]  # the others are variants, such as one with a teacher
    model: nn.Module = getattr(transformers, architecture)(configuration)
    model.register_forward_hook(_logits)
    return model


def _sizes(input_shape: tuple[int, int, int], classes: int) -> dict[str, object]:
    channels, height, width = input_shape
    size = height if height == width else (height, width)
    # without their names: a file's labels would contradict the number of classes
    labels: dict[str, object] = {"num_labels": classes, "id2label": None, "label2id": None}
    return {"num_channels": channels, "image_size": size} | labels


def _logits(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    # a hook, not a wrapper: the parameters keep the names under which the package saves and loads them
    return output if isinstance(output, Tensor) else output.logits


def _imported(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{package}/… needs the package {package}: pip install {package}", name=package
        ) from None


def _expect(name: str, names: Iterable[str], package: str) -> None:
    names = list(names)
    if name not in names:
        near = ", ".join(get_close_matches(name, names, cutoff=0.0))
        raise ValueError(f"{package} has no image classifier called {name!r}; the nearest names are {near}")
