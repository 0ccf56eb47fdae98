"""All plots of a report, in its order."""

from collections.abc import Callable, Mapping

from prunus.report.accuracy import accuracy_plot
from prunus.report.calibration import calibration_plot
from prunus.report.cost import cost_plot
from prunus.report.curves import learning_plot, sparsity_plot
from prunus.report.drawing import Plot
from prunus.report.layers import layers_plot
from prunus.report.results import Results

PLOTS: Mapping[str, Callable[[Results], Plot]] = {
    "accuracy": accuracy_plot,
    "learning-curves": learning_plot,
    "sparsity": sparsity_plot,
    "layers": layers_plot,
    "calibration": calibration_plot,
    "cost": cost_plot,
}
