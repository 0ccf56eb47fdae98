"""Methods: each one a carrier with its parts filled in.

Every function returns a fresh carrier for one model. ``sparsity`` is the fraction of zeros among the prunable weights,
in [0, 1); ``update_every`` counts optimizer steps; ``until`` and ``at`` are fractions of training.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from prunus.allocation import Allocation, erk, global_, uniform
from prunus.cadence import Cadence, Decisions, Every, Once
from prunus.carriers import Carrier, Edited, Feedback, Masked, Parametrized, Rates, Retrained
from prunus.carriers.edits import DecaySmallest, KeepSalient
from prunus.carriers.retrained import Watch
from prunus.criteria import Criterion, gradient, magnitude, preservation, random, saliency
from prunus.learned_schedule import LearnedSchedule
from prunus.masks import check_sparsity
from prunus.named_plans import Planned, plan_of
from prunus.parametrizations import NeuronThreshold, SoftMask, SoftThreshold
from prunus.retraining import History, Over
from prunus.schedules import Constant, Cosine, Decay, Geometric, Schedule, Within, cubic, decay, linear
from prunus.signals import Batches, Gradient, HessianGradient, Loss, LossGradient, Signal, SynapticFlow
from prunus.updates import DropGrow, Prune, Resize, Then, Update, mean_signal

MaskInit = Literal["random", "magnitude"]


def one_shot(
    sparsity: float,
    *,
    at: float = 0.5,
    criterion: Criterion = magnitude,
    allocation: Allocation = global_,
    signal: Signal | None = None,
) -> Masked:
    """Prune once at a fraction of training, then train on: one cycle of iterative magnitude pruning."""
    return Masked(Prune(Constant(sparsity), criterion, allocation, signal=signal), Once(at))


def imp(
    sparsity: float,
    *,
    cycles: int = 1,
    schedule: str | Schedule = "allr",
    pretraining: History | Schedule | None = None,
    factor: float = 1.0,
    dense: float = 0.0,
    rewind: float | None = None,
    criterion: Criterion = magnitude,
    allocation: Allocation = global_,
    signal: Signal | None = None,
    over: Over = "all",
    watch: Watch | None = None,
) -> Retrained:
    """Iterative magnitude pruning (Han et al. 2015): ``cycles`` times prune a trained network and retrain it.

    For a trained network, or after a ``dense`` share of this training. The rates of each retraining are those of
    ``schedule``: ft, lrw, slr, clr, llr or allr (Zimmer et al. 2023), ``factor`` times; the method sets them itself.
    The arguments are those of `Retrained` and `Rates`; a recipe fills in ``pretraining`` and ``watch``.
    """
    prune = Prune(Constant(sparsity), criterion, allocation, signal=signal)
    return Retrained(prune, cycles, dense, Rates(schedule, pretraining, factor, over), rewind, watch)


def bimp(
    sparsity: float,
    *,
    dense: float = 2 / 3,
    cycles: int = 3,
    peak: float | None = None,
    allocation: Allocation = global_,
    over: Over = "all",
    watch: Watch | None = None,
) -> Retrained:
    """Budgeted IMP (Zimmer et al. 2023): a dense phase, then cycles of pruning and retraining, inside one budget.

    The dense phase trains with rates on a line from ``peak`` to 0, by default from the optimizer's own rate; the cycles
    retrain with ALLR. The paper has no rule for the dense share and the cycles: two thirds and three are an example in
    its released code. Searched over, they are ordinary arguments.
    """
    line = None if peak is None else linear(0.0, initial=peak)
    return imp(sparsity, cycles=cycles, dense=dense, pretraining=line, allocation=allocation, over=over, watch=watch)


def random_pruning(sparsity: float, *, allocation: Allocation = erk, rescale: bool = False) -> Masked:
    """A random mask at initialisation, fixed: the control that every method must beat."""
    return Masked(_random_masks(sparsity, allocation), Once(0.0), rescale=rescale)


def magnitude_pruning(sparsity: float, *, allocation: Allocation = global_) -> Masked:
    """The largest initial weights, fixed: magnitude pruning at initialisation."""
    return one_shot(sparsity, at=0.0, allocation=allocation)


def snip(
    sparsity: float, *, batches: Batches | None = None, loss: Loss | None = None, allocation: Allocation = global_
) -> Masked:
    """SNIP at initialisation (Lee et al. 2019): the largest |w * dL/dw|, fixed.

    Scored on ``batches`` before training, or, without them, on the gradient of the first step (the paper's one batch).
    """
    if (batches is None) != (loss is None):
        raise ValueError("snip needs both batches and loss, or neither; got one of them")
    signal = Gradient() if batches is None or loss is None else LossGradient(batches, loss)
    return one_shot(sparsity, at=0.0, criterion=saliency, allocation=allocation, signal=signal)


def grasp(
    sparsity: float,
    *,
    batches: Batches,
    loss: Loss,
    temperature: float = 200.0,
    allocation: Allocation = global_,
) -> Masked:
    """GraSP at initialisation (Wang et al. 2020): keep the weights whose removal would cost gradient flow, fixed."""
    signal = HessianGradient(batches, loss, temperature)
    return one_shot(sparsity, at=0.0, criterion=preservation, allocation=allocation, signal=signal)


def synflow(
    sparsity: float, *, input_shape: tuple[int, ...], rounds: int = 100, allocation: Allocation = global_
) -> Masked:
    """SynFlow at initialisation (Tanaka et al. 2020, Alg. 1): rounds of pruning by synaptic flow, no data, fixed."""
    rule = Prune(Geometric(sparsity), saliency, allocation, signal=SynapticFlow(input_shape))
    return Masked(rule, Once(at=0.0, rounds=rounds))


def gmp(
    sparsity: float,
    *,
    update_every: int = 100,
    until: float = 0.75,
    recover: bool = False,
    allocation: Allocation = global_,
) -> Masked | Feedback:
    """Gradual magnitude pruning (Zhu & Gupta 2017): a cubic from dense to ``sparsity``, dropped weights stay dropped.

    ``recover`` keeps dropped values behind the mask, where only weight decay moves them, and lets them compete again
    (BIMP's variant). The reference prunes at epoch ends and logs the accuracy from before; here the clock is the step.
    """
    rule = Prune(cubic(sparsity), magnitude, allocation, recover=recover)
    cadence = Every(update_every, until=until)
    return Feedback(rule, cadence, straight_through=False) if recover else Masked(rule, cadence)


def set_(
    sparsity: float,
    *,
    update_every: int = 100,
    until: float = 0.75,
    drop_fraction: float = 0.3,
    drop_schedule: Decay = "constant",
    allocation: Allocation = erk,
    rescale: bool = False,
) -> Masked:
    """SET (Mocanu et al. 2018): drop a constant fraction by magnitude, grow as many at random.

    The smallest absolute values go, as in all later code, instead of the smallest positive and largest negative; grown
    weights start at zero instead of at random values.
    """
    rule = DropGrow(decay(drop_schedule, drop_fraction), grow=random, signal=None)
    return _from_random_masks(sparsity, rule, Every(update_every, until=until, at_start=False), allocation, rescale)


def rigl(
    sparsity: float,
    *,
    update_every: int = 100,
    until: float = 0.75,
    drop_fraction: float = 0.3,
    drop_schedule: Decay = "cosine",
    memory: float = 0.0,
    allocation: Allocation = erk,
    rescale: bool = False,
) -> Masked:
    """RigL (Evci et al. 2020): drop by magnitude, grow by the dense gradient, the fraction decaying as a cosine.

    ``memory`` above 0 grows by a decaying sum of gradients instead of the newest batch. On an update step the released
    code skips the gradient step; here it is taken, on the new masks.
    """
    rule = DropGrow(decay(drop_schedule, drop_fraction), signal=Gradient(memory))
    return _from_random_masks(sparsity, rule, Every(update_every, until=until, at_start=False), allocation, rescale)


def itop(
    sparsity: float,
    *,
    grow: Literal["random", "gradient"] = "random",
    update_every: int = 1500,
    drop_fraction: float = 0.5,
    allocation: Allocation = erk,
    rescale: bool = False,
) -> Masked:
    """In-time over-parameterisation (Liu et al. 2021): SET or RigL to the end of training, with rare, large updates.

    Of each layer the ceiling of a fraction that decays as a cosine to 0.005 is dropped, and exactly as many grown; the
    released code drops below a threshold and grows at random in expectation. Growing by the gradient, its scripts
    update every 4000 steps.
    """
    fraction = Cosine(drop_fraction, 0.005)
    by_gradient = grow == "gradient"
    rule = DropGrow(
        fraction,
        grow=gradient if by_gradient else random,
        signal=Gradient() if by_gradient else None,
        rounding=math.ceil,
    )
    return _from_random_masks(sparsity, rule, Every(update_every, at_start=False, at_end=False), allocation, rescale)


def snfs(
    sparsity: float,
    *,
    update_every: int = 100,
    until: float = 1.0,
    drop_fraction: float = 0.5,
    allocation: Allocation = uniform,
    rescale: bool = False,
) -> Masked:
    """Sparse networks from scratch (Dettmers & Zettlemoyer 2019): growth by momentum, shared over layers by its mean.

    The momentum of the dense gradient is kept beside the optimizer, whose state stays zero off the mask. The released
    code's smoothing of leftovers and its slower rate for nearly dense layers are left out. The last update comes before
    the last step.
    """
    rule = DropGrow(Cosine(drop_fraction, 0.005), signal=Gradient(memory=0.9), share=mean_signal, rounding=math.ceil)
    return _from_random_masks(sparsity, rule, Every(update_every, until=until, at_start=False), allocation, rescale)


def rp_rr(
    sparsity: float,
    *,
    schedule: Planned | None = None,
    update_every: int = 100,
    mask_init: MaskInit | None = None,
    turnover: float = 0.0,
    rescale: bool = False,
) -> Masked:
    """Random pruning, random regrowth along a schedule of sparsities (Tessera et al. 2022).

    Masks change by the difference alone; without a schedule they stay as they were drawn. ``schedule`` is one for all
    layers, a mapping of globs to schedules, a family ("linear", "quadratic", "cubic", "cosine", "constant") in which
    density grows from half its target up to it, or the file of a learned schedule. ``mask_init`` chooses the first
    masks otherwise than the rest; a file has its own, which this overrules. ``turnover`` is a fraction of every layer
    that is dropped, and as many grown, before each change.
    """
    rule = _resize(sparsity, random, schedule, mask_init, turnover)
    return Masked(rule, _moments(schedule, turnover, update_every), rescale=rescale)


def mp_rr(
    sparsity: float,
    *,
    schedule: Planned | None = None,
    update_every: int = 100,
    mask_init: MaskInit | None = None,
    turnover: float = 0.0,
    rescale: bool = False,
) -> Masked:
    """Magnitude pruning, random regrowth along a schedule of sparsities (Tessera et al. 2022); arguments as `rp_rr`."""
    rule = _resize(sparsity, magnitude, schedule, mask_init, turnover)
    return Masked(rule, _moments(schedule, turnover, update_every), rescale=rescale)


def granet(
    sparsity: float,
    *,
    update_every: int = 100,
    until: float = 0.75,
    initial: float = 0.5,
    drop_fraction: float = 0.5,
) -> Masked:
    """GraNet (Liu et al. 2021): from half sparse along a cubic, each pruning followed by drop and growth."""
    if initial > sparsity:
        raise ValueError(f"initial must be at most the final sparsity {sparsity}, got {initial}; lower it")
    rising = cubic(sparsity, initial)
    rule = Then(Prune(rising), DropGrow(Cosine(drop_fraction, 0.0)))
    return Masked(rule, Every(update_every, until=until, at_start=False), start=Prune(rising, random, erk))


def dpf(sparsity: float, *, update_every: int = 16, until: float = 0.75, allocation: Allocation = global_) -> Feedback:
    """DPF (Lin et al. 2020): gradients at the pruned weights move dense ones; any weight may return every 16 steps.

    The cubic ends at ``until``, the masks are refreshed to the end and once more there; the reference's final mask can
    be 15 steps old.
    """
    rule = Prune(Within(cubic(sparsity), until=until), magnitude, allocation, recover=True)
    return Feedback(rule, Every(update_every))


def dnw(sparsity: float, *, update_every: int = 1, allocation: Allocation = global_) -> Feedback:
    """DNW (Wortsman et al. 2019): DPF at constant sparsity, its mask refreshed at every step.

    Ranked over all layers as in the comparison of Zimmer et al. 2023; ``allocation="uniform"`` is the original. Ties
    are broken by index where the reference drops them all.
    """
    return Feedback(Prune(Constant(sparsity), magnitude, allocation, recover=True), Every(update_every))


def str_(sparsity: float, *, initial: float = -5.0, decay: float | None = None) -> Parametrized:
    """STR (Kusupati et al. 2020): a soft threshold per layer, learned; sparsity is an outcome of ``initial`` and decay.

    ``sparsity`` is what the report holds the outcome against. Thresholds start at sigmoid(``initial``), and weight
    decay pulls their logits up to 0: the weights' own as in the paper, or ``decay`` where training is short.
    """
    check_sparsity(sparsity)
    return Parametrized(partial(SoftThreshold, initial=initial), decay=decay)


def dst(sparsity: float, *, penalty: float = 1e-4) -> Parametrized:
    """DST (Liu et al. 2020): a threshold per neuron or filter, learned; sparsity is an outcome of ``penalty``.

    Weight decay acts once, on the weights alone; the reference applies it twice and to the thresholds too.
    """
    check_sparsity(sparsity)
    return Parametrized(partial(NeuronThreshold, penalty=penalty))


def cs(sparsity: float, *, initial: float = 0.0, final_beta: float = 300.0, penalty: float = 1e-8) -> Parametrized:
    """CS (Savarese et al. 2020): a soft mask per weight that hardens; sparsity is an outcome of ``penalty``.

    Weight decay acts on the weights alone, as in the original; the reference of Zimmer et al. applies it twice.
    """
    check_sparsity(sparsity)
    return Parametrized(partial(SoftMask, initial=initial, final_beta=final_beta, penalty=penalty))


def gsm(sparsity: float, *, scope: str = "weights") -> Edited:
    """GSM (Ding et al. 2019): only the most salient weights get their loss gradient, the rest decay; pruned at the end.

    ``scope="all"`` lets biases and norms compete for the places, as the reference does; by default they always learn.
    """
    return Edited(KeepSalient(sparsity, scope), Prune(Constant(sparsity)))


def lc(sparsity: float, *, scope: str = "weights") -> Edited:
    """LC (Carreira-Perpiñán & Idelbayev 2018), its penalty limit: weight decay on the smallest only; pruned at the end.

    Needs an optimizer that adds its decay to the gradient; decoupled decay (AdamW) cannot be taken back from there.
    ``scope="all"`` ranks biases and norms among the weights, as the reference does.
    """
    return Edited(DecaySmallest(sparsity, scope), Prune(Constant(sparsity)))


METHODS: dict[str, Callable[..., Carrier]] = {
    "random": random_pruning,
    "magnitude": magnitude_pruning,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "one-shot": one_shot,
    "imp": imp,
    "bimp": bimp,
    "gmp": gmp,
    "set": set_,
    "rigl": rigl,
    "itop": itop,
    "snfs": snfs,
    "rp-rr": rp_rr,
    "mp-rr": mp_rr,
    "granet": granet,
    "dpf": dpf,
    "dnw": dnw,
    "str": str_,
    "dst": dst,
    "cs": cs,
    "gsm": gsm,
    "lc": lc,
}


def _resize(
    sparsity: float, drop: Criterion, schedule: Planned | None, mask_init: MaskInit | None, turnover: float
) -> Update:
    check_sparsity(sparsity)
    plan = plan_of("constant" if schedule is None else schedule, sparsity)
    drawn = mask_init or (plan.mask_init if isinstance(plan, LearnedSchedule) else "")
    first = {"": drop, "random": random, "magnitude": magnitude}[drawn]
    if schedule is None and not turnover:
        return Resize(plan, first)
    resize = Resize(plan, drop, first=first)
    return Then(DropGrow(Constant(turnover), drop, grow=random, signal=None), resize) if turnover else resize


def _moments(schedule: Planned | None, turnover: float, update_every: int) -> Cadence:
    return Once(0.0) if schedule is None and not turnover else Decisions(update_every)


def _random_masks(sparsity: float, allocation: Allocation) -> Prune:
    return Prune(Constant(sparsity), random, allocation)


def _from_random_masks(
    sparsity: float, rule: Update, cadence: Cadence, allocation: Allocation, rescale: bool
) -> Masked:
    return Masked(rule, cadence, start=_random_masks(sparsity, allocation), rescale=rescale)
