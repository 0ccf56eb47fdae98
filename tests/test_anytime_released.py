"""What the released code of APP does otherwise, reproduced: far sparser than it is asked to be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import golden
from megabatches import SPARSITY, stream
from torch import nn

from prunus.anytime import course as course_module
from prunus.anytime.course import Course
from prunus.anytime.released import Redrawn
from prunus.criteria import magnitude
from prunus.data import Images
from prunus.data.images import Data
from prunus.loggers import Log
from prunus.loop import Progress
from prunus.masks import prunable
from prunus.randomness import seeded
from prunus.recipes import Recipe
from prunus.schedules import Constant
from prunus.streams import sparsities
from prunus.updates import Prune

pytestmark = pytest.mark.usefixtures("unsynced")

DENSITIES = golden("anytime")["released_code_effective_density"]
PRUNABLE = 267_696  # the convolutions of a ResNet-20
AS_RELEASED = {
    "megabatches": 8,
    "masks": "intersect-fresh",
    "scores": "reinit",
    "evidence_from": "head",
    "order": "given",
}
TOLERANCE = {"random": 0.03, "magnitude": 0.03, "snip": 0.06}  # relative


def silent(progress: Progress) -> None:
    """Nobody listens."""


def densities(run: Recipe, home: Path) -> list[float]:
    """What is kept after each megabatch."""
    with (home / "metrics.jsonl").open("a") as metrics:
        course = Course(run, home, metrics, Log([]), silent, 3600.0)
        course.run_()
    counts = [list(zip(*record["layers"].values(), strict=True)) for record in course.state.records]
    return [sum(kept) / sum(every) for kept, every in counts]


def noise(count: int) -> Images:
    """Images of uniform pixels, of random classes."""
    generator = seeded(0, "noise", count)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "magnitude", "snip"])
def test_golden_densities_of_a_resnet20(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data("noise", noise(960), noise(20), 10, 255.0, (0.5,) * 3, (0.28,) * 3)
    monkeypatch.setattr(course_module, "load_data", lambda recipe: data)
    settings = AS_RELEASED | {"evidence": 0.834, "weights": "last"}  # 100 images, one batch
    changes: dict[str, Any] = {"data": "cifar10", "model": "resnet20", "include": ["*conv*"], "learning_rate": 0.01}
    run = stream(settings, method={method: {"allocation": "global"}}, steps=2, evaluations=1, **changes)
    found = densities(run, tmp_path)
    assert [round(density, 4) for density in found] == pytest.approx(DENSITIES[method], rel=TOLERANCE[method])
    asked = 1 - sparsities(SPARSITY, 8)[-1]
    assert found[-1] < asked / 10


def test_independent_masks_multiply(tmp_path: Path) -> None:
    """As the reference's of random scores: all that is kept is in every mask."""
    model, tall = {"mlp": {"widths": [256]}}, {"steps": 1, "evaluations": 1, "images": 300}
    run = stream(AS_RELEASED, method={"random": {"allocation": "global"}}, model=model, **tall)
    expected = torch.tensor([1 - sparsity for sparsity in sparsities(SPARSITY, 8)]).cumprod(0).tolist()
    found = densities(run, tmp_path)
    assert found == pytest.approx(expected, rel=0.02, abs=0.002)
    assert found[:6] == pytest.approx(DENSITIES["random"][:6], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["snip", "magnitude"])
def test_either_fault_alone_is_to_be_had(method: str, tmp_path: Path) -> None:
    changes = {"model": {"mlp": {"widths": [64]}}, "method": method, "steps": 4, "evaluations": 1, "images": 300}
    planned = [1 - sparsity for sparsity in sparsities(SPARSITY, 3)]
    found = {}
    for masks in ("nested", "intersect-fresh"):
        for scores in ("trained", "reinit"):
            home = tmp_path / masks / scores
            home.mkdir(parents=True)
            found[masks, scores] = densities(stream({"masks": masks, "scores": scores}, **changes), home)
    assert found["nested", "trained"] == pytest.approx(planned, abs=1e-3)
    assert found["nested", "reinit"] == pytest.approx(planned, abs=1e-3)  # wrong scores, the right count
    assert found["intersect-fresh", "reinit"][-1] < 0.75 * planned[-1]
    # trained weights overlap: those that were dropped are zero, and so is their magnitude
    assert found["intersect-fresh", "reinit"][-1] < found["intersect-fresh", "trained"][-1] <= planned[-1] + 1e-3


def test_redrawn_scores_are_of_other_weights_behind_the_masks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight[0] = 0.0  # dropped
        model[1].weight.fill_(7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[nn.Module] = []

    def probe(twin: nn.Module, weights: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        seen.append(twin)
        return {name: torch.ones_like(weight) for name, weight in weights.items()}

    rule = Prune(Constant(0.5), magnitude, signal=probe)
    weights = prunable(model)
    state = torch.get_rng_state()
    scores = Redrawn(rule, 1)(model, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    (twin,) = seen
    leaves = dict(twin.named_parameters())
    assert not leaves["0.weight"][0].any()
    assert scores["0.weight"][0].all()  # a dropped weight has a score too
    assert torch.equal(scores["0.weight"][1:], leaves["0.weight"][1:].abs())
    assert not (leaves["0.weight"][1:] == weights["0.weight"][1:]).any()
    for name in ("0.bias", "1.weight", "1.bias", "2.bias"):
        assert torch.equal(leaves[name], before[name]), name
    assert all(torch.equal(Redrawn(rule, 1)(model, weights)[name], score) for name, score in scores.items())
    assert not torch.equal(Redrawn(rule, 2)(model, weights)["0.weight"], scores["0.weight"])
