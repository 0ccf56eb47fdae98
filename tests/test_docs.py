"""The documentation tells the truth: its code runs, its recipes build, its commands parse, its tables are complete."""

import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from prunus.allocation import ALLOCATIONS
from prunus.check import describe
from prunus.cli import app
from prunus.criteria import CRITERIA
from prunus.data import DATA
from prunus.methods import METHODS
from prunus.models import MODELS
from prunus.plugins import modules
from prunus.recipes import Recipe, read, single
from prunus.tables import OPTIMIZERS, SIGNALS, TABLES, Builder

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
RECIPE_KEYS = {"data", "model", "method"}
FENCE = re.compile(r"^```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its file name if it has one, its text and its first line's number in the page."""

    language: str
    title: str | None
    body: str
    line: int
    follows_code: bool

    @property
    def runs(self) -> bool:
        return self.language == "python" and self.title is None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page; a text block directly below Python is what that Python prints."""
    text, found, end = page.read_text(), [], 0
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["options"])
        adjacent = bool(found) and found[-1].runs and not text[end : match.start()].strip()
        line = text.count("\n", 0, match.start("body"))
        found.append(Block(match["language"], title and title[1], match["body"], line, adjacent))
        end = match.end()
    return found


def having(kind: Callable[[Block], bool]) -> Any:
    pages = [page for page in PAGES if any(map(kind, blocks(page)))]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


def is_recipe(block: Block) -> bool:
    return block.language == "yaml" and set(yaml.safe_load(block.body)) >= RECIPE_KEYS


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that a page shows, in an empty working directory."""
    for block in blocks(request.getfixturevalue("page")):
        if block.title:
            (tmp_path / block.title).write_text(block.body)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # in Lightning
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.usefixtures("files")
@having(lambda block: block.runs)
def test_python_runs_and_prints_what_the_page_says(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    # a hundred rounds show that a loop runs
    namespace: dict[str, Any] = {"__name__": page.stem, "range": lambda stop: range(min(stop, 100))}
    printed = ""
    for block in blocks(page):
        if block.runs:
            exec(compile("\n" * block.line + block.body, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
        elif block.language == "text" and block.follows_code:
            assert printed == block.body


@pytest.mark.usefixtures("files")
@having(is_recipe)
def test_recipes_build(page: Path) -> None:
    plugins = [block.title for block in blocks(page) if block.title and block.language == "python"]
    for block in filter(is_recipe, blocks(page)):
        Path("recipe.yaml").write_text(block.body)
        recipe = read(Path("recipe.yaml"), plugins=plugins)
        if recipe.data == "digits":
            describe(recipe)  # with its model and optimizer, for which it reads the data
        for run in map(single, recipe.runs()):
            given = {"sparsity": run.sparsity, "batches": (), "loss": cross_entropy, "input_shape": (3, 32, 32)}
            if run.method != "dense":
                Builder(given, modules(recipe.plugins)).build("method", {run.method: run.own})


@having(lambda block: block.language == "console")
def test_commands_parse(page: Path) -> None:
    lines = [line for block in blocks(page) if block.language == "console" for line in block.body.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("prunus ")]
    assert commands
    for command in commands:
        app.parse_args(command[1:], exit_on_error=False, print_error=False)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table below ``heading``: each row's cells by the code in its first cell."""
    section = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {name: row for row in cells[2:] for name in re.findall(r"`([^`]+)`", row[0])}


@pytest.mark.parametrize(
    ("page", "heading", "table"),
    [
        ("methods.md", "All methods", METHODS),
        ("schedules.md", "All schedules", TABLES["schedule"]),
        ("criteria.md", "All criteria", CRITERIA),
        ("criteria.md", "Signals", SIGNALS),
        ("allocations.md", "All allocations", ALLOCATIONS),
        ("data.md", "The data sets", DATA),
        ("models.md", "All models", MODELS),
        ("recipes.md", "Every key", Recipe.model_fields),
        ("recipes.md", "Optimizers", OPTIMIZERS),
    ],
)
def test_tables_are_complete(page: str, heading: str, table: Mapping[str, Any]) -> None:
    assert [*rows(page, heading)] == [*table]


def default(value: object) -> str:
    """A default as a recipe writes it."""
    named = {id(entry): name for table in (ALLOCATIONS, CRITERIA) for name, entry in table.items()}
    return named.get(id(value), str(value))


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_listed_with_their_arguments_and_defaults(name: str) -> None:
    parameters = inspect.signature(METHODS[name]).parameters.values()
    settable = [p for p in parameters if p.name != "sparsity"]
    expected = [p.name if p.default is p.empty else f"{p.name}={default(p.default)}" for p in settable]
    assert re.findall(r"`([^`]+)`", rows("methods.md", "All methods")[name][4]) == expected


@pytest.mark.parametrize("key", Recipe.model_fields)
def test_recipe_keys_are_listed_with_their_defaults(key: str) -> None:
    field = Recipe.model_fields[key]
    shown = rows("recipes.md", "Every key")[key][1].strip("`")
    expected = "required" if field.is_required() else yaml.safe_load(shown)
    value = field.get_default()
    if field.is_required():
        assert shown == expected
    else:
        assert Recipe.model_validate({"data": "", "model": "", "method": "", key: expected}).model_dump()[key] == value
