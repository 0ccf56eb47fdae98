"""The course of a run over a stream: stage after stage, each from what the one before has left."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TextIO

import torch
from lightning_fabric import Fabric
from torch import nn

from prunus import checkpoints, ranks
from prunus.anytime.arrivals import Megabatch, arrivals, gather, to_look_at, waited
from prunus.anytime.ensemble import Combine, Ensemble
from prunus.anytime.measures import right_by_class
from prunus.anytime.rates import rate_at
from prunus.anytime.records import megabatch_record, training_record
from prunus.anytime.stage_loop import StageLoop
from prunus.anytime.stages import adapted, planned_sparsity, stage_recipe
from prunus.anytime.state import State, Store, stage_seed
from prunus.cadence import Never, Once
from prunus.carriers import Carrier, Masked
from prunus.data import Labelled, evaluation_batches
from prunus.loggers import Log
from prunus.loop import Progress, Tell
from prunus.materials import fabric, load_data
from prunus.plugins import modules
from prunus.prepare import EVALUATION_BATCH, Prepared, Stage, prepare, seeded_model
from prunus.randomness import seeded
from prunus.recipes import Recipe, single
from prunus.start import Left
from prunus.tables import Builder, RecipeError

COMBINE: dict[str, Combine] = {"growing": "logits", "ensemble": "probabilities"}
STAGES = "stages"  # the folder of what each stage left


@dataclass
class Course:
    """A run over a stream, in its directory; what it goes through is in `state`."""

    recipe: Recipe
    home: Path
    metrics: TextIO
    log: Log
    tell: Tell
    checkpoint_every: float

    def __post_init__(self) -> None:
        run = single(self.recipe)
        assert run.anytime is not None
        if ranks.world_size() > 1:
            raise RecipeError(
                "anytime trains each run in one process, not under torchrun; leave it out, give --workers"
            )
        self.run, self.stream = run, run.anytime
        self.data = load_data(self.recipe)
        found = checkpoints.load(self.home / STAGES, self._note)
        self.state = State() if found is None else State.of(found)
        torch.set_num_threads(self.state.threads)  # which share a sum among them, and its last bits follow
        # of a log that was lost nothing comes back; to cut it at the old length would fill it with zeros
        self.state.logged = min(self.state.logged, os.fstat(self.metrics.fileno()).st_size)
        self.images: Store = self.data.train
        self.megabatches = self._expected()

    def _expected(self) -> list[Megabatch]:
        """The megabatches that are known of."""
        return arrivals(self.stream, self.data.train.labels, self.recipe.validation, self.run.seed)

    @property
    def planned(self) -> int:
        """How many megabatches the plan is laid out for."""
        return self.stream.horizon or len(self.megabatches)

    def arrive(self) -> bool:
        """Whether another megabatch is there, for which a stream of one's own may wait."""
        return self.state.number < len(self.megabatches)

    def _last(self) -> bool:
        """Whether the present megabatch is the last."""
        return self.state.number + 1 == len(self.megabatches)

    def run_(self) -> None:
        """All megabatches that are left."""
        self._forget_finished_()
        while self.arrive():
            new = waited(self.state.number, self.stream.wait, last=self._last())
            for member in range(len(self.state.trained), self._members() if new else 0):
                folder = self._folder(member)
                if not self._train_(new, member, folder):
                    new = range(0)
                    break
                self._save()
                checkpoints.remove(folder)
            self._finish_(new)
            self._save()

    def _folder(self, member: int) -> Path:
        """Where the training on the present megabatch leaves its checkpoints."""
        return self.home / "checkpoints" / f"{self.state.number:04}-{member}"

    def _forget_finished_(self) -> None:
        """Remove the checkpoints of trainings that had just ended when the process was killed."""
        present = self._folder(len(self.state.trained)).name
        for folder in (self.home / "checkpoints").glob("*-*"):
            if folder.name != present:
                checkpoints.remove(folder)

    def sparsity(self, number: int) -> float:
        """What the plan asks for after megabatch ``number``; 0 for a dense network."""
        return planned_sparsity(self.run, number, self.planned)

    @cached_property
    def around(self) -> Fabric:
        """The device and the precision."""
        return fabric(self.recipe)

    def final(self) -> Prepared:
        """The latest network that is left, as a dense training before its first step, for whoever measures it."""
        last = stage_recipe(self.recipe, len(self.megabatches) - 1, 0, self.planned)
        plain = last.model_copy(update={"method": {"dense": {}}})
        left = replace(self.state.lefts[-1], moments={})
        train, validation = (self.images.select(ids) for ids in (self.megabatches[-1].train, self.state.validated))
        return prepare(plain, stage=Stage(self.data, train, validation, train, left))

    def learner(self) -> nn.Module:
        """What answers now: the network, or all of the ensemble; the untrained one before any was trained."""
        lefts: Sequence[Left | None] = self.state.lefts or [None]
        models = [self._model(left) for left in lefts]
        return models[0] if len(models) == 1 else Ensemble(models, COMBINE[self.stream.learner])

    def measured(self) -> nn.Module:
        """The `learner` under the precision of training."""
        under_precision: nn.Module = self.around.setup(self.learner())
        return under_precision

    def _model(self, left: Left | None) -> nn.Module:
        builder = Builder(plugins=modules(self.recipe.plugins))
        model = seeded_model(self.recipe, self.run, self.data, builder, self.around.device)
        if left is not None:
            model.load_state_dict(left.weights)
        return model

    def _members(self) -> int:
        """How many networks a megabatch trains."""
        return self.stream.members if self.stream.learner == "ensemble" else 1

    def _place(self, member: int) -> int:
        """Where what a training leaves is kept: a growing ensemble adds to what it has."""
        return len(self.state.lefts) if self.stream.learner == "growing" else member

    def _left(self, member: int) -> Left | None:
        """What the network goes on from; None for fresh weights."""
        lefts = self.state.lefts
        place = len(lefts) - 1 if self.stream.learner == "growing" else member
        return lefts[place] if self.stream.warm and 0 <= place < len(lefts) else None

    def _stage(self, new: range, left: Left | None) -> Stage:
        stream, seed = self.stream, stage_seed(self.run.seed, self.state.number, 0)
        train, validation, _ = gather(stream, self.megabatches, new, self.state.memories, self.run.seed)
        arrived = sum(len(self.megabatches[number]) for number in new)
        looked_at = to_look_at(stream, train, arrived, seed)
        select = self.images.select
        rate = partial(rate_at, stream, number=self.state.number, planned=self.planned)
        return Stage(self.data, select(train), select(validation), select(looked_at), left, rate)

    def _train_(self, new: range, member: int, folder: Path) -> bool:
        """One network's training on the ``new`` megabatches; whether it could be trained."""
        number, state = self.state.number, self.state
        recipe = stage_recipe(self.recipe, number, member, self.planned)
        stage = self._stage(new, self._left(member))
        seed = single(recipe).seed

        def adapt(method: Carrier) -> Carrier:
            done = stage.left is not None and self.sparsity(number) == self.sparsity(number - 1)
            if done and isinstance(method, Masked) and isinstance(method.cadence, Once):
                return replace(method, cadence=Never())  # nothing to prune, so nothing to look at
            return adapted(method, self.stream, seed)

        began = time.perf_counter()
        prepared = prepare(recipe, stage=stage, adapt=adapt)
        preparing = time.perf_counter() - began
        loop = StageLoop(
            recipe,
            prepared,
            folder,
            self.metrics,
            self.log,
            self._teller(member),
            self.checkpoint_every,
            logged=state.logged,
            before=self._steps_before(),
            number=number,
            target=self.sparsity(number),
            sample=_sample(stage.train, len(stage.validation), seed).to(prepared.device),
            keep_best=self.stream.weights == "best",
            patience=self.stream.patience,
        )
        loop.resume_()
        loop.run_()
        left = self._leave(loop)
        state.trained.append(training_record(loop, stage, preparing, self.planned))
        if self.stream.learner == "growing":  # the last alone is gone on from
            state.lefts = [replace(earlier, moments={}) for earlier in state.lefts]
        state.lefts[self._place(member) : self._place(member) + 1] = [left]
        state.logged = self.metrics.tell()
        return True

    def _steps_before(self) -> int:
        """The steps of all trainings so far."""
        done = [part for record in self.state.records for part in record["trained"]]
        return sum(part["steps"] for part in (*done, *self.state.trained))

    def _leave(self, loop: StageLoop) -> Left:
        """What the stage leaves, its best weights in the model."""
        prepared, best = loop.prepared, loop.best
        masks = None
        if prepared.sparsifier is not None:
            masks = prepared.sparsifier.finalize()
        if best is not None:
            prepared.model.load_state_dict(best.weights)
            masks = best.masks
        return Left.of(prepared.model, masks, self._kept(prepared))

    def _kept(self, prepared: Prepared) -> torch.optim.Optimizer | None:
        return prepared.training.optimizer if self.stream.optimizer_state == "keep" else None

    def _finish_(self, new: range) -> None:
        """The present megabatch's record, by what answers now, and on to the next."""
        state = self.state
        batches = evaluation_batches(self.data.test.to(self.around.device), EVALUATION_BATCH, self.data)
        right, seen = right_by_class(self.measured(), batches, self.data.classes)
        arrived, sparsity = len(self.megabatches[state.number]), self.sparsity(state.number)
        state.records.append(megabatch_record(arrived, sparsity, right, seen, state.lefts, state.trained))
        if new:
            _, state.validated, state.memories = gather(
                self.stream, self.megabatches, new, state.memories, self.run.seed
            )
        state.trained = []
        state.number += 1

    def _save(self) -> None:
        done = self.state.number * (self.stream.members + 1) + len(self.state.trained)
        checkpoints.save(self.home / STAGES, done, self.state.plain())

    def _teller(self, member: int) -> Tell:
        """News of a stage as news of the whole course."""
        done, members = self.state.number * self._members() + member, self._members()

        def tell(progress: Progress) -> None:
            steps = progress.steps * self.planned * members  # a guess: with replay later stages are longer
            taken = progress.steps * done + progress.step
            note = progress.note and f"megabatch {self.state.number + 1}: {progress.note}"
            self.tell(Progress(taken, steps, progress.accuracy, note))

        return tell

    def _note(self, text: str) -> None:
        self.tell(Progress(0, 1, math.nan, text))


def _sample(images: Labelled, count: int, seed: int) -> Labelled:
    order = torch.randperm(len(images), generator=seeded(seed, "gap"))
    return images.select(order[:count])
