"""Pupils: policies of PPO that learn a schedule by deciding, training after training, how sparse each layer is."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from prunus.budgets import Shapes
from prunus.carriers import Carrier, Masked
from prunus.learned.actions import Actions
from prunus.learned.agent import learn
from prunus.learned.curricula import Curriculum, curriculum
from prunus.learned.environment import SparsityEnv
from prunus.learned.episode import Episode, Measured, decided
from prunus.learned.rewards import REWARDS
from prunus.learned.rollouts import Policy, closed_loop
from prunus.learned.vector import Episodes
from prunus.learned_schedule import LearnedSchedule
from prunus.lessons import Lesson, diverged
from prunus.prepare import Prepared, prepare
from prunus.recipes import Recipe
from prunus.settings import SELECTION
from prunus.storage import write_atomically

Hear = Callable[[int, float | None], None]  # the number of an episode, and its accuracy; None where it diverged


@dataclass
class Classroom:
    """Makes the episodes of a recipe, for a seed; ``leaky`` ones measure the test set instead of the validation set."""

    recipe: Recipe
    update_every: int
    leaky: bool = False
    prepared: Prepared | None = field(default=None, init=False)

    def __call__(self, seed: int) -> Episode:
        recipe = self.recipe
        self.prepared = prepared = prepare(recipe.model_copy(update={"seed": (seed,)}), adapt=_decided)
        assert prepared.sparsifier is not None
        images = prepared.test if self.leaky else prepared.validation

        def measure() -> Measured:
            quality = prepared.quality(images)
            return Measured(quality.nll, quality.accuracy)

        return Episode(
            prepared.training,
            prepared.sparsifier,
            measure,
            prepared.operations,
            update_every=self.update_every,
            examples=recipe.batch_size * recipe.accumulate,
            classes=prepared.data.classes,
        )

    def scores(self) -> dict[str, float]:
        """The accuracies of the network of the latest episode."""
        assert self.prepared is not None
        parts = {"validation": self.prepared.validation, "test": self.prepared.test}
        return {name: self.prepared.quality(images).accuracy for name, images in parts.items()}


def practise(
    lesson: Lesson, shapes: Shapes, update_every: int, seeds: Sequence[int], workers: int, hear: Hear
) -> dict[str, Any]:
    """Learn by PPO; what is left and its record.

    All but the last ``finalists`` trainings are for the policy to learn in; those then follow its mean actions on the
    networks of selection, and the mean of their densities is the schedule. On the networks of ``seeds`` the policy
    decides once more by itself, in processes of which there are at most ``workers`` while it learns.
    """
    with _one_thread():
        return _practised(lesson, shapes, update_every, seeds, workers, hear)


def _practised(
    lesson: Lesson, shapes: Shapes, update_every: int, seeds: Sequence[int], workers: int, hear: Hear
) -> dict[str, Any]:
    learning = lesson.learn.trainings - lesson.learn.finalists
    environment, plan = _planned(lesson, shapes, update_every, learning)
    make = partial(_environment, lesson, Classroom(lesson.cell, update_every), plan)
    processes = 0 if workers == 1 else min(workers, plan.environments)
    with closing(Episodes([make] * plan.environments, workers=processes)) as episodes:
        learned = learn(
            episodes,
            learning,
            plan.settings,
            decisions=environment.steps,
            folder=lesson.work,
            policy=plan.policy,
            hear=lambda record: hear(record["episode"], _accuracy(record)),
        )
    finals = []
    for at in range(lesson.learn.finalists):
        finals.append(_final(lesson, learned.policy, environment, SELECTION + at))
        hear(learning + at, _accuracy(finals[-1]))
    if all(one["diverged"] for one in finals):
        raise diverged(lesson)
    record = {
        "reward": plan.reward,
        "updates": learned.updates,
        "episodes": [_episode(one, environment) for one in learned.episodes],
        "chosen": [{"seed": one["seed"], "accuracy": _accuracy(one)} for one in finals],
        "closed_loop": [_evaluated(lesson, learned.policy, plan, update_every, seed) for seed in seeds],
        **_cost([*learned.episodes, *finals]),
    }
    return lesson.leave(_schedule(lesson, shapes, update_every, finals), record)


def _planned(lesson: Lesson, shapes: Shapes, update_every: int, learning: int) -> tuple[SparsityEnv, Curriculum]:
    """An environment for what is done alone, and how the agent learns in ``learning`` trainings."""
    room = Classroom(lesson.cell, update_every)
    plan = curriculum(
        lesson.agent,
        decisions=math.ceil(_environment(lesson, room).updates / lesson.learn.decision_every),
        trainings=learning,
        layers=len(shapes),
        reward=lesson.learn.reward,
    )
    return _environment(lesson, room, plan), plan


@contextmanager
def _one_thread() -> Iterator[None]:
    """What comes out is not to depend on whether environments have processes of their own, which have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _decided(method: Carrier) -> Carrier:
    assert isinstance(method, Masked)
    return decided(method)


