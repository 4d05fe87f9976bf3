"""Kendall's tau and Spearman's rho against their textbook definitions, and intervals that hold what they say."""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import asin, comb, pi, sqrt
from statistics import correlation
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modscale.analysis.rank_correlation import (
    FEWEST,
    agreement,
    chance,
    interval,
    kendall_tau,
    resample,
    resampled_scores,
    spearman_rho,
)

PAIRED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=9)


def textbook_tau(x: list[float], y: list[float], pairs: list[tuple[int, int]]) -> float | None:
    """Tau-b: concordant less discordant pairs, over the root of the pairs untied in x times those untied in y."""
    concordant = sum((x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs)
    discordant = sum((x[i] - x[j]) * (y[i] - y[j]) < 0 for i, j in pairs)
    untied = sum(x[i] != x[j] for i, j in pairs) * sum(y[i] != y[j] for i, j in pairs)
    return (concordant - discordant) / sqrt(untied) if untied else None


def textbook_ranks(x: list[float]) -> list[float]:
    """The mean of the places that a value takes in the sorted list."""
    places = sorted(x)
    return [places.index(value) + (places.count(value) + 1) / 2 for value in x]


def found(x: list[float], y: list[float], sides: list[int] | None = None) -> tuple[float | None, ...]:
    arrays = np.array([x], float), np.array([y], float), None if sides is None else np.array([sides])
    values = [float(measure(*arrays)[0]) for measure in (kendall_tau, spearman_rho)]
    return tuple(None if np.isnan(value) else value for value in values)


def test_the_worked_example() -> None:
    """As the module's docstring has it: two pairs of three agree, and the ranks' differences give a half."""
    assert found([1, 2, 3], [1, 3, 2]) == pytest.approx((1 / 3, 0.5))


@given(PAIRED)
def test_tau_and_rho_are_those_of_the_textbook(values: list[tuple[int, int]]) -> None:
    """Tau-b pair by pair, and rho as Pearson's correlation of mid-ranks, ties and all."""
    x, y = ([float(value[k]) for value in values] for k in (0, 1))
    tau, rho = found(x, y)
    expected = textbook_tau(x, y, list(combinations(range(len(x)), 2)))
    assert (tau is None) == (expected is None)
    assert (rho is None) == (len(set(x)) == 1 or len(set(y)) == 1)
    if tau is not None and rho is not None:
        assert tau == pytest.approx(expected, abs=1e-12)
        assert rho == pytest.approx(correlation(textbook_ranks(x), textbook_ranks(y)), abs=1e-12)


def test_scipy_agrees_where_it_is_installed() -> None:
    """The same two numbers from another library."""
    stats: Any = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for size in (5, 27, 60):
        x, y = rng.integers(0, 20, size), rng.integers(0, 20, size)
        expected = stats.kendalltau(x, y).statistic, stats.spearmanr(x, y).statistic
        assert found(list(x), list(y)) == pytest.approx(expected)


@given(PAIRED, st.integers(0, 2**9 - 1))
def test_across_two_sides_only_their_pairs_count(values: list[tuple[int, int]], mask: int) -> None:
    """Whatever the order within each side is."""
    x, y = ([float(value[k]) for value in values] for k in (0, 1))
    sides = [mask >> i & 1 for i in range(len(x))]
    pairs = [(i, j) for i, j in combinations(range(len(x)), 2) if sides[i] != sides[j]]
    tau = found(x, y, sides)[0]
    expected = textbook_tau(x, y, pairs)
    assert tau == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_many_draws_are_the_draws_one_by_one() -> None:
    """However the draws are cut into blocks."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (4000, 30)).astype(float), rng.normal(size=(4000, 30))
    tau, rho = kendall_tau(x, y), spearman_rho(x, y)
    assert len(tau) == len(rho) == 4000
    for row in (0, 2221, 2222, 3999):
        assert (tau[row], rho[row]) == pytest.approx(found(list(x[row]), list(y[row])))


def test_a_resample_draws_items_and_their_seeds_with_replacement() -> None:
    """As often as chance has it; of each side as many as it has."""
    sides = np.array([0, 0, 0, 1, 1])
    draws = resample(5, 3, sides, draws=4000)
    assert draws.items.shape == (4000, 5)
    assert set(np.unique(draws.items[:, :3])) == {0, 1, 2}
    assert set(np.unique(draws.items[:, 3:])) == {3, 4}
    assert np.bincount(draws.items[:, :3].ravel()) == pytest.approx([4000] * 3, rel=0.1)
    scores = np.array([[1.0, 2.0, 6.0], [0, np.nan, np.nan], [5, 7, np.nan], [3, 3, 3], [4, 4, 4]])
    drawn = resampled_scores(scores, draws)
    of_first = drawn[:, :3][draws.items[:, :3] == 0]
    possible = {round(sum(three) / 3, 9) for three in product((1, 2, 6), repeat=3)}
    assert {round(value, 9) for value in of_first} == possible
    assert of_first.mean() == pytest.approx(3.0, abs=0.1)
    assert set(drawn[:, :3][draws.items[:, :3] == 1]) == {0.0}  # one seed: nothing to draw
    assert set(drawn[:, :3][draws.items[:, :3] == 2]) == {5.0, 6.0, 7.0}
    for row in range(50):  # drawn twice, an item is tied with itself
        for item in set(draws.items[row]):
            assert len(set(drawn[row][draws.items[row] == item])) == 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Normal pairs of correlation r have tau 2 / pi asin(r): 95 % intervals of 27 hold it in about 95 of 100."""
    rng = np.random.default_rng(1)
    truth = 2 / pi * asin(0.7)
    held = 0
    for trial in range(150):
        pair = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 27)
        low, high = agreement(pair[:, :1], pair[:, 1], resample(27, 1, draws=300, seed=trial))[0].tau_ci95 or (1, -1)
        held += low <= truth <= high
    assert 0.88 * 150 <= held <= 150


