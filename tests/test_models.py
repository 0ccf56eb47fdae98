"""The model zoo: counts as published, ResNet-8 against a naive twin, and what every network here must bear."""

import copy
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunus.masks import prunable
from prunus.models import MODELS, factory, kaiming_normal_, lecun_normal_
from prunus.models.cifar_resnet import Subsample
from prunus.models.resnet import BasicBlock, Bottleneck
from prunus.models.wide_resnet import WideBlock

CIFAR, MNIST, IMAGENET = (3, 32, 32), (1, 28, 28), (3, 224, 224)
STEM = {"stem": "imagenet"}
TINY = {"widths": (8, 16, 16), "hidden": 32}

# Parameters, prunable ones, prunable tensors, multiply-accumulates. Sources: Lee et al. 2020's code (simple-cnn and
# resnet8), Zimmer et al. 2023's (mlp of 512, resnet56, resnet18, vgg16-bn, wrn-28-10, resnet50 on ImageNet),
# Misra et al. 2022's (prunable of resnet20 and resnet50 on CIFAR, without the head), torchvision's documentation
# (parameters on ImageNet), hand counts (conv-net, wrn-22-2); the rest is what these networks have, to notice a change.
COUNTS = [
    ("mlp", MNIST, 10, {"widths": (512,)}, (407_050, 406_528, 2, 406_528)),
    ("lenet-300-100", MNIST, 10, {}, (266_610, 266_200, 3, 266_200)),
    ("simple-cnn", MNIST, 10, {}, (62_346, 62_240, 3, 3_747_840)),
    ("conv-net", CIFAR, 10, {}, (122_570, 122_336, 5, 8_028_800)),
    ("conv-net", CIFAR, 10, {"widths": (16, 32, 32)}, (47_818, 47_664, 5, 2_245_248)),
    ("conv-net", (3, 16, 16), 10, TINY, (6_122, 6_040, 5, 168_256)),
    ("resnet8", CIFAR, 10, {}, (75_050, 74_800, 8, 12_239_488)),
    ("resnet20", CIFAR, 10, {}, (269_722, 268_336, 20, 40_551_040)),
    ("resnet32", CIFAR, 10, {}, (464_154, 461_872, 32, 68_862_592)),
    ("resnet44", CIFAR, 10, {}, (658_586, 655_408, 44, 97_174_144)),
    ("resnet56", CIFAR, 10, {}, (853_018, 848_944, 56, 125_485_696)),
    ("resnet18", CIFAR, 10, {}, (11_173_962, 11_164_352, 21, 555_422_720)),
    ("resnet34", CIFAR, 10, {}, (21_282_122, 21_265_088, 37, 1_159_402_496)),
    ("resnet50", CIFAR, 10, {}, (23_520_842, 23_467_712, 54, 1_297_829_888)),
    ("resnet18", IMAGENET, 1000, STEM, (11_689_512, 11_678_912, 21, 1_814_073_344)),
    ("resnet34", IMAGENET, 1000, STEM, (21_797_672, 21_779_648, 37, 3_663_761_408)),
    ("resnet50", IMAGENET, 1000, STEM, (25_557_032, 25_502_912, 54, 4_089_184_256)),
    ("vgg16-bn", CIFAR, 10, {}, (14_728_266, 14_715_584, 14, 313_201_664)),
    ("wrn-28-10", CIFAR, 100, {}, (36_546_980, 36_518_832, 29, 5_951_175_168)),
    ("wrn-22-2", CIFAR, 10, {}, (1_081_226, 1_076_912, 23, 186_041_600)),
]
SMALL = ["mlp", "lenet-300-100", "simple-cnn", "conv-net", "resnet8"]
KINDS = [*SMALL, "resnet20", "resnet18", "vgg16-bn", "wrn-22-2"]  # the others have more of the same blocks
BLOCKS = {
    "projected": BasicBlock,
    "subsampled": partial(BasicBlock, shortcut=Subsample),
    "bottleneck": Bottleneck,
    "wide": partial(WideBlock, dropout=0.3),
}


