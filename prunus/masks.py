"""Masks live outside the model, in a dictionary keyed by parameter name; weights are projected onto them."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

Tensors = dict[str, Tensor]
Masks = dict[str, Tensor]  # bool, shaped like the weight of the same name; True keeps
Weights = dict[str, nn.Parameter]

CHUNK = 1 << 18  # elements of a mask that are widened at once: 1 MiB as float32
WIDEN = 1 << 12  # from so many elements on, widening the mask first is faster


def keep_count(n: int, sparsity: float) -> int:
    """How many of ``n`` weights stay at ``sparsity``: ``n - round_half_up(sparsity * n)``, at least 1.

    The one rounding rule of the project. Raises ValueError for a sparsity outside [0, 1).

    >>> keep_count(848_944, 0.9)
    84894
    """
    check_sparsity(sparsity)
    return max(1, n - math.floor(sparsity * n + 0.5))


def active_count(n: int, density: float) -> int:
    """How many of ``n`` weights are active at ``density``, rounded half up, at least 1 (Tessera et al. 2022).

    Another number than `keep_count`'s only where ``density * n`` ends in exactly one half. Raises ValueError for a
    density outside [0, 1].

    >>> active_count(864, 0.255), active_count(5, 0.5), keep_count(5, 0.5)
    (220, 3, 2)
    """
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"a density must be in [0, 1], got {density}; it is 1 - sparsity")
    return max(1, math.floor(round(density * n, 9) + 0.5))  # 1 - 0.9 is a little less than 0.1


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError unless ``sparsity`` lies in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}; to keep a tenth of the weights pass 0.9")


def prunable(
    model: nn.Module, include: str | Sequence[str] | None = None, exclude: str | Sequence[str] = ()
) -> Weights:
    """The prunable parameters by name: the ``weight`` of every Linear and convolution.

    ``include`` replaces that choice by all parameters whose names match one of its globs, ``exclude`` takes names out
    of either. A weight shared by several layers appears once, under its first name; one shared with an embedding counts
    as an embedding. Names are those of the model inside ``torch.compile``, DDP, Fabric or accelerate wrappers. Raises
    ValueError for a glob that matches nothing and for a layer whose weight is computed from another parameter.

    >>> list(prunable(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), exclude="2.*"))
    ['0.weight']
    """
    model = unwrap(model)
    named = dict(model.named_parameters())
    layers = _layer_weights(model)
    chosen = layers if include is None else _matching(named, _globs(include), "include")
    dropped = _matching({**named, **layers}, _globs(exclude), "exclude")
    weights = {name: weight for name, weight in chosen.items() if name not in dropped}
    _refuse_computed(weights)
    if not weights:
        raise ValueError("no prunable weight: expected a Linear or convolution that the filters leave in, found none")
    return weights


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside the wrappers of torch.compile, (D)DP and Fabric."""
    for attribute in ("_orig_mod", "_original_module"):
        if isinstance(inner := model.__dict__.get("_modules", {}).get(attribute), nn.Module):
            return unwrap(inner)
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel | AveragedModel):
        return unwrap(model.module)
    return model


def project_(tensors: Mapping[str, Tensor], masks: Masks) -> None:
    """Zero in place what the masks drop; a name without a mask is left alone."""
    with torch.no_grad():
        multiply_all_([(tensor, masks[name]) for name, tensor in tensors.items() if name in masks])


def project_state_(optimizer: Optimizer, weights: Weights, masks: Masks) -> None:
    """Zero what the masks drop in every optimizer-state tensor that is shaped like its weight, by whatever name."""
    states = [(mask, optimizer.state.get(weights[name], {})) for name, mask in masks.items()]
    values = [(value, mask) for mask, state in states for value in state.values() if isinstance(value, Tensor)]
    with torch.no_grad():
        multiply_all_([(value, mask) for value, mask in values if value.shape == mask.shape])


