"""Sums over pairs of points against the full table of all pairs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from modscale.pairs import QuadrantIndex, corner_counts, highest_pair
from modscale.points import Points, weighted_sum


def points(seed: int, n: int, spread: int) -> Points:
    rng = np.random.default_rng(seed)
    return Points(cost=rng.integers(0, spread, (n, 2)), weight=rng.integers(0, 5, (n, 2)))


@pytest.mark.parametrize(("n", "m", "spread"), [(900, 700, 1000), (300, 1500, 40), (50, 128, 300), (40, 1, 9)])
def test_pairs_within_limits_equal_the_full_table(n: int, m: int, spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and extremes over pairs, with many ties and several blocks, against all n x m sums."""
    front, back = points(1, n, spread), points(2, m, spread)
    sums = front.cost[:, None] + back.cost
    weight = front.weight[:, None] * back.weight  # [n, m, 2]
    limits = [0, spread // 2, spread, 3 * spread // 2, 2 * spread]
    bounds = (-1, spread // 3, spread, 2 * spread)
    corners = [*product(limits, bounds), *product(bounds, limits)]
    expected = [tuple(weight[(sums <= corner).all(axis=2)].sum(axis=0)) for corner in corners]
    assert corner_counts(front, back, corners, [(0, 1)] * len(corners)) == expected
    assert corner_counts(back, front, corners, [(1,)] * len(corners)) == [(None, second) for _, second in expected]
    for axis in (0, 1):
        for bound in bounds:
            inside = sums[..., 1 - axis] <= bound
            for width in (spread // 8, 1, 0):  # a narrow interval has most candidates turned down
                own, other = (spread // 4, spread), (bound - width, bound)
                held = (sums[..., axis] >= own[0]) & (sums[..., axis] <= own[1])
                held &= inside & (sums[..., 1 - axis] >= other[0])
                for sign, choose in ((1, max), (-1, min)):
                    found = highest_pair(front, back, axis, own, other, None, sign)
                    assert (found is None) == (not held.any())
                    if found is not None:
                        assert found[0][axis] + found[1][axis] == choose(sums[held][:, axis])
                        assert found[0] in {tuple(row) for row in front.cost.tolist()}


@pytest.mark.parametrize("n", [1, 15, 16, 17, 255, 300, 5000])
def test_a_quadrant_holds_what_a_mask_finds(n: int) -> None:
    """Look-ups in a permutation of n ranks, corners and edges among them, against masks over all points."""
    rng = np.random.default_rng(n)
    rank, weight = rng.permutation(n), rng.integers(1, 10**12, (n, 3))
    first, second = np.r_[0, 0, n, n, rng.integers(0, n + 1, 60)], np.r_[0, n, 0, n, rng.integers(0, n + 1, 60)]
    expected = [weight[:i][rank[:i] < j].sum(axis=0).tolist() for i, j in zip(first, second, strict=True)]
    counts = QuadrantIndex(rank, weight).count(first, second, (0, 2))
    assert [counts[k].tolist() for k in (0, 2)] == [[row[k] for row in expected] for k in (0, 2)]


def test_sums_beyond_int64_are_exact() -> None:
    """Weights times counts of 1e17 each, against Python's whole numbers."""
    rng = np.random.default_rng(0)
    weight, counts = rng.integers(0, 10**15, 50), rng.integers(0, 10**17, 50)
    assert weighted_sum(weight, counts) == sum(int(w) * int(c) for w, c in zip(weight, counts, strict=True))
