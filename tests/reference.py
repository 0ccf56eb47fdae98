"""Naive twins of all methods: loops, sorts and formulas straight from the papers, on one small network.

They share nothing with ``prunus`` but the names of its random draws. A twin takes a run and the method's own arguments,
trains ``run.values`` for ``run.steps`` steps and leaves there the weights in use and their masks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from prunus.randomness import seeded

Tensors = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Pretrained(Protocol):
    """The rates of the training before, step by step."""

    rates: tuple[float, ...]


RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01
WEIGHTS = ("0.weight", "2.weight", "4.weight")


def outputs(values: Tensors, hidden: Tensor) -> Tensor:
    """Three linear layers with ReLU between them."""
    for layer in (0, 2, 4):
        hidden = hidden @ values[f"{layer}.weight"].T + values[f"{layer}.bias"]
        hidden = hidden.relu() if layer < 4 else hidden
    return hidden


def loss_of(values: Tensors, batch: Batch) -> Tensor:
    """The mean squared error."""
    return ((outputs(values, batch[0]) - batch[1]) ** 2).mean()


@dataclass
class Run:
    """Parameters trained by SGD with momentum and weight decay on one batch a step."""

    values: Tensors
    batches: Callable[[int], Batch]
    steps: int
    seed: int
    masks: Tensors = field(init=False)
    momentum: Tensors = field(default_factory=dict)
    rate: float = RATE

    def __post_init__(self) -> None:
        self.masks = {name: torch.ones_like(self.values[name]).bool() for name in WEIGHTS}

    def weights(self) -> Tensors:
        return {name: self.values[name] for name in WEIGHTS}

    def gradients(self, clock: int, used: Tensors | None = None) -> Tensors:
        """dL/dp of every parameter on the batch of this step, taken at ``used`` in place of the stored weights."""
        leaves = {n: v.clone().requires_grad_() for n, v in {**self.values, **(used or {})}.items()}
        return dict(
            zip(leaves, torch.autograd.grad(loss_of(leaves, self.batches(clock)), leaves.values()), strict=True)
        )

    def descend(self, values: Tensors, gradients: Tensors, decay: float = DECAY) -> None:
        for name, gradient in gradients.items():
            gradient = gradient + decay * values[name]
            self.momentum[name] = MOMENTUM * self.momentum[name] + gradient if name in self.momentum else gradient
            values[name] = values[name] - self.rate * self.momentum[name]

    def draws(self, moment: str) -> Generator:
        return seeded(self.seed, "masks", moment)

    def project(self) -> None:
        for name, mask in self.masks.items():
            self.values[name] = self.values[name] * mask
            if name in self.momentum:
                self.momentum[name] = self.momentum[name] * mask


def kept(n: int, sparsity: float) -> int:
    """The project's rounding: half of a weight to drop is dropped, one weight always stays."""
    return max(1, n - int(sparsity * n + 0.5))


def top(scores: Tensors, count: int) -> Tensors:
    """Masks of the ``count`` highest of all scores; ties to the earlier entry."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[torch.argsort(flat, descending=True, stable=True)[:count]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def top_each(scores: Tensors, counts: dict[str, int]) -> Tensors:
    return {name: top({name: score}, counts[name])[name] for name, score in scores.items()}


def where(masks: Tensors, scores: Tensors) -> Tensors:
    """The scores where the masks keep, minus infinity elsewhere."""
    return {name: torch.where(masks[name], score, -math.inf) for name, score in scores.items()}


def outside(masks: Tensors, scores: Tensors) -> Tensors:
    return where({name: ~mask for name, mask in masks.items()}, scores)


def absolute(tensors: Tensors) -> Tensors:
    return {name: tensors[name].abs() for name in WEIGHTS}


def uniform_draws(run: Run, generator: Generator) -> Tensors:
    return {name: torch.rand(run.values[name].shape, generator=generator) for name in WEIGHTS}


def global_count(run: Run, sparsity: float) -> int:
    return kept(sum(run.values[name].numel() for name in WEIGHTS), sparsity)


def uniform_counts(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    return {name: kept(math.prod(shape), sparsity) for name, shape in shapes.items()}


def erk_counts(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Density in proportion to sum(shape) / prod(shape); a layer that would exceed 1 is dense and the rest share."""
    dense: list[str] = []
    while True:
        free = {name: shape for name, shape in shapes.items() if name not in dense}
        places = (1 - sparsity) * sum(map(math.prod, shapes.values())) - sum(math.prod(shapes[name]) for name in dense)
        scale = places / sum(sum(shape) for shape in free.values())
        density = {name: scale * sum(shape) / math.prod(shape) for name, shape in free.items()}
        if max(density.values()) <= 1:
            break
        dense.append(max(density, key=lambda name: density[name]))
    return {n: kept(math.prod(s), 1 - density[n]) if n in density else math.prod(s) for n, s in shapes.items()}