def test_noise_between_seeds_widens_the_interval() -> None:
    """Scores that differ from seed to seed leave more open than the same means without noise."""
    rng = np.random.default_rng(0)
    truth = np.arange(20.0)
    noisy = truth[:, None] + rng.normal(scale=8, size=(20, 3))
    steady = np.repeat(noisy.mean(1)[:, None], 3, 1)
    widths = []
    for scores in (noisy, steady):
        low, high = agreement(scores, truth, resample(20, 3))[0].tau_ci95 or (0, 0)
        widths.append(high - low)
    assert widths[0] > 1.2 * widths[1]
    assert agreement(noisy, truth, resample(20, 3))[0].tau == agreement(steady, truth, resample(20, 3))[0].tau


def test_few_items_have_no_interval() -> None:
    """Four in order are in order in every resample: an interval from 1 to 1 would claim a certainty there is not."""
    for size, has in ((FEWEST - 1, False), (FEWEST, True)):
        result = agreement(np.arange(float(size))[:, None], np.arange(float(size)), resample(size, 1))[0]
        assert (result.tau, result.rho) == (1.0, 1.0)
        assert (result.tau_ci95 is not None, result.rho_ci95 is not None) == (has, has)
    tied = agreement(np.ones((9, 1)), np.arange(9.0), resample(9, 1))[0]
    assert (tied.tau, tied.rho, tied.tau_ci95, tied.rho_ci95) == (None,) * 4


def test_both_scores_are_compared_on_the_same_draws() -> None:
    """The difference of a score with itself is nothing in every draw; an interval leaves out undefined draws."""
    rng = np.random.default_rng(0)
    truth, score = rng.normal(size=12), rng.normal(size=(12, 1))
    draws = resample(12, 1)
    first, again = (agreement(score, truth, draws)[1] for _ in range(2))
    assert np.array_equal(first, again)
    assert interval(np.array([np.nan, *range(101)], float)) == pytest.approx((2.5, 97.5))
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.array([])) is None


def test_chance_is_the_share_of_all_orders() -> None:
    """All 24 orders of four, counted one by one: 1 has tau 1, 4 have at least 2/3; ten in order are one of 10!."""
    truth = np.arange(4.0)
    for scores in ([0, 1, 2, 3], [0, 1, 3, 2], [3, 2, 1, 0]):
        tau = textbook_tau(scores, list(truth), list(combinations(range(4), 2)))
        as_good = sum(
            textbook_tau(list(order), list(truth), list(combinations(range(4), 2))) >= tau
            for order in permutations(range(4))
        )
        assert chance(np.array(scores, float), truth) == pytest.approx(as_good / 24, abs=0.015)
    assert chance(np.arange(10.0), np.arange(10.0)) == pytest.approx(1 / 10_001)  # none of 10,000 is as good
    assert chance(np.zeros(4), truth) is None


def test_chance_across_sides() -> None:
    """Two of five on one side, put first: one of the 10 ways to choose two does so."""
    sides = np.array([1, 1, 0, 0, 0])
    truth = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    assert chance(np.array([5.0, 4, 3, 2, 1]), truth, sides) == pytest.approx(1 / comb(5, 2), abs=0.015)
