"""The attachment: a method in the optimizer's own step hooks, so that any training loop is the integration."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from prunus.carriers import Carrier, Site
from prunus.masks import Masks, Weights, prunable, sparsity_of

Closure = Callable[[], Tensor]


def sparsify(
    model: nn.Module,
    optimizer: Optimizer,
    method: Carrier,
    steps: int,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    seed: int = 0,
    hooks: bool = True,
    start: Masks | None = None,
) -> "Sparsifier":
    """Attach ``method`` to the training of ``model`` by ``optimizer`` over ``steps`` optimizer steps.

    The loop stays as it is; ``hooks=False`` leaves the calls of `Sparsifier.before_step` and `after_step` to it.
    ``include`` and ``exclude`` choose weights by glob as in `prunable`. ``start`` holds the masks of a network that is
    sparse already: the method goes on from there, to the same sparsity or a higher one. Call it after the model is on
    its device and before a learning-rate scheduler is made. Wrappers of torch.compile, DDP, Fabric and accelerate are
    seen through. Raises ValueError when the optimizer does not hold the weights, and for a start that does not fit.

    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> from prunus.methods import magnitude_pruning
    >>> sparsify(model, optimizer, magnitude_pruning(sparsity=0.5), steps=10).sparsity()
    0.5
    """
    if steps < 1:
        raise ValueError(f"steps must be the number of optimizer steps of the training, at least 1, got {steps}")
    inner = _inner(optimizer)
    weights = prunable(model, include, exclude)
    _check_held(weights, inner)
    if start is not None:
        _check_start(weights, start)
    return Sparsifier(method, Site(model, weights, inner, steps, seed, start), hooks)


class Sparsifier:
    """A method at work: its masks, its clock (optimizer steps taken) and what a checkpoint needs of it."""

    def __init__(self, method: Carrier, site: Site, hooks: bool) -> None:
        self.method, self.site, self.clock = method, site, 0
        self._handles: list[RemovableHandle] = []
        self._final = False
        method.attach(site)
        if hooks:
            self._hook_()

    @property
    def masks(self) -> Masks:
        """The present masks by parameter name; True keeps."""
        return self.method.masks

    @property
    def changes(self) -> int:
        """How often a rule has changed the masks; 0 for learned thresholds, which move at every step."""
        return self.method.changes

    def sparsity(self) -> float:
        """The realised fraction of zeros among the prunable weights."""
        return sparsity_of(self.masks.values())

    def reads_dropped(self) -> bool:
        """Whether the step that comes needs the gradients of dropped weights; once detached, every step does."""
        return self._final or self.method.reads_dropped(self.clock)

    def before_step(self) -> None:
        """Gradients are ready and the optimizer is about to step. Called by the hooks unless ``hooks=False``."""
        self.method.before_step(self.clock)
        self.method.edit_gradients()

    def after_step(self) -> None:
        """The optimizer has stepped. Called by the hooks unless ``hooks=False``."""
        self.clock += 1
        self.method.after_step(self.clock)

    def finalize(self, model: nn.Module | None = None) -> Masks:
        """Leave plain parameters with zeros in place, detach from the optimizer and return the final masks.

        With ``model``, a copy such as ``AveragedModel(...).module``, only that copy is made plain and projected.
        """
        if model is not None:
            self.method.finalize_copy(model)
            return self.masks
        if not self._final:
            self._final = True
            self.method.finalize()
            for handle in self._handles:
                handle.remove()
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """The clock and the method's state, masks at one bit a weight; loads with ``weights_only=True``."""
        return {
            "clock": self.clock,
            "steps": self.site.steps,
            "shapes": {name: list(weight.shape) for name, weight in self.site.weights.items()},
            "start": sparsity_of(self.site.start.values()) if self.site.start else 0.0,
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken. First `sparsify`, then load model and optimizer, then this.

        Raises ValueError for a state of a training of other length, start, weights or kind of method.
        """
        ours = self.state_dict()
        for key, name in (("steps", "steps"), ("start", "sparsity at its start"), ("shapes", "prunable weights")):
            if state[key] != ours[key]:
                raise ValueError(f"the state is of a training with other {name}: {state[key]}, here {ours[key]}")
        if state["method"].keys() != ours["method"].keys():
            raise ValueError("the state is of another kind of method; pass sparsify the one that it was taken of")
        self.clock = state["clock"]
        self.method.load_state_dict(state["method"], self.clock)

    def __str__(self) -> str:
        """A table: name, shape, sparsity of each layer, and the whole."""
        masks = self.masks
        rows = [(name, "x".join(map(str, mask.shape)), sparsity_of([mask])) for name, mask in masks.items()]
        rows.append(("all", str(sum(mask.numel() for mask in masks.values())), sparsity_of(masks.values())))
        names, shapes = (
            max(len(text) for text in column) for column in zip(*((n, s) for n, s, _ in rows), strict=True)
        )
        return "\n".join(f"{name:<{names}}  {shape:>{shapes}}  {sparsity:8.4f}" for name, shape, sparsity in rows)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the hooks' handles, of which only whether there are any."""
        return vars(self) | {"_handles": bool(self._handles) and not self._final}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a deep copy of an optimizer has no hooks: the copied sparsifier sets its own
        self.__dict__.update(state, _handles=[])
        if state["_handles"]:
            self._hook_()

    def _hook_(self) -> None:
        optimizer = self.site.optimizer
        before, after = optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)
        self._handles = [before, after]

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is not None:
            return (args[0], self._around(closure)), {}
        if not _overflowed(optimizer):
            _unscale_(optimizer)
            self.before_step()
        return None

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not _overflowed(optimizer):
            self.after_step()

    def _around(self, closure: Closure) -> Closure:
        decided = False

        def with_edited_gradients() -> Tensor:
            nonlocal decided
            loss = closure()
            if not decided:  # a line search runs the closure again; the method decides once a step
                self.method.before_step(self.clock)
                decided = True
            self.method.edit_gradients()
            return loss

        return with_edited_gradients


def _inner(optimizer: Optimizer) -> Optimizer:
    """The torch optimizer inside the wrappers of accelerate and Fabric."""
    while isinstance(wrapped := vars(optimizer).get("optimizer", vars(optimizer).get("_optimizer")), Optimizer):
        optimizer = wrapped
    return optimizer


def _check_held(weights: Weights, optimizer: Optimizer) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in held]
    if missing:
        raise ValueError(
            f"the optimizer does not hold {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}; make it from "
            "this model's parameters (after .to(device)), or exclude these weights"
        )


def _check_start(weights: Weights, start: Masks) -> None:
    ours, theirs = ({name: tuple(tensor.shape) for name, tensor in named.items()} for named in (weights, start))
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))
        raise ValueError(
            f"start must hold a mask for every prunable weight and no other, they differ in {differing[0][0]!r}; take "
            "masks of the same network with the same include and exclude"
        )


def _overflowed(optimizer: Optimizer) -> bool:
    # only a fused optimizer under GradScaler is stepped although it will do nothing; its flag costs one wait
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _unscale_(optimizer: Optimizer) -> None:
    # a fused optimizer under GradScaler would unscale inside its kernel, after the method has seen the gradients
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale)
    optimizer.grad_scale = None  # type: ignore[attr-defined]
