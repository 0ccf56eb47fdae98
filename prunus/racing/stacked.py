"""Trials trained together: their networks are one stack of tensors, and a step is a step of all of them.

A step of many small networks costs little more than a step of one where the time goes into starting operations: on a
GPU, and for the smallest batches on a CPU. The numbers differ from those of trials apart by rounding alone.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from prunus.cadence import Once
from prunus.carriers import Masked
from prunus.masks import unwrap
from prunus.prepare import Prepared
from prunus.racing.entrant import Entrant, going
from prunus.racing.examination import Batches, Examination
from prunus.schedules import Schedule

SMALL = 8  # the largest batch for which a stack is faster on a CPU (benchmarks/stacked_trials.py)
Tensors = dict[str, Tensor]  # stacked: the networks are the first dimension


def worthwhile(entrants: Sequence[Entrant], batch_size: int) -> bool:
    """Whether the entrants are faster in a stack, and can be in one."""
    accelerated = entrants[0].prepared.device.type != "cpu"
    fast = len(entrants) > 1 and (accelerated or batch_size <= SMALL)
    return fast and all(stackable(entrant.prepared) for entrant in entrants) and _goes_forward(entrants[0].prepared)


def stackable(prepared: Prepared) -> bool:
    """Whether a stack computes what this training does.

    Plain SGD with or without momentum of all parameters, in float32; masks that never change after the start; no
    buffers.
    """
    model, training = unwrap(prepared.model), prepared.training
    optimizer, sparsifier = training.optimizer, prepared.sparsifier
    groups = optimizer.param_groups
    plain = len(groups) == 1 and not groups[0].get("weight_decay") and not groups[0].get("dampening")
    sgd = isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.SGD)
    still = sparsifier is None or (
        isinstance(sparsifier.method, Masked) and sparsifier.method.cadence == Once(0.0) and sparsifier.changes == 1
    )
    exact = next(model.parameters()).dtype == torch.float32 and prepared.precision.precision == "32-true"
    alone = training.accumulate == 1 and training.clip is None
    whole = all(parameter.requires_grad for parameter in model.parameters())
    return whole and plain and sgd and still and exact and alone and not list(model.buffers())


@dataclass
class Stacked:
    """Entrants that are trained together on the same batches."""

    entrants: list[Entrant]
    examination: Examination
    weights: Tensors = field(init=False)
    momenta: Tensors = field(init=False)
    masks: Tensors = field(init=False)

    def __post_init__(self) -> None:
        first = self.entrants[0].prepared
        self.model = copy.deepcopy(unwrap(first.model))
        self.stream, self.steps, self.loss = first.stream, first.training.steps, first.training.loss
        self.device = first.device
        self._gather_(self.entrants)
        self.taken = 0

    def _gather_(self, entrants: Sequence[Entrant]) -> None:
        """Stack these, whose networks have not been trained yet."""
        self.inside = list(entrants)
        of_each = [dict(unwrap(entrant.prepared.model).named_parameters()) for entrant in entrants]
        self.weights = {name: torch.stack([one[name].detach() for one in of_each]) for name in of_each[0]}
        self.momenta = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        sparsifiers = [entrant.prepared.sparsifier for entrant in entrants]
        masks = [one.masks for one in sparsifiers if one is not None]
        self.masks = {name: torch.stack([one[name] for one in masks]) for name in (masks[0] if masks else ())}
        groups = [entrant.prepared.training.optimizer.param_groups[0] for entrant in entrants]
        self.nesterov = bool(groups[0].get("nesterov"))
        self.momentum = torch.tensor([float(group.get("momentum", 0.0)) for group in groups], device=self.device)
        self.schedules: list[Schedule] = [_schedule(entrant.prepared) for entrant in entrants]

    def advance_(self, step: int) -> None:
        """Train those that go on up to ``step``, and look whether they have met the goal."""
        self._keep_(self._places())
        losses = torch.zeros(0)
        while self.taken < step:
            losses = self._step_()
        finite = torch.isfinite(losses).tolist()
        wrong = self.examination.of_each(self._wrong, len(self.inside))
        for entrant, feasible, count, error in zip(self.inside, finite, wrong, self.examination.errors, strict=True):
            entrant.error = error if feasible else 1.0
            entrant.told_(step, self.examination.goal, finite=feasible, wrong=count)

    def state_dict(self) -> dict[str, Any]:
        """The networks of those that go on."""
        self._keep_(self._places())
        return {
            "weights": self.weights,
            "momenta": self.momenta,
            "stream": self.stream.state_dict(),
            "taken": self.taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, once the entrants know which of them go on."""
        self._keep_(self._places())
        for ours, name in ((self.weights, "weights"), (self.momenta, "momenta")):
            ours.update({key: tensor.to(self.device) for key, tensor in state[name].items()})
        self.stream.load_state_dict(state["stream"])
        self.taken = state["taken"]

    def _places(self) -> list[int]:
        alive = {entrant.number for entrant in going(self.entrants)}
        return [place for place, entrant in enumerate(self.inside) if entrant.number in alive]

    def _keep_(self, places: list[int]) -> None:
        """Go on with the networks at ``places`` alone."""
        if len(places) == len(self.inside):
            return
        chosen = torch.tensor(places, device=self.device)
        self.inside = [self.inside[place] for place in places]
        self.schedules = [self.schedules[place] for place in places]
        self.momentum = self.momentum[chosen]
        for tensors in (self.weights, self.momenta, self.masks):
            tensors.update({name: tensor.index_select(0, chosen) for name, tensor in tensors.items()})

    def _step_(self) -> Tensor:
        """One step of all networks; the loss of each."""
        inputs, labels = next(self.stream)
        rates = torch.tensor([rate(self.taken / self.steps) for rate in self.schedules]).to(self.device)
        together = vmap(grad_and_value(self._loss), in_dims=(0, None, None))
        gradients, losses = together(self.weights, inputs, labels)
        for name, gradient in gradients.items():
            self._move_(name, gradient, rates)
        self.taken += 1
        found: Tensor = losses
        return found

    def _move_(self, name: str, gradient: Tensor, rates: Tensor) -> None:
        """torch.optim.SGD's step, in the order of its operations."""
        if name in self.masks:
            gradient = gradient * self.masks[name]
        shape = (-1, *[1] * (gradient.ndim - 1))
        momentum = self.momentum.view(shape)
        moved = self.momenta[name].mul_(momentum).add_(gradient)
        direction = gradient + momentum * moved if self.nesterov else moved
        self.weights[name].sub_(rates.view(shape) * direction)

    def _loss(self, weights: Tensors, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(functional_call(self.model, weights, (inputs,)), labels)

    @torch.no_grad()
    def _wrong(self, batches: Batches) -> Tensor:
        self.model.eval()
        answer = vmap(partial(functional_call, self.model), in_dims=(0, None))
        counts = [(answer(self.weights, (inputs,)).argmax(2) != labels).sum(1) for inputs, labels in batches]
        self.model.train()
        return torch.stack(counts).sum(0)


def _goes_forward(prepared: Prepared) -> bool:
    """Whether two copies of the network go forward as a stack: not where it draws numbers, or looks at its values."""
    model = unwrap(prepared.model)
    weights = {name: torch.stack([weight.detach()] * 2) for name, weight in model.named_parameters()}
    inputs = torch.zeros(1, *prepared.data.input_shape, device=prepared.device)
    with torch.no_grad():
        try:
            vmap(partial(functional_call, model), in_dims=(0, None))(weights, (inputs,))
        except RuntimeError:
            return False
    return True


def _schedule(prepared: Prepared) -> Schedule:
    rate = prepared.training.learning_rate
    assert rate is not None
    return rate
