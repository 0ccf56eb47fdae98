"""What a search tries next: the rivals, at equal cost, of a policy that decides as training goes."""

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from prunus.points import Range, points
from prunus.studies.tasks import quiet

Point = dict[str, float]
Told = Sequence[tuple[Point, float | None]]  # what was tried and its value; None for a training that diverged
Propose = Callable[[Mapping[str, Range], Told, int, int], list[Point]]


def evenly(space: Mapping[str, Range], told: Told, count: int, seed: int) -> list[Point]:
    """The next ``count`` points of a sequence that fills ``space`` evenly, whatever came of those before.

    Random search, by quasi-random `points`, so that no part of the space is left out by chance.
    """
    drawn = points(dict(sorted(space.items())), len(told) + count, seed)
    return [{name: float(point[name]) for name in space} for point in drawn[len(told) :]]


def by_optuna(space: Mapping[str, Range], told: Told, count: int, seed: int) -> list[Point]:
    """``count`` points by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), from all that was told.

    A function of its arguments alone, so that a search which is given again goes on as if it had never ended.
    """
    distributions = {name: FloatDistribution(one.low, one.high, log=one.log) for name, one in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed + len(told), n_startup_trials=min(10, max(2, len(space))))
    with quiet():
        study = optuna.create_study(direction="maximize", sampler=sampler)
    for point, value in told:
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(create_trial(params=point, distributions=dict(distributions), value=value, state=state))
    return [dict(study.ask(dict(distributions)).params) for _ in range(count)]
