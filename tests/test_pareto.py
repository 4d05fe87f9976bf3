"""Front and hypervolume against brute force that shares no code with them."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import numpy as np
import pytest

from modscale.pareto import hypervolume, pareto_front, reference_point, undominated_draws

MIXES = [
    ["maximize"],
    ["maximize", "minimize"],
    ["minimize", "minimize"],
    ["maximize", "minimize", "minimize"],
    ["maximize", "minimize", "minimize", "minimize"],
]


def dominates(a: tuple[float, ...], b: tuple[float, ...], directions: list[str]) -> bool:
    """The definition, a comparison at a time."""
    better = [x > y if d == "maximize" else x < y for x, y, d in zip(a, b, directions, strict=True)]
    worse = [x < y if d == "maximize" else x > y for x, y, d in zip(a, b, directions, strict=True)]
    return any(better) and not any(worse)


def brute_front(values: list[tuple[float, ...]], directions: list[str]) -> list[int]:
    return [i for i, b in enumerate(values) if not any(dominates(a, b, directions) for a in values)]


@pytest.mark.parametrize("directions", MIXES, ids=len)
@pytest.mark.parametrize("levels", [3, 6, 10**6])
def test_front_is_the_definition(directions: list[str], levels: int) -> None:
    """With many equal coordinates, whole repeated points or none, the front is what comparing all pairs gives."""
    rng = np.random.default_rng(levels)
    for size in (1, 2, 7, 40):
        values = [tuple(map(float, row)) for row in rng.integers(0, levels, (size, len(directions)))]
        assert pareto_front(values, directions) == brute_front(values, directions)


def test_front_keeps_every_copy_of_a_point() -> None:
    """Two trials that measured the same are both on the front."""
    values = [(0.5, 10.0), (0.4, 12.0), (0.5, 10.0), (0.6, 20.0)]
    assert pareto_front(values, ["maximize", "minimize"]) == [0, 2, 3]


def test_no_point_has_an_empty_front() -> None:
    """A run without a complete trial."""
    assert pareto_front([], ["maximize", "minimize"]) == []
    assert hypervolume([], [0.0, 5.0], ["maximize", "minimize"]) == 0.0


def test_a_value_that_is_no_number_is_refused() -> None:
    """NaN compares false with everything and would be on any front."""
    with pytest.raises(ValueError, match="finite"):
        pareto_front([(0.5, float("nan"))], ["maximize", "minimize"])


def count_cells(points: np.ndarray, side: int) -> int:
    """Unit cells of the box [0, side]^m that some integer point dominates, every objective minimised."""
    cells = product(range(side), repeat=points.shape[1])
    return sum(any(all(c >= p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_counts_unit_cells(objectives: int) -> None:
    """For integer points the volume is the number of dominated unit cells."""
    rng = np.random.default_rng(objectives)
    side = 6 if objectives < 4 else 5
    for size in (1, 3, 8, 20):
        points = rng.integers(0, side + 1, (size, objectives))
        measured = hypervolume(points, [side] * objectives, ["minimize"] * objectives)
        assert measured == pytest.approx(count_cells(points, side), abs=1e-9)


def inclusion_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume of a union of boxes from the volumes of all intersections."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in combinations(points, size):
            total -= (-1) ** size * prod(np.maximum(reference - np.max(subset, axis=0), 0))
    return total


@pytest.mark.parametrize("directions", MIXES, ids=len)
def test_hypervolume_equals_inclusion_exclusion(directions: list[str]) -> None:
    """Real values, mixed directions, points behind the reference among them."""
    signs = np.array([-1.0 if d == "maximize" else 1.0 for d in directions])
    rng = np.random.default_rng(7)
    for _ in range(10):
        losses = rng.random((9, len(directions)))
        reference = np.full(len(directions), 0.8)
        expected = inclusion_exclusion(losses, reference)
        assert hypervolume(losses * signs, reference * signs, directions) == pytest.approx(expected, rel=1e-12)


def test_hypervolume_agrees_with_random_sampling() -> None:
    """A front of 60 points in four objectives, within five standard errors of 200,000 random points."""
    rng = np.random.default_rng(3)
    points = rng.dirichlet(np.ones(4), 60)
    samples = rng.random((200_000, 4))
    inside = np.zeros(len(samples), dtype=bool)
    for point in points:
        inside |= (samples >= point).all(axis=1)
    share = inside.mean()
    measured = hypervolume(points, np.ones(4), ["minimize"] * 4)
    assert abs(measured - share) < 5 * np.sqrt(share * (1 - share) / len(samples))


def test_hypervolume_of_known_shapes() -> None:
    """A staircase under x + y = n covers n (n + 1) / 2 unit squares; scaling an axis scales the volume."""
    n = 50
    stairs = [(i, n - 1 - i) for i in range(n)]
    assert hypervolume(stairs, (n, n), ["minimize"] * 2) == n * (n + 1) / 2
    scaled = [(0.001 * x, 1e9 * y) for x, y in stairs]
    assert hypervolume(scaled, (0.001 * n, 1e9 * n), ["minimize"] * 2) == pytest.approx(1e6 * n * (n + 1) / 2)
    assert hypervolume([(0.25, 10.0)], (0.05, 30.0), ["maximize", "minimize"]) == pytest.approx(0.2 * 20)


def test_reference_point_rule() -> None:
    """A tenth of the range behind the worst value; accuracy stops at 0; a single value steps back by its tenth."""
    directions = ["maximize", "minimize"]
    assert reference_point([(0.5, 10.0), (0.3, 30.0)], directions) == pytest.approx((0.28, 32.0))
    assert reference_point([(0.5, 10.0), (0.01, 30.0)], directions) == pytest.approx((0.0, 32.0))
    assert reference_point([(0.5, 10.0)], directions) == pytest.approx((0.45, 11.0))
    assert reference_point([(0.0, 10.0)], directions) == pytest.approx((0.0, 11.0))


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_of_many_draws_are_each_the_definition(objectives: int) -> None:
    """The vectorised front of draws equals the front of each draw by itself, repeated points included."""
    rng = np.random.default_rng(5)
    draws = rng.integers(0, 4, (30, 9, objectives)).astype(float)
    expected = np.zeros((30, 9), dtype=bool)
    for i, draw in enumerate(draws):
        expected[i, brute_front([tuple(row) for row in draw], ["minimize"] * objectives)] = True
    np.testing.assert_array_equal(undominated_draws(draws), expected)
