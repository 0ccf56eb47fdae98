"""Lightning: the callback trains as a plain loop does, and a resumed fit ends where an uninterrupted one does."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from cases import (
    CASE,
    SEED,
    SPARSITY,
    STEPS,
    Case,
    all_cases,
    attach,
    batch,
    equal,
    error,
    final,
    network,
    plain,
    sgd,
    six_methods,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

lightning = pytest.importorskip("lightning.pytorch")

from prunus.integrations.lightning import Sparsify  # noqa: E402
from prunus.masks import Tensors  # noqa: E402

EPOCHS = 4  # of STEPS / EPOCHS batches, the same ones in each
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


class Numbered(Dataset[tuple[Tensor, Tensor]]):
    """The first numbered batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        inputs, targets = batch(number)
        return inputs.float(), targets.float()


class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """The network of the matrix; with a callback to attach early, and then a scheduler."""

    def __init__(self, early: Sparsify | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.net, self.early = network().float(), early
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.net(inputs.to(self.net[0].weight.dtype))
        return output

    def training_step(self, pair: tuple[Tensor, Tensor], index: int) -> Tensor:
        return error(self(pair[0]), pair[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        if self.early is None:
            return optimizer
        self.early.attach(self, optimizer)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Scheduled(Module):
    """With a scheduler, and nothing attached before it."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def trainer(home: Path, *callbacks: Any, epochs: int = EPOCHS, **more: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = {
        "devices": 1,
        "default_root_dir": home,
        "max_epochs": epochs,
        "enable_checkpointing": bool(callbacks[1:]),
    }
    return lightning.Trainer(callbacks=[*callbacks], **quiet | settings | more)


def loader(batches: int = STEPS // EPOCHS) -> Any:
    return DataLoader(Numbered(batches), batch_size=None)


def every_epoch(home: Path, **more: Any) -> Any:
    return lightning.callbacks.ModelCheckpoint(home, "{epoch}", save_top_k=-1, **more)


def plain_loop(case: Case) -> Tensors:
    """The parameters at the end of a loop of one's own over the same steps in the same precision."""
    model = network().float()
    optimizer = sgd(model)
    sparsifier = attach(case, model, optimizer)
    for number in range(STEPS):
        inputs, targets = Numbered(STEPS)[number]
        optimizer.zero_grad()
        error(model(inputs), targets).backward()
        optimizer.step()
    return final(sparsifier, model)


@six_methods
def test_same_bits_as_a_plain_loop(case: Case, tmp_path: Path) -> None:
    module, callback = Module(), Sparsify(case.method(), seed=SEED)
    trainer(tmp_path, callback, epochs=1).fit(module, loader(STEPS))
    assert callback.sparsifier.clock == STEPS
    assert equal(plain(module.net), plain_loop(case))


def check_resume(case: Case, home: Path, early: bool = False) -> None:
    """Fit with a checkpoint an epoch, then again from each with other initial weights; the ends must agree."""
    callback = Sparsify(case.method(), seed=SEED)
    whole = Module(callback if early else None)
    trainer(home, callback, every_epoch(home)).fit(whole, loader())
    assert list(whole.net.state_dict()) == list(network().state_dict())
    for last in (0, EPOCHS - 2, EPOCHS - 1):
        again = Sparsify(case.method(), seed=SEED)
        resumed = Module(again if early else None, scale=0.5)
        trainer(home, again).fit(resumed, loader(), ckpt_path=home / f"epoch={last}.ckpt", weights_only=True)
        assert again.sparsifier.clock == STEPS
        assert equal(again.sparsifier.masks, callback.sparsifier.masks)
        assert equal(resumed.net.state_dict(), whole.net.state_dict()), f"after epoch {last}"


@six_methods
def test_a_resumed_fit_ends_bit_for_bit_the_same(case: Case, tmp_path: Path) -> None:
    check_resume(case, tmp_path)


@pytest.mark.slow
@all_cases
def test_every_method_resumes(case: Case, tmp_path: Path) -> None:
    check_resume(case, tmp_path)


@pytest.mark.parametrize("name", ["rigl", "str"])
def test_attached_before_a_scheduler_it_resumes_too(name: str, tmp_path: Path) -> None:
    check_resume(CASE[name], tmp_path, early=True)


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("name", ["gmp", "dpf", "str"])
def test_a_checkpoint_is_that_of_the_dense_network_with_the_weights_in_use(
    name: str, weights_only: bool, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    class Looking(lightning.Callback):  # type: ignore[misc,name-defined]
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            seen.append(module.net(Numbered(1)[0][0]).detach())

    fit = trainer(
        tmp_path, Sparsify(CASE[name].method()), Looking(), every_epoch(tmp_path, save_weights_only=weights_only)
    )
    fit.fit(Module(), loader())
    module = Module.load_from_checkpoint(tmp_path / "epoch=1.ckpt")
    assert torch.equal(module.net(Numbered(1)[0][0]), seen[1])


def test_scheduler_first_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"call this callback's attach\(self, optimizer\) in configure_optimizers"):
        trainer(tmp_path, Sparsify(CASE["str"].method())).fit(Scheduled(), loader())


def test_a_second_fit_needs_a_second_method(tmp_path: Path) -> None:
    callback = Sparsify(CASE["gmp"].method())
    trainer(tmp_path, callback).fit(Module(), loader())
    with pytest.raises(RuntimeError, match="make a new one for each model"):
        trainer(tmp_path, callback).fit(Module(), loader())


def test_what_is_saved_after_the_end_is_no_point_to_resume_from(tmp_path: Path) -> None:
    fit = trainer(tmp_path, Sparsify(CASE["str"].method()))
    fit.fit(Module(), loader())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    again = trainer(tmp_path, Sparsify(CASE["str"].method()))
    with pytest.raises(RuntimeError, match="the checkpoint is of a finished training"):
        again.fit(Module(), loader(), ckpt_path=tmp_path / "end.ckpt", weights_only=True)


def test_a_fit_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it max_steps or max_epochs"):
        trainer(tmp_path, Sparsify(CASE["gmp"].method()), epochs=-1).fit(Module(), loader())


@pytest.mark.filterwarnings("ignore:.*find_unused_parameters|.*barrier|.*destroy_process_group")
def test_ddp_takes_masks_and_refuses_what_changes_how_weights_are_computed(tmp_path: Path) -> None:
    callback = Sparsify(CASE["gmp"].method())
    with mock.patch.dict(os.environ):  # Lightning leaves rank and world size there, for whatever comes next
        trainer(tmp_path, callback, strategy="ddp").fit(Module(), loader())
        assert callback.sparsifier.sparsity() == SPARSITY
        with pytest.raises(RuntimeError, match="DDPStrategy wraps the module in DDP before there is an optimizer"):
            trainer(tmp_path, Sparsify(CASE["dpf"].method()), strategy="ddp").fit(Module(), loader())
        dist.destroy_process_group()


def test_a_strategy_that_shards_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = trainer(tmp_path, Sparsify(CASE["gmp"].method()))
    monkeypatch.setattr(type(fit.strategy), "restore_checkpoint_after_setup", True)
    with pytest.raises(RuntimeError, match="SingleDeviceStrategy shards the weights, which masks need whole"):
        fit.fit(Module(), loader())


def test_accumulation_and_bf16(tmp_path: Path) -> None:
    callback = Sparsify(CASE["gmp"].method())
    module = Module()
    fit = trainer(tmp_path, callback, epochs=1, accumulate_grad_batches=2, precision="bf16-mixed")
    fit.fit(module, loader(2 * STEPS))
    assert callback.sparsifier.clock == STEPS
    assert callback.sparsifier.sparsity() == SPARSITY
    weights = plain(module)
    assert all(not weights[name][~mask].any() for name, mask in callback.sparsifier.masks.items())