def shapes_of(run: Run) -> dict[str, tuple[int, ...]]:
    return {name: tuple(run.values[name].shape) for name in WEIGHTS}


def due(run: Run, every: int, until: float, first: int = 0) -> dict[int, float]:
    """Progress by clock: every so many steps, and on the last step of the window."""
    last = round(until * run.steps)
    return {clock: clock / last for clock in range(first, last + 1) if clock % every == 0 or clock == last}


def cubic(progress: float, final: float, initial: float = 0.0) -> float:
    return final + (initial - final) * (1 - min(progress, 1.0)) ** 3


def cosine(progress: float, initial: float, final: float = 0.0) -> float:
    return final + (initial - final) * (1 + math.cos(math.pi * progress)) / 2


def masked(run: Run, rule: Callable[[int], Tensors | None]) -> None:
    """Masked SGD; ``rule`` sees the weights after so many steps and may give new masks."""
    for clock in range(run.steps + 1):
        run.masks = rule(clock) or run.masks
        run.project()
        if clock < run.steps:
            step_on_masks(run, run.gradients(clock))


def masked_by_gradient(run: Run, rule: Callable[[int, Tensors], Tensors | None]) -> None:
    """The same for a rule that reads the dense gradient, before the step in which it is taken."""
    for clock in range(run.steps):
        gradients = run.gradients(clock)
        run.masks = rule(clock, gradients) or run.masks
        run.project()
        step_on_masks(run, gradients)


def step_on_masks(run: Run, gradients: Tensors) -> None:
    run.descend(run.values, {n: g * run.masks[n] if n in run.masks else g for n, g in gradients.items()})


def drop(run: Run, masks: Tensors, fraction: float, rounding: Callable[[float], int] = math.floor) -> Tensors:
    """Without the smallest of the kept, at most as many as there are free places; one stays."""
    kept_now = {name: int(mask.sum()) for name, mask in masks.items()}
    gone = {n: min(rounding(fraction * k), masks[n].numel() - k, k - 1) for n, k in kept_now.items()}
    return top_each(where(masks, absolute(run.values)), {name: k - gone[name] for name, k in kept_now.items()})


def grow(masks: Tensors, scores: Tensors, counts: dict[str, int]) -> Tensors:
    grown = top_each(outside(masks, scores), counts)
    return {name: masks[name] | grown[name] for name in masks}


def difference(before: Tensors, after: Tensors) -> dict[str, int]:
    return {name: int(before[name].sum()) - int(after[name].sum()) for name in before}


def random(run: Run, sparsity: float) -> None:
    counts = erk_counts(shapes_of(run), sparsity)
    masked(run, lambda clock: None if clock else top_each(uniform_draws(run, run.draws("0.0")), counts))


def magnitude(run: Run, sparsity: float) -> None:
    count = global_count(run, sparsity)
    masked(run, lambda clock: None if clock else top(absolute(run.values), count))


