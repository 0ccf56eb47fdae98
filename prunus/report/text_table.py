"""A table of text for the terminal."""

import pandas as pd
from rich.box import HORIZONTALS
from rich.markup import escape
from rich.table import Table


def rich_table(cells: pd.DataFrame, title: str) -> Table:
    """A table with a line between requested sparsities, each named once; without them where there are none."""
    table = Table(title=title, title_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
    for name in cells.columns:
        # folded, never cut: a narrow terminal must not swallow a 'no gain'
        table.add_column(name, overflow="fold")
    if "requested" not in cells:
        for row in cells.to_numpy().tolist():
            table.add_row(*map(escape, row))
        return table
    first = cells["requested"] != cells["requested"].shift()
    last = cells["requested"] != cells["requested"].shift(-1)
    rows = cells.assign(requested=cells["requested"].where(first, ""))
    for row, end in zip(rows.to_numpy().tolist(), last, strict=True):
        table.add_row(*map(escape, row), end_section=bool(end))
    return table
