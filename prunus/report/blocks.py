"""What a report is made of, whatever it is written as."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from prunus.report.drawing import Plot


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands in `backticks` is a name."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences; ``loud`` where they must not be overlooked."""

    items: Sequence[str]
    loud: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text; a column ``requested`` groups its rows. With a ``name`` there is a file of its numbers.

    ``keys`` are the swatches of its methods.
    """

    cells: pd.DataFrame
    name: str = ""
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Folded:
    """A table or a plot that shows when asked for."""

    summary: str
    content: Table | Plot


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str
    language: str = ""


def csv(table: pd.DataFrame) -> str:
    """A table as CSV."""
    return table.to_csv(index=False, lineterminator="\n")


Block = Text | Items | Table | Folded | Code | Plot


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence["Section"] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A report: its title, what it is on, the answer in a sentence, and its sections."""

    title: str
    subject: str
    answer: str
    blocks: Sequence[Block]
    sections: Sequence[Section]

    def plots(self) -> Iterator[Plot]:
        """All plots, in order."""
        for block in self._blocks(self.sections):
            inside = block.content if isinstance(block, Folded) else block
            if isinstance(inside, Plot):
                yield inside

    def tables(self) -> Iterator[Table]:
        """All tables that have a file, in order."""
        yield from (block for block in self._blocks(self.sections) if isinstance(block, Table) and block.name)

    def _blocks(self, sections: Sequence[Section]) -> Iterator[Block]:
        for section in sections:
            yield from section.blocks
            yield from self._blocks(section.parts)
