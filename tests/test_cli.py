"""The command line: what each command prints, and what bad input ends as."""

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny import TINY, prunus, tiny, written

from prunus.carriers.rates import NAMES
from prunus.check import CATALOGUE
from prunus.cli import Restart, app
from prunus.criteria import CRITERIA
from prunus.data import DATA
from prunus.methods import METHODS
from prunus.models import MODELS
from prunus.prepare import prepare
from prunus.recipes import Recipe
from prunus.runs import train
from prunus.tables import TABLES

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Bad:
    """An override that is bad input, and words of the line that says so; how the recipe differs from the small one."""

    override: str
    words: str
    recipe: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.override


BAD = [
    # a misspelt key or name
    Bad("stepps=3", r"no key is called 'stepps'; did you mean 'steps'\?"),
    Bad("method=gpm", r"no method is called 'gpm'; did you mean 'gmp'\?"),
    Bad("method.gpm.until=0.5", r"'method\.gpm\.until=0\.5': no key is called 'gpm'; did you mean 'gmp'\?"),
    Bad("method.gmp.update_evry=5", r"method\.gmp: no argument is called 'update_evry'; did you mean 'update_every'\?"),
    Bad("model=restnet20", r"no model is called 'restnet20'; did you mean 'resnet20'\?"),
    Bad("model={mlp: {width: [3]}}", r"model\.mlp: no argument is called 'width'; did you mean 'widths'\?"),
    Bad("data=digit", r"no data set is called 'digit'; did you mean 'digits'\?"),
    Bad("optimizer=sgdd", r"no optimizer is called 'sgdd'; did you mean 'sgd'\?"),
    Bad("optimizer.sgd.momentm=1", r"optimizer\.sgd: no argument is called 'momentm'; did you mean 'momentum'\?"),
    Bad("learning_rate=cosin", r"no schedule is called 'cosin'; did you mean 'cosine'\?"),
    Bad("learning_rate={cosine: {inital: 1}}", r"learning_rate\.cosine: .*'inital'; did you mean 'initial'\?"),
    Bad("method={one-shot: {criterion: magnitud}}", r"no criterion is called 'magnitud'; did you mean 'magnitude'\?"),
    Bad("method.gmp.allocation=globl", r"no allocation is called 'globl'; did you mean 'global'\?"),
    Bad("method={one-shot: {signal: gradiant}}", r"no signal is called 'gradiant'; did you mean 'gradient'\?"),
    Bad("xyz=1", r"no key is called 'xyz'; known are data, model, method, sparsity"),
    # sparsity outside [0, 1)
    Bad("sparsity=1", r"sparsity: must be in \[0, 1\), got 1\.0; to keep a tenth of the weights write 0\.9"),
    Bad("sparsity=[0.5, 90]", r"sparsity: must be in \[0, 1\), got 90\.0; .* write 0\.9"),
    Bad("sparsity=-0.1", r"sparsity: must be in \[0, 1\), got -0\.1"),
    Bad("sparsity=high", r"sparsity: .*valid number.*, got 'high'"),
    Bad("sparsity=[]", r"sparsity: .*at least 1 item.*, got \[\]"),
    Bad("seed=[1, 1]", r"seed: must hold each value once, got 1, 1; drop the second"),
    # a filter that matches nothing
    Bad("include=conv*", r"include glob 'conv\*' matches no parameter; the names are linear1\.weight"),
    Bad("exclude=conv*", r"exclude glob 'conv\*' matches no parameter; the names are linear1\.weight"),
    Bad("exclude=*", r"no prunable weight: expected a Linear or convolution that the filters leave in"),
    # data that are not there
    Bad("data=mnist", r"mnist is not in .*: run `prunus data fetch mnist` where there is a network, or place"),
    Bad("data=own.npz", r"own\.npz: expected an \.npz file written by numpy\.savez, found none"),
    # arguments
    Bad("batch_size=many", r"batch_size: .*valid integer.*, got 'many'"),
    Bad("batch_size=0", r"batch_size: .*greater than or equal to 1, got 0"),
    Bad("method.gmp.update_every=1.5", r"method\.gmp\.update_every: .*valid integer.*, got 1\.5"),
    Bad("method.gmp.update_every=0", r"method\.gmp: update_every must be at least 1 step, got 0"),
    Bad("model={mlp: {widths: wide}}", r"model\.mlp\.widths: .*valid tuple, got 'wide'"),
    Bad("optimizer.sgd.momentum=high", r"optimizer\.sgd\.momentum: .*valid number.*, got 'high'"),
    Bad("optimizer={sgd: {nesterov: true}}", r"optimizer\.sgd: Nesterov momentum requires a momentum"),
    Bad("optimizer={sgd: {lr: 0.1}}", r"optimizer\.sgd: lr comes from a key of the recipe"),
    Bad("method.gmp.sparsity=0.5", r"method\.gmp: sparsity comes from a key of the recipe"),
    Bad("learning_rate={cosine: {initial: much}}", r"learning_rate\.cosine\.initial: .*valid number.*, got 'much'"),
    Bad("learning_rate=-1", r"Invalid learning rate: -1\.0"),
    Bad("precision=fp32", r"precision: .*'32-true', .* or '16-mixed', got 'fp32'"),
    Bad("augmentation=flip", r"augmentation: .*'none', 'crop-flip' or 'resized-crop', got 'flip'"),
    Bad("method={gmp: 3}", r"method\.gmp must hold arguments by name, got 3"),
    Bad("method=[gmp, gmp]", r"method must hold each name once, got gmp, gmp"),
    Bad("method={granet: {initial: 0.95}}", r"method\.granet: initial must be at most the final sparsity 0\.9, got"),
    Bad("method={str: {initial: {by_sparsity: {0.5: 1}}}}", r"initial\.by_sparsity holds 0\.5, sparsity is 0\.9"),
    Bad("method.gmp.allocation=2:x", r"a pattern is written N:M, such as \"2:4\", got '2:x'"),
    Bad("method.gmp.allocation=4:2", r"a pattern N:M needs 0 < N <= M, got 4:2"),
    # lengths
    Bad("epochs=3", r"a recipe needs a length, epochs or steps, and only one"),
    Bad("steps=", r"a recipe needs a length, epochs or steps, and only one; such as epochs: 10"),
    # overrides and plug-ins
    Bad("sparsity", r"an override is written key=value, such as method\.gmp\.update_every=50, got 'sparsity'"),
    Bad("steps.x=3", r"override 'steps\.x=3': steps is 6, not a call with arguments"),
    Bad("seed=[0", r"override 'seed=\[0' is not YAML: .*expected ',' or '\]'"),
    Bad("plugins=no_such_module", r"plugin 'no_such_module' cannot be imported .*; give a module or the path"),
]

# What only a run meets, at its beginning or at an update of its masks.
LATE = [
    Bad("sparsity=0.999", r"sparsity 0\.999 keeps 1 weights for 2 layers; at least one each must stay"),
    Bad("method={magnitude: {allocation: 2:4}}", r"pattern 2:4 has sparsity 0\.5, asked was 0\.9; pass 0\.5"),
    Bad("method={gmp: {allocation: {conv*: 0.5}}}", r"layer glob 'conv\*' matches none of linear1\.weight"),
    Bad("method=lc", r"lc .*AdamW's decay bypasses them; use SGD or Adam", {"optimizer": "adamw"}),
    Bad("method=lc", r"lc decays the smallest weights by the optimizer's weight decay, which is 0; set weight_decay"),
    Bad("method={gsm: {scope: some}}", r"scope must be 'weights' or 'all', got 'some'"),
    Bad("method={one-shot: {criterion: saliency}}", r"this criterion reads a signal and got none; give the update"),
    Bad("sparsity=[0.5, 0.9]", r"train runs one method.*, the recipe stands for 2 runs; use compare, or"),
    Bad("device=gpu7", r"accelerator.*'gpu7'.* Available names are: .*cpu"),
    pytest.param(
        Bad("device=cuda", r"not available"),
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
    ),
    Bad("model=simple-cnn", r"sides? of 16"),
    Bad("validation=0.9999", r"validation: must leave images on both sides .*, got 0\.9999 of 1437, which leaves 0 to"),
    Bad("validation=0.0001", r"validation: must leave images on both sides .* 1437 to train on and 0 to validate"),
]


