"""The learning rates of a retraining: one of the six schedules by name, or a schedule of one's own."""

from dataclasses import dataclass
from difflib import get_close_matches

from prunus.retraining import RESTARTS, Over, Pretraining, Restart, allr
from prunus.schedules import Schedule, linear

NAMES = (*RESTARTS, "allr")


@dataclass(frozen=True)
class Rates:
    """How a retraining chooses its rates.

    ``schedule`` names one of ft, lrw, slr, clr, llr and allr, which look at how the network was trained, or is a
    schedule of absolute rates over a cycle. ``pretraining`` are the rates of the training before, step by step; where
    the dense phase is part of the same training it is their schedule, by default a line from the optimizer's rate to 0,
    as in BIMP (Zimmer et al. 2023). ``over`` is `relative_drop`'s.
    """

    schedule: str | Schedule = "allr"
    pretraining: Pretraining | Schedule | None = None
    over: Over = "all"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, str) and self.schedule not in NAMES:
            near = get_close_matches(self.schedule, NAMES, 1)
            raise ValueError(
                f"schedule must be one of {', '.join(NAMES)} or a schedule of rates, got {self.schedule!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )

    def history(self, dense: int, rate: float) -> Pretraining | None:
        """The rates before the first pruning: of the ``dense`` steps, or of the training that came before this one.

        Raises ValueError where they are needed and not known.
        """
        if dense and not isinstance(self.pretraining, Pretraining):
            return Pretraining.of(self.pretraining or linear(0.0, initial=rate), dense)
        if isinstance(self.pretraining, Pretraining):
            return self.pretraining
        if isinstance(self.schedule, str):
            raise ValueError(
                f"{self.schedule} looks at the rates that the network was trained with, and they are not known; pass "
                "pretraining=Pretraining(rates), or a schedule of rates, or a dense phase, or start from a run"
            )
        return None

    def check(self, history: Pretraining | None, length: int) -> None:
        """Raises ValueError where a cycle of ``length`` steps cannot have these rates."""
        if history is not None:
            self.cycle(history, length, 0.0, 0.5)

    def cycle(self, history: Pretraining | None, length: int, drop: float, fraction: float) -> Schedule:
        """The rates of one cycle, whose pruning removed ``fraction`` of the weights alive with a relative ``drop``."""
        if not isinstance(self.schedule, str):
            return self.schedule
        assert history is not None
        if self.schedule in RESTARTS:
            return RESTARTS[self.schedule](history, length)
        if fraction == 0.0:  # a network that was sparse enough: only the floor of the discount is left
            return Restart(history.peak * min(1.0, length / len(history.rates)), length)
        return allr(history, length, drop=drop, fraction=fraction)
