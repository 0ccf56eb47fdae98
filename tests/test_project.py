"""The shape of the project: its layers, what it loads, and what its files may not hold."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prunus"

LAYERS = (
    {"masks", "candidates", "ranking", "randomness", "schedules", "cadence", "parametrizations"}
    | {"training", "evaluation", "data", "models", "storage", "points", "ranks", "processes", "options"},
    {"criteria", "allocation", "budgets", "plans", "signals", "tensor_file", "packing"}
    | {"foreign", "cycles", "retraining", "operations", "watch", "schedule_file", "learned_schedule"}
    | {"streams"},
    {"updates", "state_file", "named_plans"},
    {"carriers"},
    {"methods", "sparsifier"},
    {"distributed", "learned", "scaling"} | {"studies", "cluster"} | {"integrations", "recovery", "proposals"},
    {"tables"},
    {"yaml_text", "plugins", "variants", "settings"},
    {"recipes"},
    {"start"},
    {"materials"},
    {"prepare"},
    {"outcome", "checkpoints", "loggers", "provenance"},
    {"loop"},
    {"anytime", "racing"},
    {"runs"},
    {"search"},
    {"timing", "display", "check", "report", "testing", "export", "workers"},
    {"study"},
    {"compare", "advice", "lessons", "scaling_study", "scaling_plan"},
    {"retrain_command", "own_advice", "pupils"},
    {"learn"},
    {"scaling_cli"},
    {"cli"},
    {"__main__"},
)
LAYER = {module: number for number, layer in enumerate(LAYERS) for module in layer}

# Imports inside one layer, each allowed by name; `randomness` is open to all.
ASIDE = {
    "parametrizations": {"masks"},
    "ranking": {"candidates"},
    "allocation": {"budgets"},
    "plans": {"budgets"},
    "proposals": {"studies"},
    "learned_schedule": {"budgets", "schedule_file"},
    "packing": {"tensor_file"},
}

# A path that only one machine has; `(?<!...)` leaves URLs and relative paths alone.
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])(/(tmp|home|root|opt|mnt|srv|Users)/|[A-Z]:\\\\?Users\\)")


def owner(path: Path) -> str:
    """The module of the table that a file belongs to: `prunus/data/digits.py` is of `data`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imported(path: Path) -> Iterator[str]:
    """The full dotted names of ours that a file imports, wherever in the file."""
    package = ("prunus", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            origin = ".".join([*above, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "prunus" and name != "prunus.__version__")


def allowed(module: str, target: str) -> bool:
    return target in (module, "randomness") or target in ASIDE.get(module, ()) or LAYER[target] < LAYER[module]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_layers(path: Path) -> None:
    module = owner(path)
    assert module in LAYER, f"prunus/{module} has no layer: add it to LAYERS in {Path(__file__).name}"
    for name in imported(path):
        target = [*name.split("."), ""][1]
        assert target in LAYER, (
            f"{path.name} imports {name}: import a name from its own module, not from the package, "
            f"and add a new module to LAYERS in {Path(__file__).name}"
        )
        assert allowed(module, target), (
            f"{module} (layer {LAYER[module]}) imports {target} (layer {LAYER[target]}): "
            "move the shared part to a lower layer, or allow the pair in ASIDE"
        )


def test_imports_inside_a_layer_form_no_cycle() -> None:
    tuple(TopologicalSorter(ASIDE).static_order())


def test_import_finder_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "digits.py"
    path.write_text(
        "import torch, prunus.masks\nfrom prunus import signals\nfrom prunus.cli import main\n"
        "from . import batches\nfrom .. import updates\nfrom ..ranking import top_k\n"
        "def late():\n    import prunus\n"
    )
    assert set(imported(path)) == {
        "prunus.masks",
        "prunus.signals",
        "prunus.cli.main",
        "prunus.data.batches",
        "prunus.updates",
        "prunus.ranking.top_k",
        "prunus",
    }


def test_help_loads_no_torch() -> None:
    shown = run_python(
        "import sys; sys.argv = ['prunus', '--help']\n"
        "from prunus.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'prunus --help loads torch: import it inside the command'"
    )
    assert "compare" in shown


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git names the files of the project")
def test_no_file_names_a_path_of_a_machine() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and not name.startswith("tests/")]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        if path.is_file()
        for match in MACHINE_PATH.finditer(path.read_text(errors="ignore"))
    ]
    assert not found, f"use a path relative to the project: {found}"


@pytest.mark.parametrize(
    ("text", "is_machine_path"),
    [
        ('open("/home/ada/x")', True),
        ("cd /tmp/runs", True),
        (r'"C:\Users\ada"', True),
        ("https://example.org/home/x", False),
        ("see ./home/notes and ~/home/x", False),
        ("#!/usr/bin/env bash", False),
    ],
)
def test_machine_path_pattern(text: str, is_machine_path: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is is_machine_path


@pytest.mark.parametrize(
    ("package", "passes"),
    [
        ("torch==2.13.0+cpu", True),
        ("nvidia-cublas-cu12==12.8.4", False),
        ("triton==3.5.0", False),
        ("pytorch-triton==3.5.0", False),
        ("cuda-bindings==13.0", False),
    ],
)
def test_ci_fails_when_the_install_brought_cuda(package: str, passes: bool, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    listed = f"printf 'numpy==2.4.6\\n{package}\\n'"
    for name, line in (("make", "true"), ("chromium", "true"), (".venv/bin/python", listed)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ".ci/run"], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode == 0) is passes, done.stderr
    assert (package in done.stderr) is not passes