def refused(capsys: Capture, words: str, *arguments: object) -> None:
    """Exit code 2, one line on the error stream with these words, and nothing that looks like a result."""
    assert prunus(*arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("prunus: ")
    assert re.search(words, line)
    assert "Traceback" not in captured.err + captured.out
    assert "accuracy" not in captured.out


@pytest.fixture
def _no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("command", ["check", "train", "compare"])
def test_bad_input_is_one_line_and_exit_code_2(command: str, bad: Bad, tmp_path: Path, capsys: Capture) -> None:
    refused(capsys, bad.words, command, written(tmp_path, **bad.recipe), bad.override)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_bad_input_of_the_last_method_ends_a_study_before_anything_is_trained(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path, method=["dense", "set", {"gmp": {"update_evry": 5}}])
    refused(capsys, "did you mean 'update_every'", "compare", path, "--out", tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize("bad", LATE, ids=str)
@pytest.mark.parametrize("command", ["check", "train", "compare"])
def test_bad_input_that_only_training_meets_is_one_line_too(
    command: str, bad: Bad, tmp_path: Path, capsys: Capture
) -> None:
    if command != "train" and bad.override.startswith("sparsity=["):
        pytest.skip("studies may have several sparsities")
    refused(capsys, bad.words, command, written(tmp_path, **bad.recipe), bad.override)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], r"expected a recipe file, found none at nowhere\.yaml"),
        (["compare", "nowhere.yaml"], r"expected a recipe file, found none at nowhere\.yaml"),
        (["check", "."], r"expected a recipe file, found none at \."),
        (["check", "broken.yaml"], r"broken\.yaml is not YAML: .*line 2"),
        (["check", "list.yaml"], r"list\.yaml must hold a mapping of recipe keys, got list"),
        (["check", "empty.yaml"], r"empty\.yaml must hold a mapping of recipe keys, got NoneType"),
        (["check", "no-method.yaml"], r"method: .*required"),
        (["check", "tiny.yaml", "--plugin", "no_such_module"], r"plugin 'no_such_module' cannot be imported"),
        (
            ["train", "tiny.yaml", "--plugin", "nowhere.py"],
            r"plugin 'nowhere\.py' cannot be imported .*; give a module",
        ),
        (
            ["train", "tiny.yaml", "seed=[0, 1]"],
            r"train runs one .*, the recipe stands for 2 runs; use compare, or choose",
        ),
        (["report", "."], r"a report needs a finished run under \./runs, got 0 unfinished; run the study first"),
        (["report", "nowhere"], r"a report needs a finished run under nowhere/runs, got no such directory"),
        (["chekc", "tiny.yaml"], r"Unknown command \"chekc\".*[Dd]id you mean \"check\"\?"),
        (["check", "tiny.yaml", "--uot", "x"], r"Unknown option: .*--uot"),
        (["compare", "tiny.yaml", "--workers", "many"], r"Invalid value .*--workers.*\"many\" into int"),
        (["list", "method"], r"Invalid value \"method\" .*\"methods\""),
        (["check"], r"--recipe.* requires an argument"),
        (["data", "fetch", "digist"], r"data to fetch must be one of .*'mnist'.*, got 'digist'"),
        (["data", "check", "mnist"], r"mnist is not in .*: run `prunus data fetch mnist`"),
        (["data", "check", "mnits"], r"data must be one of .*, got 'mnits'"),
        (["data", "check", "own.npz"], r"own\.npz: expected an \.npz file"),
        (["train", "tiny.yaml", "--out", "empty.yaml"], r"empty\.yaml"),
    ],
    ids=str,
)
def test_a_command_that_cannot_be_followed(arguments: list[str], words: str, tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path)
    (tmp_path / "broken.yaml").write_text("data: digits\nmodel: [mlp\n")
    (tmp_path / "list.yaml").write_text("- data\n- model\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "no-method.yaml").write_text("data: digits\nmodel: mlp\nepochs: 1\n")
    refused(capsys, words, *arguments)


def test_train_says_what_came_out_and_where(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path, method=["dense", "magnitude"], sparsity=[0.5, 0.9])
    assert prunus("train", path, "method=magnitude", "sparsity=0.5", "--out", tmp_path / "runs") == 0
    recipe = tiny(method="magnitude", sparsity=0.5)
    output = capsys.readouterr().out
    assert "sparsity 0.5000, asked 0.5" in output
    assert re.search(r"test accuracy \d+\.\d\d %, nll \d\.\d{4} on 360 images", output)
    assert f"in {tmp_path / 'runs' / recipe.name()}" in output
    assert (tmp_path / "runs" / recipe.name() / "result.json").is_file()
    assert prunus("train", path, "method=magnitude", "sparsity=0.5", "--out", tmp_path / "runs") == 0
    assert capsys.readouterr().out == output  # not run again


def test_train_and_compare_call_a_run_by_the_same_name(tmp_path: Path) -> None:
    initial = {"by_sparsity": {0.5: -3.0, 0.9: -1.0}}
    method = {"dense": None, "str": {"initial": initial}}
    dense, trained = tiny(method=method).runs()
    path = written(tmp_path, method=method)
    for overrides in (["method=dense"], [f"method={{str: {{initial: {initial}}}}}"]):
        assert prunus("train", path, *overrides, "--out", tmp_path / "runs") == 0
    assert {home.name for home in (tmp_path / "runs").iterdir()} == {dense.name(), trained.name()}


def test_a_plugin_on_the_command_line_is_part_of_the_recipe(tmp_path: Path, capsys: Capture) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text("def upside_down(weight, signal, generator):\n    return -weight.abs()\n")
    path = written(tmp_path, method={"one-shot": {"criterion": "upside_down"}})
    assert prunus("train", path, "--out", tmp_path / "runs", "--plugin", plugin) == 0
    recipe = tiny(method={"one-shot": {"criterion": "upside_down"}}, plugins=str(plugin))
    assert (tmp_path / "runs" / recipe.name() / "result.json").is_file()
    assert prunus("check", path, "--plugin", plugin) == 0
    capsys.readouterr()
    refused(capsys, "no criterion is called 'upside_down'", "check", path)


def test_check_says_what_would_run_and_runs_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, method=["dense", "gmp", "snip", "synflow", "grasp"], sparsity=[0.5, 0.9], seed=[0, 1])
    before = set(tmp_path.rglob("*"))
    assert prunus("check", path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "18 runs of 6 steps on digits: 5 methods, sparsity 0.5, 0.9, seeds 0, 1",
        "1184 prunable weights of 1210 parameters:",
        "  linear1.weight  16x64",
        "  linear2.weight  10x16",
    ]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("length", [{"epochs": 0.5}, {"epochs": 3, "accumulate": 4}], ids=str)
