"""The report on one study: its sections, with their prose, tables and plots."""

from collections.abc import Mapping

from prunus.report import attention, statements, wording
from prunus.report.anytime import anytime_blocks
from prunus.report.blocks import Block, Code, Document, Folded, Items, Section, Table, Text
from prunus.report.budget import budget_blocks
from prunus.report.cells import benefit_cells, cost_cells, difference_cells, layer_cells, main_cells
from prunus.report.cycles import cycle_blocks
from prunus.report.figures import PLOTS
from prunus.report.headline import headline, workload
from prunus.report.learned import schedule_blocks
from prunus.report.paired import differences
from prunus.report.palette import DENSE, Look
from prunus.report.results import Results
from prunus.report.retraining import retraining_blocks
from prunus.report.search import search_blocks
from prunus.report.statements import leaders
from prunus.report.swatches import swatch
from prunus.report.tables import budgets, records, reference, summarise

Keys = Mapping[str, str]
SPREAD = (
    "± is the sample standard deviation over n seeds; the highest of several means flatters its method a little. "
    "Sparsity is the fraction of zeros among the prunable weights."
)
CALM = (
    "No layer collapsed, every realised sparsity lies within 0.5 points of the requested one{learned}, and every "
    "result is finite."
)
UNFINISHED = "UNFINISHED: these runs have no result and are in no number of this report."
COLUMNS = (
    "Accuracy, negative log-likelihood and calibration error are on the test set; parameters count biases and norms "
    "too. The speed-up in theory counts multiply-accumulates (MACs); throughput is that of training relative to dense, "
    "with the quartiles of its paired blocks. Bold: the highest mean accuracy{budget}, and those whose mean ± sd "
    "overlaps it."
)
PAIRED = (
    '"No difference shown" is not proof of equality: with few seeds only large differences show. The intervals are not '
    "corrected for their number."
)
MEASURED = (
    "The theory counts multiply-accumulates; the measurement is training throughput in paired blocks beside dense in "
    "one process, with quartiles."
)
HELD = (
    "Time of training is the clock's, evaluation left out; runs that train beside others share the machine, so "
    "compare by the throughput above. Held is counted: parameters, gradients, the optimizer's state, and masks and "
    "remembered gradients of the method, without activations."
)
NO_MEMORY = "Memory was not measured: these results are of an older format; run the study again in another directory."
NO_BINS = (
    "Reliability diagrams were not measured: these results are of an older format; run the study again in another "
    "directory."
)


def study_document(results: Results) -> Document:
    """The whole report on one study."""
    return Document(
        title=results.study,
        subject=workload(results),
        answer=headline(results),
        blocks=answer(results),
        sections=sections(results),
    )


def answer(results: Results) -> list[Block]:
    """What was asked, and what came out at each sparsity."""
    clauses = statements.answers(results)
    ends = [*[";"] * (len(clauses) - 1), "."]
    came_out = [clause + end for clause, end in zip(clauses, ends, strict=True)] if clauses else []
    return [
        Text(f"{statements.question(results)} Came out:"),
        Items(came_out or ["no sparse run has finished."]),
        Text(f"{SPREAD} {statements.resolution(results)}"),
    ]


def sections(results: Results) -> list[Section]:
    """Everything below the answer."""
    plots = {name: plot(results) for name, plot in PLOTS.items()}
    keys = method_keys(results, plots["accuracy"].keys)
    columns = COLUMNS.format(budget=" of each budget" if any(budgets(results)) else "")
    rates = [plots["learning-rates"]] if plots["learning-rates"].panels else []
    found = [
        Section("Attention", warned(results)),
        Section("Results", [main_table(results, keys), Text(columns), plots["accuracy"]]),
        Section("Retraining", retraining_blocks(results, plots["retraining-budget"], keys)),
        Section("Schedules", schedule_blocks(results, plots["learned-schedules"], plots["schedule-agents"])),
        Section("Anytime", anytime_blocks(results, plots, keys)),
        Section("The same accuracy?", paired(results, keys)),
        Section("What pruning took and retraining brought back", cycle_blocks(results, plots["pruning-drop"], keys)),
        Section("Training", [plots["learning-curves"], plots["sparsity"], *rates]),
        Section("Layers", [plots["layers"], *layers(results)]),
        Section("Calibration", [plots["calibration"] if len(results.bins) else Text(NO_BINS)]),
        Section("Time and memory", cost(results, plots["cost"], keys)),
        Section("Search", search_blocks(results)),
        Section("To reproduce", reproduce(results)),
    ]
    return [section for section in found if section.blocks]


def method_keys(results: Results, keys: Keys) -> Keys:
    """The key to each method's colour in the figures; a variant has one at all its budgets."""
    runs = results.runs
    labels = {
        label: keys[variant] for label, variant in zip(runs["method"], runs["variant"], strict=True) if variant in keys
    }
    return {"dense": swatch(Look(DENSE, "", "-")), **keys, **labels}


def main_table(results: Results, keys: Keys) -> Table:
    """The main table, with the leading accuracies in bold; operations and the bytes of files stand further down."""
    cells = main_cells(results).drop(columns=["MACs kept", "file dense", "file packed"])
    leading = {(wording.sparsity(level), method) for level, method in leaders(results)}
    name = "test accuracy, %"
    cells[name] = [
        f"**{text.replace(' (', '** (')}" if (requested, method) in leading else text
        for requested, method, text in zip(cells["requested"], cells["method"], cells[name], strict=True)
    ]
    return Table(cells, "table", summarise(results), keys)


def warned(results: Results) -> list[Block]:
    """What must not be overlooked."""
    warnings, unfinished = attention.warnings(results), attention.unfinished(results)
    beyond = attention.sparser_schedules(results)
    calm = CALM.format(learned=" but for learned schedules" if beyond else "")
    blocks: list[Block] = [Items(warnings, loud=True) if warnings else Text(calm), *[Text(beyond)] * bool(beyond)]
    blocks += [Items([UNFINISHED], loud=True), Items(unfinished)] if unfinished else [Text("No run is unfinished.")]
    return [*blocks, *([Text(attention.strays(results))] if results.strays else [])]


def paired(results: Results, keys: Keys) -> list[Block]:
    """Differences to dense by seed, and to BIMP where the study has it."""
    if reference(results.runs) is None:
        return [Text("This study holds no dense run: nothing to compare with."), *against("bimp", results, keys)]
    blocks = [*against("dense", results, keys), *against("bimp", results, keys)]
    return [*blocks, Text(PAIRED)] if any(isinstance(block, Table) for block in blocks) else blocks


def against(name: str, results: Results, keys: Keys) -> list[Block]:
    """What the paired differences to this method are, and a table of them; nothing where the study is without it."""
    chosen = results.runs.loc[results.runs["method"] == reference(results.runs, name), "variant"]
    if chosen.empty:
        return []
    pair = "the same seed, sparsity and length"
    if name == "dense":
        begun = ", and of the run that a network began from" if results.runs["pretraining"].notna().any() else ""
        pair = f"the same seed{begun}"
    what = f"Test accuracy less that of `{chosen.iloc[0]}` with {pair}, mean ± sd of the pairs, with a 95 % t-interval"
    lead = Text(f"{what} of the mean. {statements.sameness(results, name)}")
    cells, file = difference_cells(results, name), "differences" if name == "dense" else f"differences-{name}"
    return [lead, Table(cells, file, differences(results, name), keys)] if len(cells) else [lead]


def layers(results: Results) -> list[Block]:
    """A folded table per method."""
    folded = [Folded(method, Table(cells)) for method, cells in layer_cells(results).items()]
    lead = "Mean sparsity over seeds and, in brackets, weights kept, for each requested sparsity."
    return [Text(lead), *folded] if folded else []


def cost(results: Results, plot: Block, keys: Keys) -> list[Block]:
    """Theory beside measurement, then seconds and bytes."""
    counted = results.runs["parameters_bytes"].notna().any()
    return [
        Text(f"{MEASURED} {statements.bfloat16(results)}"),
        plot,
        Table(benefit_cells(results), keys=keys),
        Table(cost_cells(results), keys=keys),
        Text(HELD if counted else NO_MEMORY),
        *budget_blocks(results, keys),
    ]


def reproduce(results: Results) -> list[Block]:
    """The command, the recipe and what the runs were made with."""
    return [
        Text("In this study's directory:"),
        Code("prunus compare recipe.yaml --out again"),
        Text("`recipe.yaml`:"),
        Code(results.recipe.strip(), "yaml"),
        Items(versions(results)),
    ]


def versions(results: Results) -> list[str]:
    """What the runs were made with, a line per distinct combination of versions, device and precision."""
    made: list[Mapping[str, str]] = [
        {**row["versions"], "device": row["device"], "precision": row["precision"]} for row in records(results.runs)
    ]
    return sorted({", ".join(f"{name} {value}" for name, value in row.items()) for row in made})
