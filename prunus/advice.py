"""Advice: which schedule, how many cycles and which peak rate to retrain with, by trying them on validation images."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from prunus.carriers.rates import NAMES, Rates
from prunus.materials import load_data, steps_of
from prunus.plugins import modules
from prunus.prepare import rates_before
from prunus.recipes import Recipe
from prunus.retraining import History
from prunus.schedules import Schedule
from prunus.tables import Builder

CYCLES = (2, 3)  # tried beside 1
FACTORS = (0.3, 3.0)  # of the rates of pretraining, tried beside 1
TRAININGS = len(NAMES) + len(CYCLES) + len(FACTORS)  # which try everything


@dataclass(frozen=True)
class Choice:
    """What a retraining is free to choose: its schedule, its cycles, and the factor on the rates of pretraining."""

    schedule: str
    cycles: int = 1
    factor: float = 1.0

    def __str__(self) -> str:
        return f"{self.schedule}, {self.cycles} cycle{'s' * (self.cycles > 1)}, rates x{self.factor:g}"

    def of(self, recipe: Recipe) -> Recipe:
        """``recipe``, whose method is imp, with this choice."""
        # a factor of 1 is not written, so that the run is that of `prunus retrain` without a search
        scaled = {} if self.factor == 1.0 else {"factor": self.factor}
        given = {name: value for name, value in recipe.method["imp"].items() if name != "factor"}
        arguments = given | {"schedule": self.schedule, "cycles": self.cycles} | scaled
        return recipe.model_copy(update={"method": {"imp": arguments}})


@dataclass(frozen=True)
class Tried:
    """A choice, the run that tried it, and what came of it on ``n`` validation images; None where it diverged."""

    choice: Choice
    run: str
    accuracy: float | None
    n: int
    peak: float | None

    @property
    def rank(self) -> float:
        """Its accuracy, below all others where it diverged."""
        return -1.0 if self.accuracy is None else self.accuracy


@dataclass
class Advice:
    """Everything tried, in order, and the schedules that this network's history rules out, each with the reason."""

    tried: list[Tried] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Tried:
        """The most accurate; the earlier of equals. Raises ValueError where every training diverged."""
        best = max(self.tried, key=lambda tried: tried.rank)
        if best.accuracy is None:
            raise ValueError(f"advice needs a retraining that ends, all {len(self.tried)} diverged; lower the peak")
        return best

    @property
    def next_best(self) -> Tried | None:
        """The most accurate of the others; None where there is no other that ended."""
        others = [tried for tried in self.tried if tried is not self.best and tried.accuracy is not None]
        return max(others, key=lambda tried: tried.rank, default=None)

    def margin(self) -> "Margin | None":
        """By how much the best is better than the next; None where it stands alone."""
        best, second = self.best, self.next_best
        if second is None:
            return None
        p = (best.rank + second.rank) / 2
        return Margin(best.rank - second.rank, best.n, math.sqrt(p * (1.0 - p) / best.n))

    def why(self) -> str:
        """The choice and its reason in words."""
        best, second, margin = self.best, self.next_best, self.margin()
        said = f"chosen: {best.choice}; {100 * best.rank:.2f} % on {best.n} validation images"
        if second is None or margin is None:
            return f"{said}; nothing to compare it with"
        return f"{said}, {margin} above the next, {second.choice}"

    def table(self) -> str:
        """All that was tried, best first, each retrained for as many steps."""
        best = self.best
        lines = [f"{'schedule':<8}  cycles  rates  peak rate  validation  to the chosen"]
        for tried in sorted(self.tried, key=lambda one: -one.rank):
            choice = tried.choice
            told = f"{choice.schedule:<8}  {choice.cycles:>6}  {f'x{choice.factor:g}':>5}  "
            if tried.accuracy is None:
                lines.append(f"{told}{'':>9}  {'diverged':>10}")
            else:
                away = "chosen" if tried is best else f"{100 * (tried.accuracy - best.rank):+.2f} points"
                lines.append(f"{told}{tried.peak:>9.4f}  {100 * tried.accuracy:>8.2f} %  {away:>13}")
        return "\n".join([*lines, *(f"{name} left out: {reason}" for name, reason in self.left_out.items())])

    def plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        margin = self.margin()
        return {
            "chosen": asdict(self.best),
            "margin": None if margin is None else asdict(margin) | {"shown": margin.shown},
            "why": self.why(),
            "tried": [asdict(tried) for tried in self.tried],
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class Margin:
    """A difference in accuracy on ``n`` images, and the binomial standard error of one accuracy there."""

    accuracy: float
    n: int
    standard_error: float

    @property
    def shown(self) -> bool:
        """Whether it is larger than that error."""
        return self.accuracy > self.standard_error

    def __str__(self) -> str:
        verdict = "more than" if self.shown else "no difference shown: within"
        return (
            f"{100 * self.accuracy:.2f} points ({round(self.accuracy * self.n)} images; {verdict} one standard error "
            f"of {100 * self.standard_error:.2f})"
        )


def advise(
    recipe: Recipe, one: Callable[[Recipe], dict[str, Any] | None], *, trainings: int, final: Recipe | None = None
) -> Advice:
    """Try up to ``trainings`` choices for ``recipe``: schedules, then the best one's cycles, then its peak rates.

    ``one`` trains a recipe and returns its result, None where it diverged. ``final`` is the recipe of the retraining
    that is to follow where that is longer: a schedule that it cannot have is left out. Raises ValueError where no
    schedule is possible.
    """

    def tried(choice: Choice) -> Tried:
        run = choice.of(recipe)
        result = one(run)
        if result is None:
            return Tried(choice, run.name(), None, 0, None)
        quality, peak = result["validation"], max(cycle["peak"] for cycle in result["cycles"])
        return Tried(choice, run.name(), quality["accuracy"], quality["n"], peak)

    whole, data = final or recipe, load_data(recipe)
    pretraining = rates_before(whole, data, Builder(plugins=modules(recipe.plugins)))
    left_out = impossible(pretraining, steps_of(whole, data))
    return ordered(tried, left_out, steps_of(recipe, data), trainings)


def ordered(tried: Callable[[Choice], Tried], left_out: dict[str, str], steps: int, trainings: int) -> Advice:
    """Try schedules, then cycles of the best, at most one a step, then factors on its rates, until all are spent.

    Raises ValueError where every schedule is left out.
    """
    advice = Advice(left_out=left_out)
    first = [Choice(name) for name in sorted(NAMES, key=lambda name: name != "allr") if name not in left_out]
    if not first:
        raise ValueError(left_out["allr"])
    stages: list[Callable[[Choice], list[Choice]]] = [
        lambda best: [Choice(best.schedule, cycles) for cycles in CYCLES if cycles <= steps],
        lambda best: [Choice(best.schedule, best.cycles, factor) for factor in FACTORS],
    ]
    if trainings < 1:
        raise ValueError(f"trainings must be at least 1, got {trainings}")
    advice.tried += [tried(choice) for choice in first[:trainings]]
    for stage in stages:
        choices = stage(advice.best.choice)
        advice.tried += [tried(choice) for choice in choices[: trainings - len(advice.tried)]]
    return advice


def impossible(pretraining: History | Schedule | None, steps: int) -> dict[str, str]:
    """The schedules that cannot retrain a network of this history for so long, each with the reason."""
    reasons = {}
    for name in NAMES:
        rates = Rates(name, pretraining)
        try:
            rates.check(rates.history(0, 1.0), steps)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons
