"""On a GPU: steps between two updates of the masks never wait for the device. Without a GPU these are skipped."""

import pytest
import torch
from cases import CASE, Case, network
from torch import nn

from prunus.masks import multiply_all_
from prunus.sparsifier import sparsify

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# GSM, LC and DNW rank all weights at every step, and a ranking waits.
FREE = ("random", "snip", "gmp", "rigl", "set", "itop", "snfs", "rp-rr", "granet", "dpf", "str", "dst", "cs")


@needs_cuda
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("case", [CASE[name] for name in FREE], ids=str)
def test_a_step_without_an_update_does_not_wait(case: Case, foreach: bool) -> None:
    model = network().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=foreach)
    sparsify(model, optimizer, case.method(), steps=1000)
    inputs, targets = torch.randn(16, 6).double().cuda(), torch.randn(16, 3).double().cuda()

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    for _ in range(21):  # past an update at clock 20, of every 4 and of every 5 steps
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_masks_are_multiplied_without_a_copy_as_float() -> None:
    tensor, mask = torch.randn(1 << 22, device="cuda"), torch.rand(1 << 22, device="cuda") < 0.1
    expected = tensor * mask
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    multiply_all_([(tensor, mask)])
    assert torch.equal(tensor, expected)
    assert torch.cuda.max_memory_allocated() - before < tensor.nbytes // 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_many_pairs_are_one_call(device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    foreach = torch._foreach_mul_
    monkeypatch.setattr(torch, "_foreach_mul_", lambda *lists: calls.append(lists) or foreach(*lists))
    pairs = [
        (torch.randn(shape, device=device, dtype=dtype), torch.rand(shape, device=device) < 0.5)
        for shape in [(3, 4), (7,), (2, 3, 3, 3), (1, 1)]
    ]
    expected = [tensor * mask for tensor, mask in pairs]
    multiply_all_(pairs)
    assert len(calls) == 1
    assert all(torch.equal(tensor, wanted) for (tensor, _), wanted in zip(pairs, expected, strict=True))
    multiply_all_([])
    assert len(calls) == 1