def one_shot(run: Run, sparsity: float) -> None:
    count = global_count(run, sparsity)
    masked(run, lambda clock: top(absolute(run.values), count) if clock == run.steps // 2 else None)


def imp(
    run: Run, sparsity: float, cycles: int, pretraining: Pretrained, schedule: str = "allr", over: str = "all"
) -> None:
    """Prune and retrain by the rates of pretraining, given or of ALLR."""
    retrain(run, sparsity, 0, cycles, list(pretraining.rates), schedule, over)


def bimp(run: Run, sparsity: float, dense: float = 2 / 3, cycles: int = 3) -> None:
    """Rates on a line to 0 in the dense phase, then cycles by ALLR."""
    steps = round(dense * run.steps)
    retrain(run, sparsity, steps, cycles, [RATE * (1 - step / steps) for step in range(steps)], "allr", "all")


def retrain(run: Run, sparsity: float, dense: int, cycles: int, rates: list[float], schedule: str, over: str) -> None:
    for clock in range(dense):
        run.rate = rates[clock]
        step_on_masks(run, run.gradients(clock))
    share, total = 1 - (1 - sparsity) ** (1 / cycles), sum(run.values[name].numel() for name in WEIGHTS)
    alive, clock = total, dense
    run.momentum = {}
    for cycle in range(cycles):
        last = cycle == cycles - 1
        alive = kept(total, sparsity) if last else alive - round(share * alive)
        length = (run.steps - dense) // cycles if not last else run.steps - clock
        before = norm(run.values if over == "all" else run.weights())
        run.masks = top(where(run.masks, absolute(run.values)), alive)
        drop = norm({name: run.values[name] * ~mask for name, mask in run.masks.items()}) / before
        run.project()
        for step in range(length):
            run.rate = retraining_rate(schedule, step, length, rates, drop / math.sqrt(share))
            step_on_masks(run, run.gradients(clock))
            run.project()
            clock += 1


def retraining_rate(schedule: str, step: int, length: int, rates: list[float], drop: float) -> float:
    if schedule == "ft":
        return min(rates)
    rise = length // 10
    peak = max(rates) * (min(1.0, max(drop, length / len(rates))) if schedule == "allr" else 1.0)
    if step < rise:
        return peak * (1 - math.cos(math.pi * step / rise)) / 2
    return peak * (1 - (step - rise) / (length - rise))


def norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors.values()))


def snip(run: Run, sparsity: float, batches: list[Batch] | None = None, loss: Loss | None = None) -> None:
    """|w dL/dw| of the first batch, or of stated batches, where the absolute value comes after the sum."""
    if batches and loss:
        return snip_on_batches(run, sparsity, batches, loss)

    def rule(clock: int, gradients: Tensors) -> Tensors | None:
        saliency = {name: (run.values[name] * gradients[name]).abs() for name in WEIGHTS}
        return None if clock else top(saliency, global_count(run, sparsity))

    return masked_by_gradient(run, rule)


def snip_on_batches(run: Run, sparsity: float, batches: list[Batch], loss: Loss) -> None:
    leaves = {name: value.clone().requires_grad_() for name, value in run.values.items()}
    total = sum(loss(outputs(leaves, inputs), targets) for inputs, targets in batches)
    gradients = torch.autograd.grad(total, [leaves[name] for name in WEIGHTS])
    saliency = {n: (run.values[n] * g).abs() for n, g in zip(WEIGHTS, gradients, strict=True)}
    masked(run, lambda clock: None if clock else top(saliency, global_count(run, sparsity)))


def grasp(run: Run, sparsity: float, batches: list[Batch], loss: Loss, temperature: float = 200.0) -> None:
    """Signed w * Hg, by the whole Hessian matrix; the lowest go."""
    sizes = [run.values[name].numel() for name in WEIGHTS]

    def total(flat: Tensor) -> Tensor:
        parts = {n: part.view(run.values[n].shape) for n, part in zip(WEIGHTS, flat.split(sizes), strict=True)}
        return sum(loss(outputs({**run.values, **parts}, x) / temperature, y) for x, y in batches)

    flat = torch.cat([run.values[name].flatten() for name in WEIGHTS])
    slope = torch.autograd.functional.jacobian(total, flat)
    score = flat * (torch.autograd.functional.hessian(total, flat) @ slope)
    scores = {n: part.view(run.values[n].shape) for n, part in zip(WEIGHTS, score.split(sizes), strict=True)}
    masked(run, lambda clock: None if clock else top(scores, global_count(run, sparsity)))


