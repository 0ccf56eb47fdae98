"""Methods on weights that `fully_shard` spreads over ranks: everything elementwise on the shards, rankings over all."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from prunus.allocation import global_
from prunus.carriers import Masked, Site
from prunus.criteria import is_elementwise
from prunus.distributed.threshold import GlobalOverRanks
from prunus.masks import Masks, Tensors, unwrap
from prunus.signals import Gradient
from prunus.sparsifier import Sparsifier
from prunus.updates import Prune


@dataclass(eq=False)
class Sharded:
    """A masked method, such as ``gmp(0.9)``, for a model under ``torch.distributed.fsdp.fully_shard``.

    Its rule must prune by an elementwise criterion over the whole network (`global_`): the threshold is then found over
    all ranks, exactly, and the masks are the rows of those that one process would have. ``masks``, the sparsity and
    the state are those of this rank's rows; see `whole_masks`. Call `fully_shard`, then make the optimizer, then
    `sparsify`. Raises ValueError for any other rule, for first masks, and for weights that are not shards of rows.

    >>> # on every rank: fully_shard(model); sparsify(model, optimizer, Sharded(gmp(0.9)), steps=1000)
    """

    method: Masked
    _site: Site = field(init=False, repr=False)
    _local: Site = field(init=False, repr=False)

    @property
    def masks(self) -> Masks:
        """The present masks of this rank's rows."""
        return self.method.masks

    @property
    def changes(self) -> int:
        """How often they changed."""
        return self.method.changes

    def attach(self, site: Site) -> None:
        """Take hold of this rank's rows."""
        rows = {name: _rows(name, weight) for name, weight in site.weights.items()}
        if site.start:
            raise ValueError("a sharded method begins from dense weights, got first masks; leave start out")
        first = next(iter(site.weights.values()))
        assert isinstance(first, DTensor)
        over_ranks = GlobalOverRanks(first.device_mesh.get_group())
        self.method = replace(self.method, update=_over_ranks(self.method, over_ranks))
        self._site = site
        twin = torch.optim.SGD(rows.values(), lr=0.0)  # never steps: holds the rows of the true optimizer's state
        self._local = Site(site.model, rows, twin, site.steps, site.seed)
        self.method.attach(self._local)

    def before_step(self, clock: int) -> None:
        """As the method, on the rows."""
        self._look_()
        self.method.before_step(clock)

    def edit_gradients(self) -> None:
        """As the method, on the rows."""
        self._look_()
        self.method.edit_gradients()

    def after_step(self, clock: int) -> None:
        """As the method, on the rows."""
        self._look_()
        self.method.after_step(clock)

    def reads_dropped(self, clock: int) -> bool:
        """As the method."""
        return self.method.reads_dropped(clock)

    def finalize(self) -> None:
        """Nothing is left to do."""

    def finalize_copy(self, model: nn.Module) -> None:
        """Zero in a sharded copy of the model what the masks drop."""
        copies = dict(unwrap(model).named_parameters())
        with torch.no_grad():
            for name, mask in self.masks.items():
                _of_this_rank(copies[name]).mul_(mask)

    def state_dict(self) -> dict[str, Tensors]:
        """That of the method, for this rank's rows."""
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Tensors], clock: int) -> None:
        """Take it back, on as many ranks."""
        self.method.load_state_dict(state, clock)

    def _look_(self) -> None:
        """Give the rows their present gradients and optimizer state, which share memory with the sharded ones."""
        for name, weight in self._site.weights.items():
            row = self._local.weights[name]
            row.grad = None if weight.grad is None else _of_this_rank(weight.grad)
            self._local.optimizer.state[row] = _state_of(self._site.optimizer, weight)


def whole_masks(sparsifier: Sparsifier) -> Masks:
    """The masks of the whole network, on every rank; all ranks call it together."""
    return {name: _gathered(mask, sparsifier.site.weights[name]) for name, mask in sparsifier.masks.items()}


def _gathered(mask: Tensor, weight: Tensor) -> Tensor:
    assert isinstance(weight, DTensor)
    place = (weight.device_mesh, weight.placements)
    rows = mask.view(torch.uint8)
    whole = DTensor.from_local(rows, *place, run_check=False, shape=weight.shape, stride=weight.stride())
    return whole.full_tensor().view(torch.bool)


def _rows(name: str, weight: Tensor) -> nn.Parameter:
    if not isinstance(weight, DTensor) or weight.placements != (Shard(0),):
        raise ValueError(
            f"{name} must be spread over ranks by rows, as fully_shard(model) on a mesh of one dimension does it; "
            "shard the model before sparsify, or give the method without Sharded"
        )
    return nn.Parameter(_of_this_rank(weight))


def _of_this_rank(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local().detach()


def _state_of(optimizer: Optimizer, weight: nn.Parameter) -> Mapping[str, object]:
    known = optimizer.state.get(weight, {})
    return {name: _of_this_rank(value) if isinstance(value, DTensor) else value for name, value in known.items()}


def _over_ranks(method: Masked, over_ranks: GlobalOverRanks) -> Prune:
    rule = method.update
    simple = isinstance(rule, Prune) and rule.allocation is global_ and is_elementwise(rule.criterion)
    if not simple or method.start is not None or method.rescale or not isinstance(rule.signal, Gradient | None):
        raise ValueError(
            f"a sharded method must prune by an elementwise criterion over the whole network, as gmp and magnitude do, "
            f"got {rule}; others need all weights in one place"
        )
    assert isinstance(rule, Prune)
    return replace(rule, allocation=over_ranks)
