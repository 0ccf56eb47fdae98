"""Writing: the report's files, HTML and Markdown with the plots and numbers beside them."""

from collections.abc import Sequence
from pathlib import Path

from prunus.report.blocks import Document, csv
from prunus.report.drawing import composed
from prunus.report.html import html
from prunus.report.markdown import markdown
from prunus.report.results import read
from prunus.report.scaling_results import is_scaling
from prunus.report.scaling_study import scaling_document
from prunus.report.side_by_side import studies_document
from prunus.report.study import study_document
from prunus.storage import write_atomically


def write_report(*directories: Path, out: Path | None = None) -> Path:
    """Writes the report on one study, or on several side by side, and returns the path of its HTML.

    Into ``out``; by default the study's own directory, or ``report`` below the current one for several. Beside
    ``report.html``, which needs no other file: ``report.md``, and per plot an SVG and a CSV with what it shows. The
    same results give the same bytes. A ValueError where a directory holds no finished run.

    A directory of cells is a steps-to-result study, and has a report of its own, see `write_scaling_report`.
    """
    if any(map(is_scaling, directories)):
        if len(directories) > 1:
            raise ValueError(
                f"a steps-to-result study has its own report, got {len(directories)} directories; give one"
            )
        return write_scaling_report(directories[0], out)
    found = [read(directory) for directory in directories]
    document = study_document(found[0]) if len(found) == 1 else studies_document(found, labels(directories))
    return save_all(document, out or (directories[0] if len(directories) == 1 else Path("report")))


def write_scaling_report(directory: Path, out: Path | None = None) -> Path:
    """Writes the report on a steps-to-result study as `write_report` does, and returns the path of its HTML.

    A ValueError where no cell is done.
    """
    return save_all(scaling_document(directory), out or directory)


def labels(directories: Sequence[Path]) -> list[str]:
    """What the studies are called: as few last parts of their paths as tell them apart."""
    paths = [directory.resolve().parts for directory in directories]
    deepest = max(map(len, paths))
    for depth in range(1, deepest + 1):
        names = ["-".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"the studies must be different directories, got {', '.join(map(str, directories))}")


def save_all(document: Document, out: Path) -> Path:
    """Writes everything and returns the path of the HTML."""
    out.mkdir(parents=True, exist_ok=True)
    for plot in document.plots():
        save(out / f"{plot.name}.svg", composed(plot))
        save(out / f"{plot.name}.csv", csv(plot.data))
    for table in document.tables():
        save(out / f"{table.name}.csv", csv(table.data))
    save(out / "report.md", markdown(document))
    return save(out / "report.html", html(document))


def save(path: Path, text: str) -> Path:
    """Writes ``text`` as UTF-8 with the same line ends on every system."""
    write_atomically(path, text)
    return path