def synflow(run: Run, sparsity: float, input_shape: tuple[int, ...], rounds: int = 100) -> None:
    """R = 1' |W3| (|W2| (|W1| 1 + |b1|) + |b2|) + ...; a weight's flow is (what leaves it) |w| (what reaches it)."""
    for number in range(1, rounds + 1):
        one, two, three = (run.values[name].abs() for name in WEIGHTS)
        reached = [torch.ones(input_shape, dtype=one.dtype)]
        for layer, weight in ((0, one), (2, two)):
            reached.append(weight @ reached[-1] + run.values[f"{layer}.bias"].abs())
        leaving = [three.sum(0) @ two, three.sum(0), torch.ones(three.shape[0], dtype=one.dtype)]
        flow = {n: a[:, None] * run.values[n].abs() * b for n, a, b in zip(WEIGHTS, leaving, reached, strict=True)}
        count = global_count(run, 1 - (1 - sparsity) ** (number / rounds))
        run.masks = top(where(run.masks, flow), count)
        run.project()
    masked(run, lambda clock: None)


def gmp(run: Run, sparsity: float, update_every: int, until: float = 0.75, recover: bool = False) -> None:
    if recover:
        return gmp_recovering(run, sparsity, update_every, until)
    times = due(run, update_every, until)

    def rule(clock: int) -> Tensors | None:
        if clock not in times:
            return None
        return top(where(run.masks, absolute(run.values)), global_count(run, cubic(times[clock], sparsity)))

    return masked(run, rule)


def gmp_recovering(run: Run, sparsity: float, update_every: int, until: float) -> None:
    """The mask sits before stored weights, which only decay where it drops; momentum is masked at each pruning."""
    times = due(run, update_every, until)
    for clock in range(run.steps + 1):
        if clock in times:
            run.masks = top(absolute(run.values), global_count(run, cubic(times[clock], sparsity)))
            run.momentum.update({n: b * run.masks[n] for n, b in run.momentum.items() if n in WEIGHTS})
        used = {name: run.values[name] * run.masks[name] for name in WEIGHTS}
        if clock < run.steps:
            step_on_masks(run, run.gradients(clock, used))
    run.values.update(used)


def rescaled(run: Run) -> None:
    """The kept weights of every layer by the square root of all over kept."""
    for name, mask in run.masks.items():
        run.values[name] = run.values[name] * mask * math.sqrt(mask.numel() / int(mask.sum()))


def set_(
    run: Run,
    sparsity: float,
    update_every: int,
    until: float = 0.75,
    drop_fraction: float = 0.3,
    drop_schedule: str = "constant",
    rescale: bool = False,
) -> None:
    times = due(run, update_every, until, first=1)
    run.masks = top_each(uniform_draws(run, run.draws("start")), erk_counts(shapes_of(run), sparsity))
    run.project()
    if rescale:
        rescaled(run)

    def rule(clock: int) -> Tensors | None:
        if clock not in times:
            return None
        left = drop(run, run.masks, drop_fraction * (1 - times[clock] if drop_schedule == "linear" else 1))
        return grow(left, uniform_draws(run, run.draws(f"{clock}.0")), difference(run.masks, left))

    masked(run, rule)


def rigl(run: Run, sparsity: float, update_every: int, until: float = 0.75, drop_fraction: float = 0.3) -> None:
    times = due(run, update_every, until, first=1)
    run.masks = top_each(uniform_draws(run, run.draws("start")), erk_counts(shapes_of(run), sparsity))
    run.project()

    def rule(clock: int, gradients: Tensors) -> Tensors | None:
        if clock not in times:
            return None
        left = drop(run, run.masks, cosine(times[clock], drop_fraction))
        return grow(left, absolute(gradients), difference(run.masks, left))

    masked_by_gradient(run, rule)


