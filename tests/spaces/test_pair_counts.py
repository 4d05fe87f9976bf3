"""Sums over pairs of halves against the full table of all pairs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from modscale.spaces.pair_counts import Extreme, Ranks, count_pairs, furthest_pair, interval_corners


def halves(seed: int, n: int, spread: int) -> Ranks:
    rng = np.random.default_rng(seed)
    return Ranks(rng.integers(0, spread, (n, 2)), rng.integers(1, 5, n))


SIZES = [(900, 700, 1000), (300, 1500, 40), (50, 128, 300), (40, 1, 9)]


@pytest.mark.parametrize(("n", "m", "spread"), SIZES)
@pytest.mark.parametrize("chunk", [64, 1 << 14])
def test_pairs_below_corners_equal_the_full_table(
    n: int, m: int, spread: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts at corners with many ties, one or both limits in force, whichever list asks, against all n x m sums."""
    monkeypatch.setattr("modscale.spaces.pair_counts.CHUNK", chunk)
    one, other = halves(1, n, spread), halves(2, m, spread)
    sums = one.cost[:, None] + other.cost
    weight = one.weight[:, None] * other.weight
    limits = [0, spread // 2, spread, 3 * spread // 2, 2 * spread]
    corners = [*product(limits, (-1, spread // 3, spread, 2 * spread)), (2 * spread, 2**62), (2**62, spread)]
    expected = [int(weight[(sums <= corner).all(axis=2)].sum()) for corner in corners]
    assert count_pairs(one, other, corners) == expected
    assert count_pairs(other, one, corners) == expected


@pytest.mark.parametrize(("n", "m", "spread"), SIZES)
def test_the_furthest_pair_is_that_of_the_full_table(
    n: int, m: int, spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest and the lowest sum of either count within both intervals; narrow ones turn most candidates down."""
    monkeypatch.setattr("modscale.spaces.pair_counts.CHUNK", 128)
    monkeypatch.setattr("modscale.spaces.pair_counts.PROMISING", 2)
    one, other = halves(1, n, spread), halves(2, m, spread)
    sums = one.cost[:, None] + other.cost
    for axis, bound, width in product((0, 1), (-1, spread // 3, spread, 2 * spread), (spread // 8, 1, 0)):
        own, beside = (spread // 4, spread), (bound - width, bound)
        held = (sums[..., axis] >= own[0]) & (sums[..., axis] <= own[1])
        held &= (sums[..., 1 - axis] >= beside[0]) & (sums[..., 1 - axis] <= beside[1])
        for lowest, choose in ((False, max), (True, min)):
            found = furthest_pair(one, other, Extreme(axis=axis, own=own, other=beside, lowest=lowest))
            assert (found is None) == (not held.any())
            if found is not None:
                assert found[0] == choose(sums[held][:, axis])
                assert held[found[1], found[2]]
                assert sums[found[1], found[2], axis] == found[0]


def test_signed_corners_make_an_interval() -> None:
    """Inclusion and exclusion over points on a grid; corners below zero hold nothing and are not asked for."""
    points = np.array(list(product(range(12), range(9))))
    for params, flops in (((0, 5), (2, 8)), ((3, 3), (0, 20)), ((4, 9), (1, 1)), ((-5, 30), (-5, 30))):
        corners = interval_corners(params, flops)
        assert all(min(corner) >= 0 for corner in corners)
        total = sum(sign * int((points <= corner).all(axis=1).sum()) for corner, sign in corners.items())
        inside = (points[:, 0] >= params[0]) & (points[:, 0] <= params[1])
        inside &= (points[:, 1] >= flops[0]) & (points[:, 1] <= flops[1])
        assert total == inside.sum()
