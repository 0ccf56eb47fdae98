"""Budgets against the counts of the released codes, their totals, and what they cannot do."""

from math import prod

import pytest
from golden import golden
from hypothesis import given
from hypothesis import strategies as st

from prunus.budgets import Budget, ErdosRenyi, LayerTable, Shapes, uniform_counts, uniform_plus_counts
from prunus.masks import keep_count, prunable
from prunus.models import factory

LENET = {"linear1": (300, 784), "linear2": (100, 300), "linear3": (10, 100)}
SEVEN = dict(
    enumerate([(16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (10, 64)])
)
# Survivors of Zimmer et al. 2023's first commit and of the LAMP code.
ERK_COUNTS = [
    (SEVEN, 0.5, [432, 2304, 4608, 6466, 9421, 12377, 640]),
    (SEVEN, 0.9, [391, 594, 844, 1094, 1594, 2094, 640]),
    (SEVEN, 0.95, [182, 277, 394, 511, 744, 977, 540]),
    (LENET, 0.9, [18714, 6906, 1000]),
    (LENET, 0.98, [3621, 1336, 367]),
]
BUDGETS = {
    "uniform": uniform_counts,
    "erk": ErdosRenyi(),
    "er": ErdosRenyi(kernel=False),
    "rigl": ErdosRenyi(floor_layers=True),
    "table": LayerTable((("layer0", 0.3),)),
}
layer = st.tuples(st.integers(4, 40), st.integers(4, 40)) | st.tuples(
    st.integers(4, 40), st.integers(4, 40), st.just(3), st.just(3)
)


@pytest.mark.parametrize(("shapes", "sparsity", "counts"), ERK_COUNTS)
def test_erk_as_in_lamp_and_bimp(shapes: Shapes, sparsity: float, counts: list[int]) -> None:
    named = {str(name): shape for name, shape in shapes.items()}
    assert list(ErdosRenyi()(named, sparsity).values()) == counts


@pytest.mark.parametrize("case", golden("counts")["erk"], ids=lambda case: f"{case['kind']} {case['density']}")
def test_golden_erdos_renyi_as_in_rigl(case: dict[str, dict[str, tuple[int, ...]]]) -> None:
    budget = ErdosRenyi(kernel=case["kind"] == "erk", floor_layers=True)
    assert budget(case["shapes"], 1 - case["density"]) == case["n_active"]


def resnet56() -> Shapes:
    return {n: tuple(w.shape) for n, w in prunable(factory("resnet56")((3, 32, 32), 10)).items()}


@pytest.mark.parametrize(("sparsity", "middle"), [(0.9, 0.9005345), (0.95, 0.9505975)])
def test_uniform_plus_of_resnet56(sparsity: float, middle: float) -> None:
    shapes = resnet56()
    counts = uniform_plus_counts(shapes, sparsity)
    first, *between, last = shapes
    assert counts[first] == prod(shapes[first])
    assert counts[last] == 128  # a fifth of 640
    free = sum(prod(shapes[name]) for name in between)
    exact = (round(sparsity * 848_944) - 0.8 * 640) / free
    assert exact == pytest.approx(middle, abs=5e-8)
    assert {name: counts[name] for name in between} == {name: keep_count(prod(shapes[name]), exact) for name in between}


def test_uniform_plus_prunes_the_last_linear_like_the_others_below_eighty_per_cent() -> None:
    shapes = {"conv": (4, 3, 3, 3), "middle": (100, 10), "last": (10, 100)}
    assert uniform_plus_counts(shapes, 0.5) == {"conv": 108, "middle": 473, "last": 473}  # 1054 of 2000 go
    assert uniform_plus_counts(LENET, 0.5) == uniform_counts(LENET, 0.5)


@pytest.mark.parametrize(("channels", "fixed"), [(100, "conv"), (1, "conv, last")])
def test_uniform_plus_refuses_what_its_layers_cannot_bear(channels: int, fixed: str) -> None:
    shapes = {"conv": (channels, 1, 3, 3), "middle": (10, 10), "last": (10, 10)}
    with pytest.raises(ValueError, match=rf"a sparsity of 0\.9\d* .* lower the sparsity .* \({fixed}\)"):
        uniform_plus_counts(shapes, 0.93)


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@given(shapes=st.lists(layer, min_size=2, max_size=5), sparsity=st.floats(0.3, 0.95))
def test_counts_add_up_to_the_total_within_their_rounding(
    budget: Budget, shapes: list[tuple[int, ...]], sparsity: float
) -> None:
    named = {f"layer{number}": shape for number, shape in enumerate(shapes)}
    if isinstance(budget, LayerTable):  # the other layers must be able to bear the rest
        named |= {"rest": (2000, 200)}
    counts = budget(named, sparsity)
    total = sum(map(prod, named.values()))
    assert list(counts) == list(named)
    assert all(1 <= counts[name] <= prod(shape) for name, shape in named.items())
    slack = 0.5 * len(named) + (len(named) if budget == BUDGETS["rigl"] else 0)
    floored = sum(count == 1 for count in counts.values())
    assert -slack - 1e-6 <= sum(counts.values()) - (1 - sparsity) * total <= slack + floored + 1e-6


@pytest.mark.parametrize("budget", [*BUDGETS.values(), uniform_plus_counts], ids=[*BUDGETS, "uniform+"])
@pytest.mark.parametrize("sparsity", [1.0, -0.5])
def test_every_budget_refuses_a_sparsity_outside(budget: Budget, sparsity: float) -> None:
    with pytest.raises(ValueError, match=rf"sparsity must be in \[0, 1\), got {sparsity}"):
        budget({"layer0": (10, 10), "layer1": (10, 10)}, sparsity)


@pytest.mark.parametrize("budget", [uniform_counts, uniform_plus_counts, ErdosRenyi(), ErdosRenyi(kernel=False)])
def test_no_sparsity_keeps_everything(budget: Budget) -> None:
    assert budget(LENET, 0.0) == {name: prod(shape) for name, shape in LENET.items()}


FOUR = dict.fromkeys(("a.1", "a.2", "b.1", "b.2"), (10, 10))


def test_table_the_first_match_counts_and_the_rest_is_shared() -> None:
    table = LayerTable((("a.1", 0.9), ("a.*", 0.5)))
    assert table(FOUR, 0.6) == {"a.1": 10, "a.2": 50, "b.1": 50, "b.2": 50}
    assert table(FOUR, 0.8) == {"a.1": 10, "a.2": 50, "b.1": 10, "b.2": 10}


def test_table_shrinks_below_its_own_sparsity() -> None:
    table = LayerTable((("a.1", 0.8), ("a.2", 0.4)))
    assert table(FOUR, 0.3) == {"a.1": 20, "a.2": 60, "b.1": 100, "b.2": 100}
    assert table(FOUR, 0.15) == {"a.1": 60, "a.2": 80, "b.1": 100, "b.2": 100}
    assert table(FOUR, 0.0) == dict.fromkeys(FOUR, 100)


def test_table_of_all_layers_fixes_the_sparsity() -> None:
    table = LayerTable((("a.*", 0.9), ("b.*", 0.5)))
    assert table(FOUR, 0.7) == {"a.1": 10, "a.2": 10, "b.1": 50, "b.2": 50}
    with pytest.raises(ValueError, match=r"a sparsity of 0\.8 leaves 40 weights to drop for 0 in the layers not fixed"):
        table(FOUR, 0.8)


@pytest.mark.parametrize(
    ("entries", "sparsity", "message"),
    [
        ((("c.*", 0.5),), 0.5, r"layer glob 'c\.\*' matches none of a.1, a.2"),
        ((("a.*", 1.0),), 0.5, r"sparsity must be in \[0, 1\), got 1.0"),
        ((("a.*", 0.1),), 0.6, r"leaves 220 weights to drop for 200 .* \(a.1, a.2\)"),
    ],
)
def test_impossible_tables(entries: tuple[tuple[str, float], ...], sparsity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerTable(entries)(FOUR, sparsity)