@pytest.mark.parametrize(("name", "input_shape", "classes", "options", "expected"), COUNTS)
def test_counts_are_the_published_ones(name, input_shape, classes, options, expected):
    with torch.device("meta"):
        model = MODELS[name](input_shape, classes, **options).eval()
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.empty(1, *input_shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sizes = [weight.numel() for weight in prunable(model).values()]
    assert logits.shape == (1, classes)
    assert (parameters, sum(sizes), len(sizes), counter.get_total_flops() // 2) == expected


def test_every_model_has_its_counts_tested():
    assert {name for name, *_ in COUNTS} == set(MODELS)


@pytest.mark.parametrize("name", [*KINDS, "resnet50"])
def test_one_channel_of_28_pixels_gives_logits(name):
    with torch.device("meta"):
        assert MODELS[name](MNIST, 7)(torch.empty(2, *MNIST)).shape == (2, 7)


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_compiles_as_one_graph(name):
    with torch.device("meta"):
        assert _compiled(MODELS[name](CIFAR, 10))(torch.empty(2, *CIFAR)).shape == (2, 10)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_blocks_compile_as_one_graph(block):
    assert _compiled(block(8, 16, 2))(torch.zeros(2, 8, 4, 4)).shape == (2, 16, 2, 2)


@pytest.mark.parametrize("name", [*SMALL, "resnet20", "wrn-22-2"])
def test_a_copy_computes_the_same_and_shares_nothing(name):
    model, images = MODELS[name](CIFAR, 10).eval(), torch.randn(2, *CIFAR)
    model(images).sum().backward()  # some networks cannot be copied once they have a graph
    twin = copy.deepcopy(model)
    before = twin(images)
    assert torch.equal(before, model(images))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(before, twin(images))


@pytest.mark.parametrize("name", [*KINDS, "resnet50"])
def test_channels_last_stays_from_input_to_head(name):
    model = MODELS[name](CIFAR, 10).eval().to(memory_format=torch.channels_last)
    images = torch.randn(2, *CIFAR)
    expected = model(images)
    inputs, outputs = _record(model, lambda arguments, _: arguments[0]), _record(model, lambda _, output: output)
    actual = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in inputs + outputs if x.dim() == 4)


@pytest.mark.parametrize("name", [*KINDS, "resnet50"])
def test_nothing_is_computed_in_place(name):
    model, images = MODELS[name](CIFAR, 10), torch.randn(2, *CIFAR)
    outputs = _record(model, lambda _, output: output)
    model(images)
    assert len(outputs) > len(prunable(model))
    assert all(x._version == 0 for x in [images, *outputs])


@pytest.mark.parametrize("name", [*SMALL, "resnet20", "wrn-22-2"])
def test_torchs_seed_fixes_the_initial_weights(name):
    first, again, other = (_seeded_weights(name, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_resnet8_is_its_naive_twin():
    torch.manual_seed(0)
    model = MODELS["resnet8"]((3, 8, 8), 10).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too: at zero they could be missing
    images = torch.randn(2, 3, 8, 8, dtype=torch.double)
    torch.testing.assert_close(model(images), _naive_resnet8(images, dict(model.named_parameters())))


def test_option_a_shortcut_keeps_every_second_pixel_between_zero_channels():
    x = torch.randn(2, 4, 5, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for channel, row, column in product(range(4), range(3), range(3)):
        expected[:, channel + 2, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(Subsample(4, 8, 2)(x), expected)


def test_cifar_resnets_have_no_weights_in_their_shortcuts():
    assert not [name for name in MODELS["resnet20"](CIFAR, 10).state_dict() if "downsample" in name]


def test_resnets_have_the_names_of_torchvision():
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape) for name, value in MODELS["resnet50"](CIFAR, 10, **STEM).state_dict().items()
        }
    assert len(shapes) == 320
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_mean"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    assert shapes["fc.bias"] == (10,)


def test_wide_resnets_drop_out_and_end_as_the_reference_does():
    model = MODELS["wrn-28-10"]
    with torch.device("meta"):
        modules = dict(model(CIFAR, 100).named_modules())
        still = dict(model(CIFAR, 100, dropout=0.0).named_modules())
    assert (modules["layer2.3.dropout"].p, still["layer2.3.dropout"].p) == (0.3, 0.0)
    assert (modules["bn1"].momentum, modules["layer1.0.bn1"].momentum) == (0.9, 0.1)
    assert modules["layer2.0.conv1"].stride == (1, 1)


def test_an_unknown_stem_names_the_two():
    with pytest.raises(ValueError, match=r"stem must be 'cifar' .* or 'imagenet' .*, got 'mnist'"):
        MODELS["resnet18"](CIFAR, 10, stem="mnist")


@pytest.mark.parametrize("layer", [nn.Conv2d(40, 500, 5), nn.Linear(1000, 500)])
def test_lecun_normal_has_variance_one_over_fan_in_and_no_tails(layer):
    torch.manual_seed(0)
    lecun_normal_(layer)
    scaled = layer.weight * 1000**0.5
    assert scaled.var().item() == pytest.approx(1, rel=0.01)
    assert scaled.abs().max().item() == pytest.approx(2 / 0.87962566103423978, rel=0.001)
    assert layer.bias.count_nonzero() == 0


def test_kaiming_normal_has_variance_two_over_fan_out_and_leaves_linear_layers():
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(500, 40, 5), nn.Linear(1000, 500)
    before = copy.deepcopy(linear)
    kaiming_normal_(nn.Sequential(convolution, linear))
    assert (convolution.weight * 1000**0.5).var().item() == pytest.approx(2, rel=0.01)
    assert convolution.bias.count_nonzero() == 0
    assert torch.equal(linear.weight, before.weight)


@pytest.mark.parametrize("name", ["simple-cnn", "conv-net", "resnet8"])
def test_small_convolutional_networks_start_lecun_normal(name):
    for weight in prunable(MODELS[name](CIFAR, 10)).values():
        bound = 2 / 0.87962566103423978 / weight[0].numel() ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg16-bn", "wrn-22-2"])
def test_normalised_networks_start_kaiming_normal(name):
    for weight in prunable(MODELS[name](CIFAR, 10), include="layer*.weight", exclude="*bn*").values():
        if weight.dim() == 4 and weight.numel() > 30_000:
            assert weight.std().item() * (weight[:, 0].numel() / 2) ** 0.5 == pytest.approx(1, rel=0.05)


def test_the_linear_layer_of_vgg_starts_small():
    torch.manual_seed(0)
    fc = MODELS["vgg16-bn"](CIFAR, 10).fc
    assert fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert fc.bias.count_nonzero() == 0


def test_every_model_says_what_it_is_in_one_line():
    assert all(model.__doc__.splitlines()[0].endswith((".", ";")) for model in MODELS.values())


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no model is called 'resnet19'; there are mlp, .*, timm/NAME"):
        factory("resnet19")


@pytest.mark.parametrize("package", ["timm", "torchvision", "transformers"])
def test_a_missing_package_says_how_to_install_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        factory(f"{package}/any")(CIFAR, 10)
    assert str(error.value) == f"{package}/… needs the package {package}: pip install {package}"


def test_a_package_that_breaks_at_import_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("import a_package_that_timm_needs")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_package_that_timm_needs'"):
        factory("timm/any")(CIFAR, 10)


class WithAuxiliary(nn.Linear):
    """A stand-in for a torchvision network that returns more than its logits, as GoogLeNet does in training."""

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(x), auxiliary=x)


@pytest.fixture
def stand_in(monkeypatch):
    models = SimpleNamespace(
        list_models=lambda module: ["net18", "net34"],
        get_model=lambda name, num_classes: WithAuxiliary(4, num_classes),
    )
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))


def test_an_external_model_returns_its_logits_and_keeps_its_names(stand_in):
    model = factory("torchvision/net18")(CIFAR, 7)
    assert copy.deepcopy(model)(torch.zeros(2, 4)).shape == (2, 7)
    assert set(model.state_dict()) == {"weight", "bias"}


def test_an_unknown_external_model_is_one_line_with_near_names(stand_in):
    with pytest.raises(
        ValueError, match=r"^torchvision has no image classifier called 'net19'; .* names are net18, net34$"
    ):
        factory("torchvision/net19")(CIFAR, 7)


def test_torchvision_refuses_other_than_three_channels(stand_in):
    with pytest.raises(ValueError, match="take 3 channels, got 1; timm/NAME"):
        factory("torchvision/net18")(MNIST, 7)


@pytest.mark.filterwarnings("ignore")  # the packages' own
@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        ("timm/resnet18", MNIST),
        ("timm/vit_tiny_patch16_224", CIFAR),
        ("torchvision/resnet18", CIFAR),
        ("transformers/vit", MNIST),
        ("transformers/resnet", CIFAR),
        ("transformers/deit", CIFAR),
    ],
)
def test_models_of_installed_packages_give_logits(name, input_shape):
    _import_or_skip(name.partition("/")[0])
    with torch.device("meta"):
        assert factory(name)(input_shape, 7)(torch.empty(2, *input_shape)).shape == (2, 7)


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_file_of_transformers_is_followed(tmp_path):
    _import_or_skip("transformers")
    path = tmp_path / "config.json"
    path.write_text(
        '{"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4,'
        ' "intermediate_size": 16, "image_size": 224, "id2label": {"0": "cat", "1": "dog"}}'
    )
    model = factory(f"transformers/{path}")(CIFAR, 7)
    assert model(torch.zeros(2, *CIFAR)).shape == (2, 7)
    assert len(prunable(model)) == 8  # patches, query, key, value, projection, two of the perceptron, classifier


def _naive_resnet8(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    def convolution(x, name, stride=1):
        return _same_convolution(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)

    x = convolution(x, "conv1")
    for name, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        active = x.clamp(min=0)
        if stride == 2:
            corners = [active[:, :, row::2, column::2] for row, column in product((0, 1), repeat=2)]
            mean = sum(corners) / 4
            x = torch.cat([mean, torch.zeros_like(mean)], dim=1)
        inner = convolution(active, f"{name}.conv1", stride).clamp(min=0)
        x = x + convolution(inner, f"{name}.conv2")
    return x.clamp(min=0).mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def _same_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """TensorFlow's rule: ceil(side / stride) outputs; of the padding they need, the smaller half comes first."""
    side, kernel = x.shape[-1], weight.shape[-1]
    outputs = -(-side // stride)
    padding = max((outputs - 1) * stride + kernel - side, 0)
    before, after = padding // 2, padding - padding // 2
    x = F.pad(x, (before, after, before, after))
    result = bias.view(1, -1, 1, 1)
    for row, column in product(range(kernel), repeat=2):
        rows, columns = (slice(start, start + stride * (outputs - 1) + 1, stride) for start in (row, column))
        result = result + torch.einsum("nihw,oi->nohw", x[:, :, rows, columns], weight[:, :, row, column])
    return result


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(model, backend="eager", fullgraph=True)


def _record(model: nn.Module, pick: Callable[[tuple[Tensor, ...], Tensor], Tensor]) -> list[Tensor]:
    """The list that fills with what ``pick`` takes of every module's arguments and output."""
    seen: list[Tensor] = []
    for module in model.modules():
        module.register_forward_hook(lambda _, arguments, output: seen.append(pick(arguments, output)))
    return seen


def _seeded_weights(name: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return prunable(MODELS[name](CIFAR, 10))


def _import_or_skip(package: str) -> None:
    try:
        import_module(package)
    except Exception as error:  # torchvision beside another torch raises a RuntimeError
        pytest.skip(f"{package} cannot be imported: {type(error).__name__}")
