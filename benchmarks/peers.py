"""What the benchmarks compare: two networks, their training step, and two other ways to hold a mask."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from prunus import sparsify
from prunus.carriers import Carrier
from prunus.masks import keep_count
from prunus.models import MODELS
from prunus.ranking import top_k

SPARSITY = 0.9
Attach = Callable[[nn.Module, torch.optim.Optimizer], object]


def dense(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Nothing."""


def ours(method: Callable[[], Carrier]) -> Attach:
    """A method of prunus, in a training too long to end."""
    return lambda model, optimizer: sparsify(model, optimizer, method(), steps=1_000_000)


def torch_prune(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """PyTorch's own pruning: a float mask, multiplied in a hook before every forward."""
    for module in _layers(model):
        prune.l1_unstructured(module, "weight", amount=SPARSITY)


def mask_buffer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A parametrization that multiplies by a bool mask in a buffer."""
    for module in _layers(model):
        parametrize.register_parametrization(module, "weight", MaskBuffer(module.weight.detach()))


class MaskBuffer(nn.Module):
    """``weight * mask``; the largest weights of a layer stay."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", top_k(weight.abs(), keep_count(weight.numel(), SPARSITY)))

    def forward(self, weight: Tensor) -> Tensor:
        """The product."""
        return weight * self.mask


def training(network: str, attach: Attach) -> Iterator[None]:
    """Endless steps of SGD with momentum on one synthetic batch of 128; "mlp" has 10.5 million weights."""
    torch.manual_seed(0)
    shape = {"resnet20": (3, 32, 32), "mlp": (1, 32, 32)}[network]
    widths = {"widths": (2048, 2048, 2048)} if network == "mlp" else {}
    model = MODELS[network](shape, 10, **widths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    attached = attach(model, optimizer)
    inputs, labels = torch.randn(128, *shape), torch.randint(10, (128,))
    while True:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        yield
    del attached


def header(**settings: object) -> str:
    """One line that says what a table was measured with."""
    parts = [f"torch {torch.__version__}", f"{torch.get_num_threads()} thread(s)"]
    return ", ".join(parts + [f"{name} {value}" for name, value in settings.items()])


def _layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