def itop(run: Run, sparsity: float, update_every: int, drop_fraction: float = 0.5, **growth: str) -> None:
    """The ceiling of a cosine from one half to 0.005, at every so many steps but the last."""
    run.masks = top_each(uniform_draws(run, run.draws("start")), erk_counts(shapes_of(run), sparsity))
    run.project()

    def rule(clock: int, gradients: Tensors | None = None) -> Tensors | None:
        if clock == 0 or clock % update_every or clock == run.steps:
            return None
        left = drop(run, run.masks, cosine(clock / run.steps, drop_fraction, 0.005), math.ceil)
        scores = uniform_draws(run, run.draws(f"{clock}.0")) if gradients is None else absolute(gradients)
        return grow(left, scores, difference(run.masks, left))

    (masked_by_gradient if growth.get("grow") == "gradient" else masked)(run, rule)


def snfs(run: Run, sparsity: float, update_every: int, until: float = 1.0, drop_fraction: float = 0.5) -> None:
    """Grow by momentum of the dense gradient; layers share all growth by their mean momentum over kept weights."""
    times = due(run, update_every, until, first=1)
    if until == 1.0:  # there are no gradients after the last step
        times[run.steps - 1] = 1.0
    run.masks = top_each(uniform_draws(run, run.draws("start")), uniform_counts(shapes_of(run), sparsity))
    run.project()
    trend = {name: torch.zeros_like(run.values[name]) for name in WEIGHTS}

    def rule(clock: int, gradients: Tensors) -> Tensors | None:
        trend.update({name: 0.9 * trend[name] + gradients[name] for name in WEIGHTS})
        if clock not in times:
            return None
        left = drop(run, run.masks, cosine(times[clock], drop_fraction, 0.005), math.ceil)
        gone = sum(difference(run.masks, left).values())
        means = {name: float(trend[name][left[name]].abs().mean()) for name in WEIGHTS}
        room = {name: int(0.99 * int((~left[name]).sum())) for name in WEIGHTS}
        counts = {n: min(room[n], round(gone * means[n] / sum(means.values()))) for n in WEIGHTS}
        for name in sorted(WEIGHTS, key=lambda name: -means[name]):
            counts[name] = max(0, min(room[name], counts[name] + gone - sum(counts.values())))
        return grow(left, absolute(trend), counts)

    masked_by_gradient(run, rule)


def random_regrowth(
    run: Run,
    update_every: int,
    schedule: Callable[[float], float],
    by_magnitude: bool,
    mask_init: str = "",
    turnover: float = 0.0,
    rescale: bool = False,
) -> None:
    """RP-RR and MP-RR: one sparsity in all layers along a schedule; only the difference leaves or comes.

    With ``turnover`` that fraction of each layer goes before, by the same criterion, and as many come at random.
    """
    decisions = run.steps // update_every
    times = {number * update_every: number / decisions for number in range(decisions)}
    times[(decisions - 1) * update_every] = 1.0

    def rule(clock: int) -> Tensors | None:
        if clock not in times:
            return None
        generator = run.draws(f"{clock}.0")
        by_size = by_magnitude if clock or not mask_init else mask_init == "magnitude"
        masks = turned_over(run, turnover, by_magnitude, generator) if clock else dict(run.masks)
        for name, count in uniform_counts(shapes_of(run), schedule(times[clock])).items():
            before = int(masks[name].sum())
            if count > before:
                draw = {name: torch.rand(masks[name].shape, generator=generator)}
                masks[name] = grow({name: masks[name]}, draw, {name: count - before})[name]
            elif count < before:
                draw = None if by_size else torch.rand(masks[name].shape, generator=generator)
                scores = {name: run.values[name].abs() if draw is None else draw}
                masks[name] = top(where({name: masks[name]}, scores), count)[name]
        if rescale and clock == 0:
            run.masks = masks
            rescaled(run)
        return masks

    masked(run, rule)


