"""Hugging Face: a callback for transformers' Trainer with masks and clock in its checkpoints."""

from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunus.carriers import Carrier, Feedback, Parametrized
from prunus.integrations.attached import Attached, values_kept
from prunus.sparsifier import Sparsifier, sparsify
from prunus.storage import write_atomically

FILE = "prunus.pt"


class SparsifyCallback(TrainerCallback):
    """Trains sparse by ``method`` over all the steps of a training; afterwards the weights are plain, with zeros.

    ``include``, ``exclude`` and ``seed`` are those of `prunus.sparsify`. Each checkpoint holds the weights in use under
    the names of the dense network, and masks, clock and dense weights in its file ``prunus.pt``;
    ``train(resume_from_checkpoint=...)`` goes on bit for bit. STR, DST and CS need `attach`.

    >>> from prunus.methods import gmp
    >>> callback = SparsifyCallback(gmp(sparsity=0.9), exclude="classifier*")  # Trainer(..., callbacks=[callback])
    """

    def __init__(
        self,
        method: Carrier,
        *,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.method, self.include, self.exclude, self.seed = method, include, exclude, seed
        self._attached: Attached | None = None

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier, once it is attached."""
        if self._attached is None:
            raise RuntimeError("there is no sparsifier yet: it is made when training begins, or by attach()")
        return self._attached.sparsifier

    def attach(self, model: nn.Module, optimizer: Optimizer, steps: int) -> None:
        """Attach before the Trainer is made, which then gets ``optimizers=(optimizer, None)``; steps as it will count.

        For methods that add a parameter group, which a scheduler must see.
        """
        self._attached = Attached(
            sparsify(model, optimizer, self.method, steps, include=self.include, exclude=self.exclude, seed=self.seed)
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Attach, unless `attach` did. Model and optimizer hold by now what a checkpoint restored."""
        _check(args, state, self)
        saved = _saved(args, state)
        if self._attached is None:
            with values_kept(of["model"], of["optimizer"]) if saved else nullcontext():
                self.attach(of["model"], of["optimizer"], state.max_steps)
        if saved and self._attached is not None:
            self._attached.load_state_dict(saved)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Write what is not in the model's and the optimizer's files beside them."""
        if state.is_world_process_zero and self._attached is not None:
            content = BytesIO()
            torch.save(self._attached.state_dict(), content)
            write_atomically(_place(args, state) / FILE, content.getvalue())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Make the weights plain."""
        if self._attached is not None:
            self._attached.finalize()


def _check(args: TrainingArguments, state: TrainerState, callback: SparsifyCallback) -> None:
    if args.load_best_model_at_end:
        raise ValueError(
            "load_best_model_at_end may bring back weights from before the sparsity was reached; set it to False and "
            "choose among the checkpoints afterwards"
        )
    if callback._attached is not None:
        if callback.sparsifier.site.steps != state.max_steps:
            raise ValueError(
                f"the callback was attached for {callback.sparsifier.site.steps} steps and the Trainer takes "
                f"{state.max_steps}; give attach() that number"
            )
    elif isinstance(callback.method, Parametrized) or (args.world_size > 1 and isinstance(callback.method, Feedback)):
        raise RuntimeError(
            "this method must be attached before the Trainer makes its scheduler and wraps the model: call this "
            "callback's attach(model, optimizer, steps), and give the Trainer optimizers=(optimizer, None)"
        )


def _place(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _saved(args: TrainingArguments, state: TrainerState) -> dict[str, Any] | None:
    """The state in the checkpoint that training resumes from."""
    if state.global_step == 0:
        return None
    path = Path(args.resume_from_checkpoint or _place(args, state)) / FILE
    if not path.is_file():
        raise RuntimeError(
            f"training resumes at step {state.global_step}, but {path} is not there; give the checkpoint's directory "
            "to TrainingArguments(resume_from_checkpoint=...) as well as to train()"
        )
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved
