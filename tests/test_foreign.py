"""State dicts of other pruning tools, made by the tools themselves."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from prunus.foreign import masks_from_zeros, read_foreign


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6))


def outputs(model: nn.Module) -> Tensor:
    return model.eval()(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def quiet() -> Iterator[None]:
    """torch.ao.pruning warns that it is about to go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def torch_pruned() -> nn.Module:
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[4], "weight", 0.8)
    prune.l1_unstructured(model[4], "bias", 0.5)
    prune.ln_structured(model[4], "weight", 0.2, n=2, dim=0)  # on top of the first mask
    return model


def assert_plain(found: dict[str, Tensor], masks: dict[str, Tensor], tool: nn.Module) -> None:
    """A plain network takes the weights, is the tool's network, and is zero where the masks say."""
    model = network()
    model.load_state_dict(found)
    assert torch.equal(outputs(model), outputs(tool))
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, found[name] != 0)


def test_masks_of_torch_prune() -> None:
    tool = torch_pruned()
    weights, masks = read_foreign(tool.state_dict())
    assert masks.keys() == {"0.weight", "4.weight", "4.bias"}
    assert_plain(weights, masks, tool)
    assert masks["0.weight"].sum() == 108
    assert not weights["0.weight"][~masks["0.weight"]].signbit().any()


@pytest.mark.usefixtures("quiet")
def test_masks_of_the_sparsifier_of_torch_ao() -> None:
    from torch.ao.pruning import WeightNormSparsifier

    tool = network()
    sparsifier = WeightNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(tool, [{"tensor_fqn": "4.weight"}])  # it takes no convolutions
    sparsifier.step()
    saved = {"model": tool.state_dict(), "sparsifier": sparsifier.state_dict(), "epoch": 3}
    weights, masks = read_foreign(saved)
    assert masks.keys() == {"4.weight"}
    assert masks["4.weight"].sum() == 48
    assert_plain(weights, masks, tool)
    with pytest.raises(ValueError, match=r"4\.parametrizations\.weight\.original needs a mask.*call its squash_mask"):
        read_foreign(tool.state_dict())
    sparsifier.squash_mask()
    assert_plain(*read_foreign(tool.state_dict()), tool)


class RowMask(nn.Module):
    """As the structured pruner of torch.ao.pruning has it: a mask of rows, kept in the state dict."""

    def __init__(self, kept: tuple[int, ...] = (1, 0, 1, 1, 0, 1)) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor(kept))

    def forward(self, weight: Tensor) -> Tensor:
        return self.get_buffer("mask").reshape(-1, 1) * weight


def test_masks_of_rows_in_the_state_dict_itself() -> None:
    tool = network()
    parametrize.register_parametrization(tool[4], "weight", RowMask())
    weights, masks = read_foreign(tool.state_dict())
    assert masks["4.weight"].shape == (6, 32)
    assert masks["4.weight"].all(1).tolist() == [True, False, True, True, False, True]
    assert_plain(weights, masks, tool)


def test_masks_on_top_of_each_other_all_count() -> None:
    tool = network()
    for kept in ((1, 0, 1, 1, 0, 1), (1, 1, 0, 1, 0, 1)):
        parametrize.register_parametrization(tool[4], "weight", RowMask(kept))
    weights, masks = read_foreign(tool.state_dict())
    assert masks["4.weight"].all(1).tolist() == [True, False, False, True, False, True]
    assert_plain(weights, masks, tool)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return self.get_buffer("factor") * weight


def test_a_mask_among_other_parametrizations_is_left_to_its_owner() -> None:
    tool = network()
    for parametrization in (RowMask(), Scale()):
        parametrize.register_parametrization(tool[4], "weight", parametrization)
    weights, masks = read_foreign(tool.state_dict())
    assert weights.keys() == tool.state_dict().keys()
    assert masks == {}


def test_a_bare_layer() -> None:
    layer = prune.l1_unstructured(nn.Linear(4, 6), "weight", 0.5)
    assert read_foreign(layer.state_dict())[1].keys() == {"weight"}
    tool = nn.Linear(4, 6)
    parametrize.register_parametrization(tool, "weight", RowMask())
    assert read_foreign(tool.state_dict())[1].keys() == {"weight"}


def test_other_parametrizations_pass_unchanged() -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)), parametrizations.spectral_norm(nn.Linear(4, 4))
    )
    weights, masks = read_foreign(model.state_dict())
    assert weights.keys() == model.state_dict().keys()
    assert masks == {}


def test_a_plain_state_dict_passes_without_masks() -> None:
    state = network().state_dict()
    state["4.weight"][0] = 0
    weights, masks = read_foreign(state)
    assert masks == {}
    assert all(weights[name] is state[name] for name in state)
    assert weights.keys() == state.keys()


def test_masks_from_zeros_are_of_weights_that_have_some() -> None:
    state = network().state_dict()
    state["4.weight"][0] = 0
    state["4.bias"][0] = 0
    masks = masks_from_zeros(state)
    assert masks.keys() == {"4.weight"}
    assert masks["4.weight"].sum(1).tolist() == [0, 32, 32, 32, 32, 32]


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_containers_and_wrappers_are_looked_through(container: str, prefix: str) -> None:
    tool = torch_pruned()
    wrapped = {prefix + name: tensor for name, tensor in tool.state_dict().items()}
    optimizer = torch.optim.SGD(tool.parameters(), lr=0.1, momentum=0.9)
    outputs(tool).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, container: wrapped, "optimizer": optimizer.state_dict()}
    weights, masks = read_foreign(saved)
    assert masks.keys() == {"0.weight", "4.weight", "4.bias"}
    network().load_state_dict(weights)


def test_a_child_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert read_foreign(model.state_dict())[0].keys() == model.state_dict().keys()


def test_what_is_no_state_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got int under 'epoch'; save model\.state_dict"):
        read_foreign({"epoch": 3, "weights": network().state_dict()})