def turned_over(run: Run, fraction: float, by_magnitude: bool, generator: Generator) -> Tensors:
    """The masks without the floor of a fraction, and then with as many of what is off."""
    gone = {name: min(int(fraction * int(m.sum())), int((~m).sum())) for name, m in run.masks.items()}
    if not any(gone.values()):
        return dict(run.masks)
    scores = absolute(run.values) if by_magnitude else uniform_draws(run, generator)
    left = top_each(where(run.masks, scores), {name: int(m.sum()) - gone[name] for name, m in run.masks.items()})
    return grow(left, uniform_draws(run, generator), gone)


def rp_rr(run: Run, sparsity: float, update_every: int, schedule: Callable[[float], float], **options: Any) -> None:
    random_regrowth(run, update_every, schedule, by_magnitude=False, **options)


def mp_rr(run: Run, sparsity: float, update_every: int, schedule: Callable[[float], float], **options: Any) -> None:
    random_regrowth(run, update_every, schedule, by_magnitude=True, **options)


def granet(run: Run, sparsity: float, update_every: int, until: float = 0.75) -> None:
    """From half sparse along a cubic over all layers; after each pruning a cosine of one half is dropped and grown."""
    times = due(run, update_every, until, first=1)
    run.masks = top_each(uniform_draws(run, run.draws("start")), erk_counts(shapes_of(run), 0.5))
    run.project()

    def rule(clock: int, gradients: Tensors) -> Tensors | None:
        if clock not in times:
            return None
        count = global_count(run, cubic(times[clock], sparsity, 0.5))
        pruned = {n: m & run.masks[n] for n, m in top(where(run.masks, absolute(run.values)), count).items()}
        left = drop(run, pruned, cosine(times[clock], 0.5))
        return grow(left, absolute(gradients), difference(pruned, left))

    masked_by_gradient(run, rule)


def straight_through(run: Run, count: Callable[[int], int | None]) -> None:
    """SGD on dense weights with the whole gradient at the masked ones; any weight may return when masks are remade."""
    for clock in range(run.steps + 1):
        if (places := count(clock)) is not None:
            run.masks = top(absolute(run.values), places)
        used = {name: run.values[name] * run.masks[name] for name in WEIGHTS}
        if clock < run.steps:
            run.descend(run.values, run.gradients(clock, used))
    run.values.update(used)


def dpf(run: Run, sparsity: float, update_every: int, until: float = 0.75) -> None:
    """The cubic ends at ``until``; masks are remade to the end and once more there."""
    times = due(run, update_every, 1.0)

    def count(clock: int) -> int | None:
        return global_count(run, cubic(times[clock] / until, sparsity)) if clock in times else None

    straight_through(run, count)


def dnw(run: Run, sparsity: float) -> None:
    straight_through(run, lambda clock: global_count(run, sparsity))


def str_(run: Run, sparsity: float, initial: float, decay: float = DECAY) -> None:
    """sign(w) relu(|w| - sigmoid(t)); weight decay on t too."""
    logits = {name: torch.tensor(initial, dtype=torch.float64) for name in WEIGHTS}
    for clock in range(run.steps + 1):
        cut = {name: 1 / (1 + torch.exp(-logits[name])) for name in WEIGHTS}
        run.masks = {name: run.values[name].abs() > cut[name] for name in WEIGHTS}
        signs = {name: torch.sign(run.values[name]) * run.masks[name] for name in WEIGHTS}
        used = {name: signs[name] * (run.values[name].abs() - cut[name]) for name in WEIGHTS}
        if clock < run.steps:
            g = run.gradients(clock, used)
            pull = {n: -cut[n] * (1 - cut[n]) * (g[n] * signs[n]).sum() for n in WEIGHTS}
            run.descend(run.values, {n: v * run.masks[n] if n in WEIGHTS else v for n, v in g.items()})
            descend_thresholds(run, logits, pull, decay)
    run.values.update(used)


