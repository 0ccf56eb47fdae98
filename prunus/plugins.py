"""Plug-ins: modules of the user's, whose functions and classes a recipe may name."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prunus.tables import RecipeError


def modules(names: Sequence[str]) -> tuple[Any, ...]:
    """The plug-in modules by name, or by path where the name ends in .py."""
    return tuple(_module(name) for name in names)


def _module(name: str) -> Any:
    try:
        if not name.endswith(".py"):
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.insert(0, here)  # as `python -m` does; an installed command does not
            return import_module(name)
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location(f"plugin:{Path(name).stem}", name)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)  # where dataclasses look their module up
        spec.loader.exec_module(module)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise RecipeError(
            f"plugin {name!r} cannot be imported ({error}); give a module or the path of a .py file"
        ) from None
    return module
