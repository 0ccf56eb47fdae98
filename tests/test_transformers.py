"""Hugging Face: the callback reaches its sparsity, and a resumed training ends where an uninterrupted one does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from cases import CASE, SEED, SPARSITY, Case, equal, plain
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from prunus.integrations.transformers import FILE, SparsifyCallback  # noqa: E402
from prunus.masks import unpack  # noqa: E402
from prunus.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.slow  # a trainer's own weight, for what the other integrations show as well

STEPS, SAVED = 12, 7  # SAVED lies inside the second of three epochs, when masks have changed
PROBES = ("snip-batches", "grasp-batches", "synflow")  # their batches do not fit a transformer
RESUMED = [case for name, case in CASE.items() if name not in PROBES]


@pytest.fixture(autouse=True)
def no_precision_left_behind() -> Iterator[None]:
    """accelerate, inside the Trainer, keeps its settings for whatever comes next in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def bert(seed: int = 0) -> nn.Module:
    """Two layers of 16, dropout included: a resumed training has to draw the same."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def sentences() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(30, (7,), generator=generator), "labels": torch.tensor(number % 3)}
        for number in range(16)
    ]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def trainer(home: Path, model: nn.Module, callback: SparsifyCallback, **more: Any) -> Any:
    optimizers = more.pop("optimizers", (None, None))
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    length = {"max_steps": STEPS, "save_steps": SAVED, "per_device_train_batch_size": 4, "learning_rate": 0.01}
    args = transformers.TrainingArguments(output_dir=home, **quiet | length | more)
    data = {"train_dataset": sentences(), "eval_dataset": sentences()}
    made = transformers.Trainer(model, args, **data, callbacks=[callback], optimizers=optimizers)
    made.remove_callback(transformers.PrinterCallback)
    return made


def fit(home: Path, case: Case, early: bool, resume: Path | None = None, seed: int = 0) -> tuple[Any, nn.Module]:
    model, callback = bert(seed), SparsifyCallback(case.method(), seed=SEED)
    optimizer = sgd(model)
    if early:
        callback.attach(model, optimizer, STEPS)
    trainer(home, model, callback, optimizers=(optimizer, None)).train(resume_from_checkpoint=resume)
    return callback.sparsifier, model


def check_resume(case: Case, home: Path, early: bool) -> None:
    whole, model = fit(home, case, early)
    assert list(model.state_dict()) == list(bert().state_dict())
    resumed, other = fit(home, case, early, resume=home / f"checkpoint-{SAVED}", seed=1)
    assert resumed.clock == whole.clock == STEPS
    assert equal(resumed.masks, whole.masks)
    assert equal(other.state_dict(), model.state_dict())


def test_a_resumed_training_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    check_resume(CASE["rigl"], tmp_path, early=False)


def test_attached_before_the_trainer_it_resumes_too(tmp_path: Path) -> None:
    check_resume(CASE["str"], tmp_path, early=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::prunus.allocation.CollapseWarning")  # SNIP leaves little of the attention
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("case", RESUMED, ids=str)
def test_every_method_resumes(case: Case, early: bool, tmp_path: Path) -> None:
    check_resume(case, tmp_path, early=early or case.name in ("str", "dst", "cs"))


def test_trains_as_a_plain_loop_does(tmp_path: Path) -> None:
    """The Trainer's own optimizer and scheduler, gradient accumulation, and what it leaves on disk."""
    model, callback = bert(), SparsifyCallback(METHODS["gmp"](0.75), exclude="classifier.*")
    made = trainer(tmp_path, model, callback, gradient_accumulation_steps=2, bf16=True)
    made.train()
    assert callback.sparsifier.clock == STEPS
    assert callback.sparsifier.sparsity() == pytest.approx(SPARSITY, abs=1e-3)
    assert all(not plain(model)[name][~mask].any() for name, mask in callback.sparsifier.masks.items())


def test_a_checkpoint_is_a_model_with_the_weights_in_use(tmp_path: Path) -> None:
    sparsifier, _ = fit(tmp_path, CASE["dpf"], early=False)
    home = tmp_path / f"checkpoint-{SAVED}"
    saved = transformers.BertForSequenceClassification.from_pretrained(home)
    state = torch.load(home / FILE, weights_only=True)["sparsifier"]
    packed = state["method"]["masks"]
    zeros = sum(int((saved.get_parameter(layer) == 0).sum()) for layer in packed)
    kept = sum(int(unpack(packed[layer], mask.shape).sum()) for layer, mask in sparsifier.masks.items())
    assert zeros == sum(mask.numel() for mask in sparsifier.masks.values()) - kept > 0


def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must be attached before the Trainer makes its scheduler"):
        trainer(tmp_path, bert(), SparsifyCallback(CASE["str"].method())).train()
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": SAVED}
    with pytest.raises(ValueError, match="load_best_model_at_end may bring back weights"):
        trainer(tmp_path, bert(), SparsifyCallback(CASE["gmp"].method()), **best).train()
    callback, model = SparsifyCallback(CASE["gmp"].method()), bert()
    callback.attach(model, sgd(model), STEPS + 1)
    with pytest.raises(ValueError, match="attached for 13 steps and the Trainer takes 12"):
        trainer(tmp_path, model, callback).train()


@pytest.mark.slow
def test_a_checkpoint_without_its_masks_is_not_resumed(tmp_path: Path) -> None:
    fit(tmp_path, CASE["gmp"], early=False)
    (tmp_path / f"checkpoint-{SAVED}" / FILE).unlink()
    with pytest.raises(RuntimeError, match=r"resumes at step 7, but .*prunus.pt is not there"):
        fit(tmp_path, CASE["gmp"], early=False, resume=tmp_path / f"checkpoint-{SAVED}")