def dst(run: Run, sparsity: float, penalty: float) -> None:
    """w 1[|w| > t_row] with the long-tailed derivative; thresholds of a layer that keeps 1 % or less start again."""
    thresholds = {name: torch.zeros(run.values[name].shape[0], dtype=torch.float64) for name in WEIGHTS}
    for clock in range(run.steps + 1):
        excess = {name: run.values[name].abs() - thresholds[name][:, None] for name in WEIGHTS}
        for name in WEIGHTS:
            if (excess[name] > 0).double().mean() <= 0.01:
                thresholds[name], excess[name] = thresholds[name] * 0, run.values[name].abs()
        run.masks = {name: excess[name] > 0 for name in WEIGHTS}
        used = {name: run.values[name] * run.masks[name] for name in WEIGHTS}
        if clock < run.steps:
            g = run.gradients(clock, used)
            size = {name: excess[name].abs() for name in WEIGHTS}
            slope = {n: (2 - 4 * x) * (x <= 0.4) + 0.4 * ((x > 0.4) & (x <= 1)) for n, x in size.items()}
            bend = {name: g[name] * run.values[name] * slope[name] for name in WEIGHTS}
            pull = {n: -bend[n].sum(1) - penalty * torch.exp(-thresholds[n]) for n in WEIGHTS}
            g.update({n: g[n] * run.masks[n] + bend[n] * torch.sign(run.values[n]) for n in WEIGHTS})
            run.descend(run.values, g)
            descend_thresholds(run, thresholds, pull, 0.0)
    run.values.update(used)


def cs(run: Run, sparsity: float, penalty: float, initial: float = 0.0, final_beta: float = 300.0) -> None:
    """w sigmoid(beta m) / sigmoid(m_0), beta = final_beta^progress; in the end only m > 0 stays."""
    logits = {name: torch.full_like(run.values[name], initial) for name in WEIGHTS}
    for clock in range(run.steps + 1):
        beta = final_beta ** (clock / run.steps)
        soft = {name: 1 / (1 + torch.exp(-beta * logits[name])) for name in WEIGHTS}
        factor = {name: soft[name] * (1 + math.exp(-initial)) for name in WEIGHTS}
        used = {name: run.values[name] * factor[name] for name in WEIGHTS}
        if clock < run.steps:
            g = run.gradients(clock, used)
            bend = {n: beta * soft[n] * (1 - soft[n]) for n in WEIGHTS}
            pull = {n: bend[n] * (g[n] * run.values[n] * (1 + math.exp(-initial)) + penalty) for n in WEIGHTS}
            run.descend(run.values, {n: v * factor[n] if n in WEIGHTS else v for n, v in g.items()})
            descend_thresholds(run, logits, pull, 0.0)
    run.masks = {name: logits[name] > 0 for name in WEIGHTS}
    run.values.update({name: used[name] * run.masks[name] for name in WEIGHTS})


def descend_thresholds(run: Run, thresholds: Tensors, pull: Tensors, decay: float) -> None:
    renamed = {f"threshold of {name}": value for name, value in thresholds.items()}
    run.descend(renamed, {f"threshold of {name}": value for name, value in pull.items()}, decay)
    thresholds.update({name: renamed[f"threshold of {name}"] for name in thresholds})


def gsm(run: Run, sparsity: float) -> None:
    """Only the largest |w dL/dw| get their gradient; biases always do; pruned at the end."""
    count = global_count(run, sparsity)
    for clock in range(run.steps):
        g = run.gradients(clock)
        active = top({name: (run.values[name] * g[name]).abs() for name in WEIGHTS}, count)
        run.descend(run.values, {n: v * active[n] if n in active else v for n, v in g.items()})
    run.masks = top(absolute(run.values), count)
    run.project()


def lc(run: Run, sparsity: float) -> None:
    """Weight decay on all but the largest weights; pruned at the end."""
    count = global_count(run, sparsity)
    for clock in range(run.steps):
        largest = top(absolute(run.values), count)
        g = run.gradients(clock)
        g.update({name: g[name] - DECAY * run.values[name] * largest[name] for name in WEIGHTS})
        run.descend(run.values, g)
    run.masks = top(absolute(run.values), count)
    run.project()
