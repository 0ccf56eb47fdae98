"""The smallest study: six steps of a perceptron on digits, its recipe as values, as a file and as a command line."""

import json
from pathlib import Path
from typing import Any

import yaml

from prunus.cli import main
from prunus.recipes import Recipe, parse

TINY: dict[str, Any] = {
    "data": "digits",
    "model": {"mlp": {"widths": [16]}},
    "method": {"gmp": {"update_every": 2}},
    "sparsity": 0.9,
    "steps": 6,
    "batch_size": 32,
    "optimizer": {"sgd": {"momentum": 0.9}},
    "learning_rate": 0.1,
    "evaluations": 3,
    "device": "cpu",
}


def tiny(**changes: Any) -> Recipe:
    return parse(TINY | changes)


def written(directory: Path, **changes: Any) -> Path:
    """A recipe file."""
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
    return path


def prunus(*arguments: object) -> int:
    """The command line; its exit code."""
    return main([str(argument) for argument in arguments])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
