"""Retrained: pruned once a cycle, and trained after each pruning with learning rates that restart."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.optim import LBFGS

from prunus.cadence import Once
from prunus.carriers.evolution import Evolution
from prunus.carriers.projection import gradients, project_all_
from prunus.carriers.rates import Rates
from prunus.carriers.site import Site, refuse_second_model
from prunus.cycles import Plan, lay_out
from prunus.masks import Masks, Tensors, project_, sparsity_of, unwrap
from prunus.retraining import History, Pretraining, relative_drop
from prunus.schedules import Constant, Schedule
from prunus.signals import Gradient
from prunus.updates import Prune, check_floor

Watch = Callable[[str], Mapping[str, float]]  # hears of "trained" and "pruned", and says what it measured


@dataclass
class Cycle:
    """One pruning, at clock ``step``, and the ``length`` steps of retraining after it.

    It removed ``fraction`` of the weights alive and left ``sparsity``; ``drop`` is the norm of what it removed relative
    to what there was, ``peak`` the highest rate of the retraining. ``measured`` is what the watch said around it.
    """

    step: int
    length: int
    sparsity: float
    fraction: float
    drop: float
    peak: float = 0.0
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Retrained:
    """Iterative pruning: after a dense phase, ``cycles`` times prune and retrain, each by an equal fraction.

    ``dense`` is the share of training before the first pruning, 0 for a network that is trained already. ``prune`` says
    by what and where, and its schedule the final sparsity. The method sets the learning rates itself, in the
    optimizer's hook: those of ``rates``. When the first retraining begins the optimizer starts afresh, as in the
    released code of Zimmer et al. 2023; its state is zero off the masks, so that no later pruning has to touch it.
    ``rewind`` is the moment of the dense phase, in [0, 1), that the weights left return to after each pruning (Renda et
    al. 2020); None, the default, lets them go on from their values. ``watch`` hears of each pruning; what it
    measures is in the ``record`` of the cycles.
    """

    prune: Prune
    cycles: int
    dense: float = 0.0
    rates: Rates = field(default_factory=Rates)
    rewind: float | None = None
    watch: Watch | None = None
    record: list[Cycle] = field(default_factory=list, init=False, repr=False)
    _evolution: Evolution = field(init=False, repr=False)
    _plan: Plan = field(init=False, repr=False)
    _ratios: list[float] = field(init=False, repr=False)
    _history: History | None = field(init=False, repr=False)
    _schedules: list[Schedule] = field(default_factory=list, init=False, repr=False)
    _rewound: Tensors = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.prune.signal, Gradient):
            raise ValueError(
                "pruning between two steps has no gradient of a step to look at; give a signal that makes its own, "
                "such as LossGradient(batches, loss)"
            )
        if not 0.0 <= self.dense < 1.0:
            raise ValueError(f"dense must be in [0, 1), got {self.dense}; what is left of training is for the cycles")
        if self.rewind is not None and not (0.0 <= self.rewind < 1.0 and self.dense > 0.0):
            raise ValueError(
                f"rewind must be in [0, 1) and needs a dense phase to return to, got {self.rewind} with a dense phase "
                f"of {self.dense}; for a trained network leave it out, and rewind the learning rates alone: lrw"
            )

    @property
    def masks(self) -> Masks:
        """The present masks."""
        return self._evolution.masks

    @property
    def changes(self) -> int:
        """How often they changed."""
        return self._evolution.changes

    def attach(self, site: Site) -> None:
        """Lay the cycles out; prune for the first time where there is no dense phase."""
        refuse_second_model(self)
        if isinstance(site.optimizer, LBFGS):
            raise ValueError(
                "this method sets the rate when gradients are ready, and LBFGS reads it before; use another optimizer"
            )
        self._evolution = Evolution(self.prune, Once(), site)
        check_floor(self._evolution.floor, self.prune.sparsity(1.0))
        self._plan = self._plan_(site)
        groups = [float(group.get("initial_lr", group["lr"])) for group in site.optimizer.param_groups]
        self._ratios = [rate / groups[0] if groups[0] else 1.0 for rate in groups]
        self._history = self.rates.history(self._plan.starts[0], groups[0])
        self.rates.check(self._history, max(self._plan.lengths))
        if site.start:
            project_all_(site, self.masks)
        self._advance_(0)

    def before_step(self, clock: int) -> None:
        """Set the learning rate of the step, whatever a loop may have set."""
        rate = self.rate(clock)
        for group, ratio in zip(self._evolution.site.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio

    def rate(self, clock: int) -> float:
        """The learning rate of the step after ``clock`` steps, of the first parameter group; so far as pruned."""
        place = sum(cycle.step <= clock for cycle in self.record) - 1
        if place < 0:
            assert isinstance(self._history, Pretraining)
            return self._history.rates[clock]
        cycle = self.record[place]
        return self._schedules[place]((clock - cycle.step) / cycle.length)

    def edit_gradients(self) -> None:
        """Zero the gradients off the masks."""
        project_(gradients(self._evolution.site.weights), self.masks)

    def after_step(self, clock: int) -> None:
        """Zero the weights off the masks; prune when a cycle begins."""
        project_(self._evolution.site.weights, self.masks)
        self._advance_(clock)

    def reads_dropped(self, clock: int) -> bool:
        """In no step: what is dropped stays dropped."""
        return False

    def finalize(self) -> None:
        """Prune now what is left to prune, if training ended before its time; otherwise nothing is left to do."""
        if len(self.record) < self.cycles:
            self._prune_(self.cycles - 1)

    def finalize_copy(self, model: nn.Module) -> None:
        """Zero in a copy of the model what the masks drop."""
        project_(dict(unwrap(model).named_parameters()), self.masks)

    def state_dict(self) -> dict[str, Tensors]:
        """Masks, what was measured at each pruning, and the weights to return to while they are needed."""
        cycles = {f"{place}.{key}": value for place, cycle in enumerate(self.record) for key, value in _flat(cycle)}
        numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in cycles.items()}
        return self._evolution.state_dict() | {"cycles": numbers, "rewound": dict(self._rewound)}

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take them back, and make the rates of the cycles anew."""
        self._evolution.load_state_dict(state)
        self.record, self._schedules = [], []
        cycles: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value in state["cycles"].items():
            number, _, key = name.partition(".")
            cycles[int(number)][key] = float(value)
        for place, numbers in sorted(cycles.items()):
            cycle = self._begin_(place, numbers.pop("drop"), numbers.pop("sparsity"))
            cycle.measured = {name.removeprefix("measured."): value for name, value in numbers.items()}
        device = next(iter(self.masks.values())).device
        self._rewound = {name: value.to(device).clone() for name, value in state["rewound"].items()}

    def _plan_(self, site: Site) -> Plan:
        total = sum(mask.numel() for mask in self.masks.values())
        alive = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        dense = max(1, round(self.dense * site.steps)) if self.dense else 0
        final = self.prune.sparsity(1.0)
        return lay_out(total, alive, final, steps=site.steps, dense=dense, cycles=self.cycles)

    def _advance_(self, clock: int) -> None:
        site = self._evolution.site
        if self.rewind is not None and clock == round(self.rewind * self._plan.starts[0]):
            self._rewound = {name: value.clone() for name, value in unwrap(site.model).state_dict().items()}
        for place, start in enumerate(self._plan.starts):
            if start == clock:
                self._prune_(place)

    def _prune_(self, place: int) -> None:
        site = self._evolution.site
        measured = self._measured("trained")
        if not self.record or self._rewound:
            site.optimizer.state.clear()
        prune = replace(self.prune, sparsity=Constant(self._plan.sparsities[place]))
        self._evolution.run_(prune, (place + 1) / self.cycles, f"cycle {place}")
        before = {name: parameter.detach() for name, parameter in unwrap(site.model).named_parameters()}
        drop = relative_drop(before, self.masks, self.rates.over)
        if self._rewound:
            unwrap(site.model).load_state_dict(self._rewound)
        if place == self.cycles - 1:
            self._rewound = {}
        project_all_(site, self.masks)
        cycle = self._begin_(place, drop, sparsity_of(self.masks.values()))
        cycle.measured = measured | self._measured("pruned")

    def _measured(self, moment: str) -> dict[str, float]:
        return dict(self.watch(moment)) if self.watch is not None else {}

    def _begin_(self, place: int, drop: float, sparsity: float) -> Cycle:
        start, length = self._plan.starts[place], self._plan.lengths[place]
        schedule = self.rates.cycle(self._history, length, drop, self._plan.fraction)
        peak = max(schedule(step / length) for step in range(length))
        self._schedules.append(schedule)
        self.record.append(Cycle(start, length, sparsity, self._plan.fraction, drop, peak))
        return self.record[-1]


def _flat(cycle: Cycle) -> list[tuple[str, float]]:
    measured = [(f"measured.{name}", value) for name, value in cycle.measured.items()]
    return [("drop", cycle.drop), ("sparsity", cycle.sparsity), *measured]
