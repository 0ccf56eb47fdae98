"""The learning rates of a retraining: one of the six schedules by name, or a schedule of one's own."""

import math
from dataclasses import dataclass
from difflib import get_close_matches

from prunus.retraining import RESTARTS, History, Over, Peak, Pretraining, Restart, allr, llr
from prunus.schedules import Schedule, linear

NAMES = (*RESTARTS, "allr")
BY_PEAK = ("llr", "allr")  # which look at the highest rate of pretraining alone


@dataclass(frozen=True)
class Rates:
    """How a retraining chooses its rates.

    ``schedule`` names one of ft, lrw, slr, clr, llr and allr, which look at how the network was trained, or is a
    schedule of absolute rates over a cycle. ``pretraining`` are the rates of the training before, step by step; where
    the dense phase is part of the same training it is their schedule, by default a line from the optimizer's rate to 0,
    as in BIMP (Zimmer et al. 2023). Of a training whose rates nobody recorded a `Peak` is enough for llr and allr.
    Retraining has ``factor`` times the rates that follow. ``over`` is `relative_drop`'s.
    """

    schedule: str | Schedule = "allr"
    pretraining: History | Schedule | None = None
    factor: float = 1.0
    over: Over = "all"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, str) and self.schedule not in NAMES:
            near = get_close_matches(self.schedule, NAMES, 1)
            raise ValueError(
                f"schedule must be one of {', '.join(NAMES)} or a schedule of rates, got {self.schedule!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
        if not 0.0 < self.factor < math.inf:
            raise ValueError(f"factor must be positive and finite, got {self.factor}; 1 keeps the rates as they were")
        if self.factor != 1.0 and not isinstance(self.schedule, str):
            raise ValueError(f"factor is of the rates before, and a schedule of rates has its own, got {self.factor}")

    def history(self, dense: int, rate: float) -> History | None:
        """The rates before the first pruning: of the ``dense`` steps, or of the training that came before this one.

        Raises ValueError where they are needed and not known.
        """
        if dense:
            if isinstance(self.pretraining, Pretraining | Peak):
                raise ValueError(
                    "a dense phase makes a history of its own, got that of another training as pretraining: "
                    f"{type(self.pretraining).__name__}; pass the schedule of the dense phase, or leave it out"
                )
            return Pretraining.of(self.pretraining or linear(0.0, initial=rate), dense)
        if isinstance(self.pretraining, Peak):
            return self._enough(self.pretraining)
        if isinstance(self.pretraining, Pretraining):
            return self.pretraining
        if isinstance(self.schedule, str):
            raise ValueError(
                f"{self.schedule} looks at the rates that the network was trained with, and they are not known; pass "
                "pretraining=Pretraining(rates), or Peak(rate), or a schedule of rates, or a dense phase, or start "
                "from a run"
            )
        return None

    def _enough(self, known: Peak) -> Peak:
        """``known``, unless the schedule needs more."""
        if isinstance(self.schedule, str) and self.schedule not in BY_PEAK:
            raise ValueError(
                f"{self.schedule} looks at the rate of every step of pretraining, and the highest alone is known; take "
                "llr or allr, or pass pretraining=Pretraining(rates)"
            )
        return known

    def check(self, history: History | None, length: int) -> None:
        """Raises ValueError where a cycle of ``length`` steps cannot have these rates."""
        if history is not None:
            self.cycle(history, length, 0.0, 0.5)

    def cycle(self, history: History | None, length: int, drop: float, fraction: float) -> Schedule:
        """The rates of one cycle, whose pruning removed ``fraction`` of the weights alive with a relative ``drop``."""
        if not isinstance(self.schedule, str):
            return self.schedule
        assert history is not None
        rates = history if self.factor == 1.0 else history.scaled(self.factor)
        if self.schedule == "llr":
            return llr(rates, length)
        if self.schedule in RESTARTS:
            assert isinstance(rates, Pretraining)
            return RESTARTS[self.schedule](rates, length)
        if fraction == 0.0:  # a network that was sparse enough: only the floor of the discount is left
            if math.isinf(rates.steps):
                raise ValueError(
                    "allr needs something to prune, or the length of pretraining, and the network has this sparsity "
                    "already; pass Peak(rate, steps), or take llr"
                )
            return Restart(rates.peak * min(1.0, length / rates.steps), length)
        return allr(rates, length, drop=drop, fraction=fraction)
