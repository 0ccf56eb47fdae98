"""The report's files: one HTML that holds everything, its plots and their numbers, several studies in one."""

import base64
import itertools
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from studies import lines_with, write_run, write_study
from tiny import prunus

from prunus.report import main_table, swatches, write_report
from prunus.report.figures import PLOTS
from prunus.report.palette import COLOURS, DENSE, GRID, LEVELS, LINES, MARKERS, ON_DARK, Look, levels
from prunus.report.results import read
from prunus.report.swatches import swatch
from prunus.report.writing import labels

PLOT_NAMES = {"accuracy", "learning-curves", "sparsity", "layers", "calibration", "cost"}
PAGES = ("#fcfcfa", "#15181d")


class Links(HTMLParser):
    """Every address that a page names, its ids and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.elements: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name in {"href", "src", "srcset", "data", "action"}:
                self.addresses.append(str(value))
            if name == "id":
                self.ids.append(str(value))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study with its report."""
    return write_report(write_study(tmp_path_factory.mktemp("written") / "study")).parent


def test_output_is_deterministic_and_complete(written: Path, tmp_path: Path) -> None:
    names = {path.name for path in written.iterdir() if path.is_file()} - {"recipe.yaml", "timing.json"}
    plots = {f"{name}.{kind}" for name in PLOT_NAMES for kind in ("svg", "csv")}
    assert names == {"report.html", "report.md", "table.csv", "differences.csv"} | plots
    assert write_report(written, out=tmp_path / "again") == tmp_path / "again" / "report.html"
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {name: (written / name).read_bytes() for name in names}
    pd.testing.assert_frame_equal(pd.read_csv(written / "table.csv"), main_table(written), check_dtype=False)


def test_the_page_holds_its_files_and_names_no_other(written: Path) -> None:
    page = (written / "report.html").read_text()
    links = Links(page)
    inside = [address for address in links.addresses if address.startswith("#")]
    assert {address.removeprefix("#") for address in inside} <= set(links.ids)
    assert len(links.ids) == len(set(links.ids))
    outside = [address for address in links.addresses if not address.startswith(("#", "data:"))]
    assert outside == []
    assert not links.elements & {"script", "img", "iframe", "object"}
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    held = dict(re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page))
    assert {name: base64.b64decode(content).decode() for name, content in held.items()} == {
        path.name: path.read_text() for path in written.glob("*.csv")
    }


def test_swatches_are_there_for_every_marker() -> None:
    assert {"", "*"} | set(MARKERS) == set(swatches.MARKERS)  # the star marks what is best
    assert set(LINES) == set(swatches.DASHES)
    assert swatch(Look(DENSE, "", "-")).count("<path") == 1
    assert swatch(Look(DENSE, "o", "--")).count("<path") == 2


@pytest.mark.usefixtures("undrawn")
def test_page_and_markdown_say_the_same(study: Path) -> None:
    page = write_report(study).read_text()
    plain = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.split("<main>")[1])))
    for line in (study / "report.md").read_text().split("## To reproduce")[0].splitlines():
        if line.startswith(("![", "|", "<", "As numbers")):
            continue
        said = line.split(" ([data]")[0].lstrip("#- ").removeprefix("Report: ")
        assert re.sub("[`*]", "", said) in plain


@pytest.mark.usefixtures("undrawn")
def test_what_others_wrote_stays_text(study: Path) -> None:
    (study / "recipe.yaml").write_text("note: '<script>in the recipe'\n")
    for path in study.glob("runs/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "<script>in a sentence"}))
    page = write_report(study).read_text()
    assert "<script" not in page
    assert {"&lt;script&gt;in the recipe", "&lt;script&gt;in a sentence"} <= set(
        re.findall("&lt;script&gt;in [a-z ]+", page)
    )


@pytest.mark.slow
def test_panels_say_their_numbers_under_the_mouse(study: Path) -> None:
    plots = {name: plot(read(study)) for name, plot in PLOTS.items()}
    titles = {name: [re.findall("<title>(.*?)</title>", part.svg) for part in plots[name].panels] for name in plots}
    assert "gmp at 90 %: 94.00 ± 1.41 % (n=2)" in titles["accuracy"][0]
    assert "gmp, 0.weight: 90.0" in titles["layers"][2]
    assert "gmp, 0.weight: 10" in titles["layers"][3]
    assert titles["calibration"][0][-1].startswith("gmp at 90 %: of 630 predictions with confidence 99.0 % were right")
    assert "gmp, added by the method: 120 B" in titles["cost"][2]


def test_a_plot_has_a_panel_for_each_thing(study: Path) -> None:
    panels = {name: len(plot(read(study)).panels) for name, plot in PLOTS.items()}
    there = {"accuracy": 2, "learning-curves": 2, "sparsity": 2, "layers": 4, "calibration": 2, "cost": 3}
    absent = ["learning-rates", "retraining-budget", "pruning-drop", "learned-schedules", "schedule-agents"]
    absent += ["anytime-curves", "anytime-gap", "anytime-cost"]
    assert panels == there | dict.fromkeys(absent, 0)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*ON_DARK])
def test_colours_stand_out_on_both_pages(colour: str) -> None:
    # lines and marks need 3 to 1, colours that text is written in 4.5 to 1
    least = 1.2 if colour == GRID else 3 if colour in COLOURS else 4.5
    for shown, page in zip((colour, ON_DARK[colour]), PAGES, strict=True):
        assert contrast(shown, page) >= least


def test_colours_of_heat_maps_do_not_change_with_the_page() -> None:
    assert not {to_hex(colour) for colour in colormaps["viridis"].colors} & set(ON_DARK)
    assert len({*COLOURS, *LEVELS, DENSE, GRID}) == 16


def test_levels_lie_far_apart() -> None:
    assert levels(1) == [LEVELS[0]]
    assert levels(2) == [LEVELS[0], LEVELS[7]]
    assert levels(8) == list(LEVELS)
    assert len(levels(20)) == 20


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Path, Path]:
    """The same study twice, the second 5 points worse wherever it is sparse, with another optimizer."""
    one = write_study(tmp_path / "sgd", recipe="optimizer: {sgd: {momentum: 0.9}}\n")
    return one, write_study(tmp_path / "adam", 0.05, recipe="optimizer: {adam: {}}\n")


@pytest.mark.usefixtures("undrawn")
def test_several_studies_stand_side_by_side(studies: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    assert write_report(*studies, out=out) == out / "report.html"
    text = (out / "report.md").read_text()
    side = text.split("## Side by side")[1].split("\n## ")[0]
    assert lines_with(side, "gmp", "94.00 ± 1.41 (n=2)", "89.00 ± 1.41 (n=2)", "-5.00 ± 0.00 (-5.00 to -5.00), lower")
    assert lines_with(side, "dense", "97.00 ± 1.00 (n=3)", "+0.00 ± 0.00 (+0.00 to +0.00), no difference shown")
    assert "higher in 0 and lower in 4 of the 5 pairs" in text.splitlines()[2]
    differs = text.split("## What differs")[1].split("\n## ")[0]
    assert lines_with(differs, "| optimizer.sgd.momentum | 0.9 |  |")
    assert lines_with(differs, "| optimizer.adam |  | {} |")
    assert not lines_with(differs, "study")
    assert all((out / f"{name}-{plot}.csv").is_file() for name in ("sgd", "adam") for plot in PLOT_NAMES)
    links = Links((out / "report.html").read_text())
    assert len(links.ids) == len(set(links.ids))
    merged = pd.read_csv(out / "side-by-side.csv")
    assert list(merged["study"].unique()) == ["sgd", "adam"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_studies_of_other_workloads_are_compared_to_their_own_dense(studies: tuple[Path, Path], tmp_path: Path) -> None:
    for path in studies[1].glob("runs/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": "cnn"}))
    text = write_report(*studies, out=tmp_path / "both").with_suffix(".md").read_text()
    assert "differ in model or data" in text.splitlines()[2]
    assert lines_with(text, "to dense in sgd, points", "to dense in adam, points")
    assert lines_with(text, "gmp", "-3.00 ± 0.00 (-3.00 to -3.00), lower", "-8.00 ± 0.00 (-8.00 to -8.00), lower")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_methods_of_one_study_alone_leave_a_gap(studies: tuple[Path, Path], tmp_path: Path) -> None:
    write_run(studies[1], "set", 0.9, 0, 0.8)
    text = write_report(*studies, out=tmp_path / "both").with_suffix(".md").read_text()
    assert lines_with(text, "|  | set |  | 80.00 (n=1) |  |")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_several_studies_go_to_a_directory_of_their_own(
    studies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_report(*studies) == Path("report") / "report.html"
    assert prunus("report", *studies, "--out", "both") == 0
    assert Path("both/report.html").read_bytes() == Path("report/report.html").read_bytes()
    assert not list(studies[0].glob("*.html"))


def test_studies_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / one / two for one, two in itertools.product("ab", "xy")]
    assert labels(paths[:2]) == ["x", "y"]
    assert labels(paths) == ["a-x", "a-y", "b-x", "b-y"]
    with pytest.raises(ValueError, match="the studies must be different directories, got"):
        labels([paths[0], paths[0]])
