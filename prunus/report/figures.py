"""All figures of a report by file name, their data, and their SVG text."""

import io
from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure

from prunus.report.accuracy import accuracy_data, accuracy_figure
from prunus.report.curves import learning_data, learning_figure, sparsity_data, sparsity_figure
from prunus.report.layers import layers_figure
from prunus.report.palette import STYLE
from prunus.report.results import Results
from prunus.report.tables import layer_means

FIGURES: Mapping[str, tuple[Callable[[Results], Figure], Callable[[Results], pd.DataFrame]]] = {
    "accuracy": (accuracy_figure, accuracy_data),
    "learning-curves": (learning_figure, learning_data),
    "sparsity": (sparsity_figure, sparsity_data),
    "layers": (layers_figure, layer_means),
}


def svg(draw: Callable[[Results], Figure], results: Results) -> str:
    """A figure's SVG: the same bytes for the same results, whatever the user's matplotlib settings and the date."""
    text = io.StringIO()
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        draw(results).savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