def test_check_counts_the_steps_that_a_run_takes(length: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    assert prunus("check", written(tmp_path, steps=None, **length)) == 0
    assert f"1 runs of {prepare(tiny(steps=None, **length)).training.steps} steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", ["dense", *METHODS]),
        ("models", [*MODELS, "timm/NAME", "torchvision/NAME", "transformers/NAME"]),
        ("data", [*DATA, "FILE.npz", "FOLDER/"]),
        ("schedules", list(TABLES["schedule"])),
        ("criteria", list(CRITERIA)),
        ("allocations", list(TABLES["allocation"])),
        ("optimizers", list(TABLES["optimizer"])),
    ],
)
def test_list_gives_every_name_and_a_line_of_documentation(kind: str, names: list[str], capsys: Capture) -> None:
    assert prunus("list", kind) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == kind
    entries = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines)
    assert [name for name in names if name not in entries] == []
    assert all(text.strip() for text in entries.values())
    if kind not in ("data", "models"):
        for name in names:
            make = CATALOGUE[kind][name]
            if inspect.isfunction(make):
                assert entries[name] == (make.__doc__ or "").split("\n")[0]


def test_list_gives_everything_by_default(capsys: Capture) -> None:
    assert prunus("list") == 0
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if line and line[0] != " "] == list(CATALOGUE)


def test_data_says_what_is_here(tmp_path: Path, capsys: Capture) -> None:
    assert prunus("data", "check", "digits") == 0
    assert capsys.readouterr().out == "digits: 1437 + 360 images, 1 x 8 x 8, 10 classes\n"
    assert prunus("data", "--root", tmp_path) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("mnist", "fashion-mnist", "cifar10", "cifar100"))
    assert str(tmp_path) in output


@pytest.mark.usefixtures("undrawn")
def test_report_writes_and_prints_again(tmp_path: Path, capsys: Capture) -> None:
    recipes = list(tiny(method=["dense", "magnitude"]).runs())
    for recipe in recipes:
        train(recipe, tmp_path / "runs", lambda progress: None)
    (tmp_path / "recipe.yaml").write_text("a: study\n")
    assert prunus("report", tmp_path) == 0
    output = capsys.readouterr().out
    assert "magnitude" in output
    assert output.endswith(f"Report: {tmp_path / 'report.html'}\n")
    assert (tmp_path / "report.md").is_file()


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in ("train", "compare", "retrain", "data"))]
)
def test_help_is_there_and_says_sparsity_alone(arguments: list[str], capsys: Capture) -> None:
    assert prunus(*arguments) == 0
    output = capsys.readouterr().out
    assert "Usage: prunus" in output
    assert not re.search(OTHER_WORDS, output)


def test_version(capsys: Capture) -> None:
    assert prunus("--version") == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


OTHER_WORDS = re.compile(r"densit|amount|pruning.?rat|remain|sparsity.?level|compression|prune.?rate", re.IGNORECASE)


def test_one_word_sparsity_everywhere(capsys: Capture) -> None:
    """What users type: arguments of everything that a recipe can name, its keys, and the commands' options."""
    entries = [entry for table in (*TABLES.values(), MODELS) for entry in table.values() if callable(entry)]
    ours = [entry for entry in entries if not getattr(entry, "__module__", "").startswith("torch")]
    typed = {name for entry in ours for name in inspect.signature(entry).parameters}
    typed |= {name for table in (*TABLES.values(), MODELS, DATA) for name in table} | set(Recipe.model_fields)
    assert [name for name in typed if OTHER_WORDS.search(name)] == []
    assert all("sparsity" in inspect.signature(method).parameters for method in METHODS.values())
    assert {name for name in typed if "spars" in name} == {"sparsity"}


def test_every_documented_command_is_there() -> None:
    assert {"train", "retrain", "compare", "report", "list", "data", "check"} <= set(app)
    assert set(TINY) <= set(Recipe.model_fields)


def test_the_schedules_of_retrain_are_those_that_there_are() -> None:
    assert get_args(Restart) == NAMES  # written out, because help must not load torch
