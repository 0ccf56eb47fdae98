"""All plots of a report, in its order; some have no panels where a study has nothing for them."""

from collections.abc import Callable, Mapping

from prunus.report.accuracy import accuracy_plot
from prunus.report.anytime_plot import anytime_cost_plot, anytime_plot
from prunus.report.calibration import calibration_plot
from prunus.report.cost import cost_plot
from prunus.report.curves import learning_plot, sparsity_plot
from prunus.report.cycles_plot import cycles_plot
from prunus.report.drawing import Plot
from prunus.report.gap_plot import gap_plot
from prunus.report.layers import layers_plot
from prunus.report.lessons_plot import lessons_plot
from prunus.report.rates import rates_plot
from prunus.report.results import Results
from prunus.report.retraining_plot import retraining_plot
from prunus.report.schedules_plot import schedules_plot

PLOTS: Mapping[str, Callable[[Results], Plot]] = {
    "accuracy": accuracy_plot,
    "learning-curves": learning_plot,
    "sparsity": sparsity_plot,
    "learning-rates": rates_plot,
    "retraining-budget": retraining_plot,
    "learned-schedules": schedules_plot,
    "schedule-agents": lessons_plot,
    "anytime-curves": anytime_plot,
    "anytime-gap": gap_plot,
    "anytime-cost": anytime_cost_plot,
    "pruning-drop": cycles_plot,
    "layers": layers_plot,
    "calibration": calibration_plot,
    "cost": cost_plot,
}