def multiply_(tensor: Tensor, mask: Tensor) -> None:
    """``tensor *= mask`` in place."""
    multiply_all_([(tensor, mask)])


def multiply_all_(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """``tensor *= mask`` in place for all pairs; on an accelerator by one call that does not wait for the device.

    A CPU multiplies float by bool ten times slower than float by float, so there a mask is widened, chunk by chunk:
    one byte a weight in memory at nearly the speed of a float mask.
    """
    rest = [pair for pair in pairs if not _multiplied_wide(*pair)]
    if rest:
        torch._foreach_mul_([tensor for tensor, _ in rest], [mask for _, mask in rest])


def _multiplied_wide(tensor: Tensor, mask: Tensor) -> bool:
    if tensor.device.type != "cpu" or tensor.numel() < WIDEN or not _same_dense_layout(tensor, mask):
        return False
    buffer = torch.empty(min(CHUNK, tensor.numel()), dtype=tensor.dtype)
    flags = mask.as_strided((mask.numel(),), (1,)).view(torch.int8)  # int8 widens fast, bool does not
    values = tensor.as_strided((tensor.numel(),), (1,))
    for part, kept in zip(torch.split(values, CHUNK), torch.split(flags, CHUNK), strict=True):
        part.mul_(buffer[: kept.numel()].copy_(kept))
    return True


def full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything, in the memory layout of the weights."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def sparsity_of(masks: Iterable[Tensor]) -> float:
    """The fraction of zeros over all masks (or over all tensors: zeros among their entries)."""
    masks = list(masks)
    kept = sum(int(mask.count_nonzero()) for mask in masks)
    return 1.0 - kept / sum(mask.numel() for mask in masks)


def pack(mask: Tensor) -> Tensor:
    """The mask at one bit a weight, on the CPU: uint8 of length ceil(n / 8), the lowest bit first, in flat order."""
    return torch.from_numpy(np.packbits(mask.detach().reshape(-1).cpu().numpy(), bitorder="little"))


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool mask of ``shape``, on the CPU, that `pack` packed."""
    bits = np.unpackbits(packed.cpu().numpy(), count=math.prod(shape), bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).view(*shape)


def masks_hash(masks: Masks) -> str:
    """SHA-256 of names, shapes and bits: the same for the same masks on any device and in any memory layout."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(pack(masks[name]).numpy().tobytes())
    return digest.hexdigest()


def _same_dense_layout(tensor: Tensor, mask: Tensor) -> bool:
    formats = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    dense = any(tensor.is_contiguous(memory_format=f) for f in formats[: max(1, tensor.dim() - 2)])
    return dense and tensor.stride() == mask.stride()


def _layer_weights(model: nn.Module) -> Weights:
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    found: Weights = {}
    for layer, module in model.named_modules():
        if not isinstance(module, nn.Linear | _ConvNd) or isinstance(module.weight, nn.UninitializedParameter):
            continue
        weight = module._parameters.get("weight")
        if weight is None:
            found[f"{layer}.weight" if layer else "weight"] = module.weight  # type: ignore[assignment]
        elif id(weight) not in embedded and all(weight is not other for other in found.values()):
            found[f"{layer}.weight" if layer else "weight"] = weight
    return found


def _refuse_computed(weights: Weights) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, nn.Parameter):
            raise ValueError(
                f"the weight of {name.removesuffix('.weight')!r} is computed from another parameter; make it plain "
                "first (parametrize.remove_parametrizations or prune.remove), or exclude it"
            )


def _matching(named: Mapping[str, nn.Parameter], globs: Sequence[str], role: str) -> Weights:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in named):
            raise ValueError(f"{role} glob {glob!r} matches no parameter; the names are {_few(named)}")
    return {name: p for name, p in named.items() if any(fnmatchcase(name, glob) for glob in globs)}


def _globs(globs: str | Sequence[str]) -> Sequence[str]:
    return [globs] if isinstance(globs, str) else globs


def _few(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