def _environment(lesson: Lesson, room: Classroom, plan: Curriculum | None = None) -> SparsityEnv:
    low, high = lesson.densities
    if plan is None:
        return SparsityEnv(room, low=low, high=high)
    reward = REWARDS[plan.reward]()
    actions, hold = Actions(smooth=lesson.learn.smooth), lesson.learn.decision_every
    return SparsityEnv(room, low=low, high=high, actions=actions, observe=plan.observe, reward=reward, hold=hold)


def _final(lesson: Lesson, policy: Policy, environment: SparsityEnv, seed: int) -> dict[str, Any]:
    """The record of an episode by which the schedule is chosen; taken from its file where that was done before."""
    path = lesson.work / f"final-{seed}.json"
    if not path.is_file():
        write_atomically(path, json.dumps(closed_loop(policy, environment, seed).record()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _evaluated(lesson: Lesson, policy: Policy, plan: Curriculum, update_every: int, seed: int) -> dict[str, Any]:
    """The policy on the network of a seed that it has not seen; taken from its file where that was done before.

    Without scores where the loss was no longer finite.
    """
    path = lesson.work / f"closed-loop-{seed}{'-leaky' * lesson.learn.leaky}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    room = Classroom(lesson.cell, update_every, lesson.learn.leaky)
    environment = _environment(lesson, room, plan)
    record = closed_loop(policy, environment, seed).record()
    evaluated: dict[str, Any] = {"seed": seed, "validation": None, "test": None, "sparsity": None}
    if not record["diverged"]:
        evaluated |= room.scores() | {"sparsity": _sparsity(record, environment)}
    write_atomically(path, json.dumps(evaluated))
    return evaluated


def _schedule(lesson: Lesson, shapes: Shapes, update_every: int, finals: Sequence[dict[str, Any]]) -> LearnedSchedule:
    return LearnedSchedule.of(
        np.mean([one["densities"] for one in finals if not one["diverged"]], axis=0).tolist(),
        shapes,
        bounds=dict.fromkeys(shapes, lesson.densities),
        method=lesson.method,
        delta_t=update_every,
        provenance={},
    )


def _accuracy(record: dict[str, Any]) -> float | None:
    return None if record["diverged"] else float(record["accuracy"])


def _sparsity(record: dict[str, Any], environment: SparsityEnv) -> float:
    sizes = environment.network.sizes
    return float(1.0 - sum(record["active"].values()) / sizes.sum())


def _episode(record: dict[str, Any], environment: SparsityEnv) -> dict[str, Any]:
    return {
        "seed": record["seed"],
        "accuracy": _accuracy(record),
        "sparsity": None if record["diverged"] else _sparsity(record, environment),
    }


def _cost(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "training_macs": sum(one["sparse_flops"] for one in records) // 2,
        "training_macs_dense": sum(one["dense_flops"] for one in records) // 2,
        "seconds": sum(one["seconds"] for one in records),
    }
