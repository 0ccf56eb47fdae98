"""Lightning: a callback that trains sparse and keeps masks and clock in the Trainer's checkpoint."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunus.carriers import Carrier, Feedback, Parametrized
from prunus.integrations.attached import Attached, values_kept
from prunus.sparsifier import Sparsifier, sparsify


class Sparsify(Callback):
    """Trains sparse by ``method`` over all the steps of a fit; afterwards the weights are plain, with zeros in place.

    ``include``, ``exclude`` and ``seed`` are those of `prunus.sparsify`. The Trainer's checkpoints hold the weights in
    use under the names of the dense network, and masks, clock and dense weights in the callback's state;
    ``fit(ckpt_path=...)`` goes on bit for bit. STR, DST and CS with a learning-rate scheduler need `attach`.

    >>> from prunus.methods import gmp
    >>> callback = Sparsify(gmp(sparsity=0.9), exclude="head.*")  # Trainer(callbacks=[callback]).fit(module)
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
        self._saved: dict[str, Any] | None = None

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier, from the start of the fit on."""
        if self._attached is None:
            raise RuntimeError("there is no sparsifier yet: it is made when Trainer.fit has made the optimizer")
        return self._attached.sparsifier

    def attach(self, module: LightningModule, optimizer: Optimizer) -> None:
        """Attach now: in ``configure_optimizers``, between the optimizer and a scheduler that must see its groups.

        Raises ValueError for a fit without an end, RuntimeError where the method cannot work.
        """
        trainer, saved = module.trainer, self._saved
        _check(trainer, self.method)
        steps = _steps(trainer)
        with values_kept(module, optimizer) if saved else nullcontext():
            sparsifier = sparsify(
                module, optimizer, self.method, steps, include=self.include, exclude=self.exclude, seed=self.seed
            )
        self._attached = Attached(sparsifier)
        if saved:
            self._attached.load_state_dict(saved)
        if sparsifier.clock >= steps:  # the checkpoint is of the last step: no training will end
            self._attached.finalize()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit, so that this one attaches."""
        if stage == "fit":
            self._attached = self._saved = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach, unless ``configure_optimizers`` did; weights are restored by now, optimizer states are not."""
        if self._attached is not None:
            return
        if len(trainer.optimizers) != 1:
            raise ValueError(f"expected one optimizer, got {len(trainer.optimizers)}; call attach() for the one to use")
        if trainer.lr_scheduler_configs and isinstance(self.method, Parametrized):
            raise RuntimeError(
                "this method adds a parameter group, which a scheduler must see: call this callback's attach(self, "
                "optimizer) in configure_optimizers, after the optimizer is made and before the scheduler is"
            )
        self.attach(pl_module, trainer.optimizers[0])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the weights plain."""
        if self._attached is not None:
            self._attached.finalize()

    def state_dict(self) -> dict[str, Any]:
        """What the Trainer's checkpoint keeps beside the weights in use and the optimizer."""
        return {} if self._attached is None else self._attached.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until `attach`: the Trainer restores callbacks before there is an optimizer."""
        self._saved = state_dict


def _check(trainer: Trainer, method: Carrier) -> None:
    strategy = type(trainer.strategy).__name__
    if trainer.strategy.restore_checkpoint_after_setup:
        raise RuntimeError(f"{strategy} shards the weights, which masks need whole; use a single device or DDP")
    if isinstance(trainer.strategy.model, DistributedDataParallel) and isinstance(method, Feedback | Parametrized):
        raise RuntimeError(
            f"{strategy} wraps the module in DDP before there is an optimizer, and this method changes how weights are "
            "computed; use a method with masks alone, such as gmp or rigl, or a single device"
        )


def _steps(trainer: Trainer) -> int:
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError("the Trainer has no last step; give it max_steps or max_epochs and data of known length")
    return int(steps)
