"""YAML as recipes write it."""

import re
from typing import Any

import yaml

from prunus.tables import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are Python's: ``1e-3`` is one, and ``2:4`` is text, not 124 to base 60."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            ("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$")),
            ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")),
            *resolvers,
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parsed(text: str, where: str) -> Any:
    """The value that ``text`` writes. Raises RecipeError, naming ``where`` it stands, for what is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
