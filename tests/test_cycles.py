"""How cycles divide sparsity and steps; numbers of the retraining paper's public code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.cycles import fraction, lay_out, split, survivors
from prunus.masks import keep_count


@pytest.mark.parametrize(
    ("n", "sparsity", "counts"),
    [
        (1000, 0.9, (464, 215, 100)),
        (1000, 0.95, (473, 224, 106, 50)),
        (997, 0.8, (583, 341, 199)),
        (12345, 0.98, (5645, 2581, 1180, 540, 247)),
    ],
)
def test_golden_survivors(n: int, sparsity: float, counts: tuple[int, ...]) -> None:
    assert survivors(n, sparsity, len(counts)) == counts


@pytest.mark.parametrize(
    ("sparsity", "cycles", "expected"),
    [(0.7, 1, 0.7), (0.7, 2, 0.4522774424948338), (0.9, 3, 0.5358411166387221), (0.98, 5, 0.5426949480726736)],
)
def test_golden_fractions(sparsity: float, cycles: int, expected: float) -> None:
    assert fraction(sparsity, cycles) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("total", "cycles", "parts"),
    [
        (10, 1, (10,)),
        (10, 3, (3, 3, 4)),
        (45, 2, (22, 23)),
        (20, 7, (2, 2, 2, 2, 2, 2, 8)),
        (5, 5, (1, 1, 1, 1, 1)),
        (3, 4, (0, 0, 0, 3)),
    ],
)
def test_golden_splits(total: int, cycles: int, parts: tuple[int, ...]) -> None:
    assert split(total, cycles) == parts


@given(st.integers(1, 10**6), st.floats(0.0, 0.999), st.integers(1, 12))
def test_counts_fall_to_exactly_the_final_one(n: int, sparsity: float, cycles: int) -> None:
    counts = survivors(n, sparsity, cycles)
    assert len(counts) == cycles
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[0] <= n
    assert counts[-1] == keep_count(n, sparsity)


@given(st.integers(100, 10**5), st.floats(0.0, 0.9), st.floats(0.0, 0.99), st.integers(1, 6))
def test_a_sparse_start_never_gains_a_weight(n: int, start: float, sparsity: float, cycles: int) -> None:
    alive = keep_count(n, start)
    counts = survivors(n, sparsity, cycles, alive)
    assert counts[0] <= alive
    assert counts[-1] == min(alive, keep_count(n, sparsity))


def test_a_sparse_start_loses_an_equal_share_each_cycle() -> None:
    assert survivors(10_000, 0.96, 2, alive=4_000) == (1265, 400)
    assert fraction(0.96, 2, start=0.6) == pytest.approx(1 - 0.1**0.5)


@given(st.integers(0, 500), st.integers(1, 9), st.integers(9, 500))
def test_a_plan_covers_every_step_once(dense: int, cycles: int, left: int) -> None:
    plan = lay_out(1000, 1000, 0.9, steps=dense + left, dense=dense, cycles=cycles)
    assert plan.starts[0] == dense
    ends = [start + length for start, length in zip(plan.starts, plan.lengths, strict=True)]
    assert ends == [*plan.starts[1:], dense + left]
    assert min(plan.lengths) >= 1


def test_a_budget_shorter_than_its_cycles_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a budget of 12 steps must hold 3 retrainings of at least a step after 10"):
        lay_out(100, 100, 0.9, steps=12, dense=10, cycles=3)
    with pytest.raises(ValueError, match="cycles must be at least 1, got 0; 1 prunes at once"):
        fraction(0.9, 0)
