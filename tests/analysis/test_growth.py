"""How a hypervolume grows with the trials, against counted cells, every order, and the closed form of the mean."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import comb

import numpy as np
import pytest
from fake_runs import SPACE, fake_trials

from modscale.analysis.front import find_front
from modscale.analysis.growth import ORDERS, Growth, find_growth, prefix_areas
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial

OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}


def trials_at(points: list[tuple[float, float]]) -> list[Trial]:
    """A trial for each (accuracy, latency)."""
    drawn = fake_trials(parse_experiment(SPACE), len(points))
    return [
        replace(trial, results={**trial.results, "accuracy": accuracy, "latency_ms": latency})
        for trial, (accuracy, latency) in zip(drawn, points, strict=True)
    ]


def cells_dominated(losses: np.ndarray, corner: int) -> int:
    """Unit cells below `corner` that whole-numbered losses dominate, looked at one by one."""
    return sum(any(x <= column and y <= row for x, y in losses) for column in range(corner) for row in range(corner))


def growth_of(points: list[tuple[float, float]]) -> Growth | None:
    trials = trials_at(points)
    return find_growth(trials, OBJECTIVES, find_front(trials, OBJECTIVES, {}).reference)


def test_areas_of_first_trials_are_the_cells_that_they_dominate() -> None:
    """Of each order and each number of trials, with equal values among them, counted cell by cell."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = rng.integers(0, 8, (7, 2))
        orders = np.array([rng.permutation(7) for _ in range(3)])
        areas = prefix_areas(orders, losses.astype(float), np.array([8.0, 8.0]), np.arange(1, 8))
        for order, row in zip(orders, areas, strict=True):
            assert row.tolist() == [cells_dominated(losses[order < k], 8) for k in range(1, 8)]


def test_the_mean_over_orders_is_that_of_every_subset() -> None:
    """A cell that m of n trials dominate is missed by all of k with probability C(n - m, k) / C(n, k)."""
    rng = np.random.default_rng(1)
    losses, n, corner = rng.integers(0, 9, (30, 2)), 30, 10
    column, row = np.mgrid[:corner, :corner]
    m = ((losses[:, 0, None, None] <= column) & (losses[:, 1, None, None] <= row)).sum(axis=0)
    orders = rng.permuted(np.tile(np.arange(n), (4000, 1)), axis=1)
    areas = prefix_areas(orders, losses.astype(float), np.array([10.0, 10.0]), np.array([1, 5, 15, 30]))
    for k, mean, deviation in zip((1, 5, 15, 30), areas.mean(axis=0), areas.std(axis=0), strict=True):
        expected = sum(1 - comb(n - int(count), k) / comb(n, k) for count in m.ravel())
        assert abs(mean - expected) <= 4 * deviation / 4000**0.5 + 1e-9


def test_the_run_is_told_in_its_own_order() -> None:
    """Three trials of a worked example: the reference point lies at accuracy 0.47 and 4.2 ms."""
    growth = growth_of([(0.5, 2.0), (0.8, 4.0), (0.7, 3.0)])
    areas = [0.03 * 2.2, 0.03 * 2.2 + 0.3 * 0.2, 0.03 * 2.2 + 0.2 * 1.2 + 0.1 * 0.2]
    assert growth is not None
    assert growth.trials == (1, 2, 3)
    assert growth.run == pytest.approx([area / areas[-1] for area in areas])


def test_mean_and_band_are_those_of_all_orders() -> None:
    """With five trials every order can be listed; 200 random ones come near their mean and their quantiles."""
    points = [(0.5, 2.0), (0.8, 4.0), (0.7, 3.0), (0.55, 2.5), (0.6, 3.5)]
    shares = []
    for order in permutations(points):
        one = growth_of(list(order))
        assert one is not None
        shares.append(one.run)
    growth = growth_of(points)
    assert growth is not None
    assert growth.orders == ORDERS
    assert growth.random_mean == pytest.approx(np.mean(shares, axis=0), abs=4 * np.std(shares) / ORDERS**0.5)
    for found, q in ((growth.random_low, 0.05), (growth.random_high, 0.95)):
        around = np.quantile(shares, [max(q - 0.05, 0), min(q + 0.05, 1)], axis=0)
        assert (np.array(found) >= around[0] - 1e-9).all()
        assert (np.array(found) <= around[1] + 1e-9).all()


def test_a_run_of_one_trial_or_of_no_volume_has_no_growth() -> None:
    """One point shows no growth, and accuracies of 0 dominate nothing."""
    assert growth_of([(0.5, 2.0)]) is None
    assert growth_of([(0.0, 2.0), (0.0, 3.0)]) is None


def test_one_objective_grows_as_its_best_value() -> None:
    """Its hypervolume is the distance from the reference point to the best so far."""
    trials = trials_at([(0.5, 1.0), (0.9, 1.0), (0.7, 1.0)])
    growth = find_growth(trials, {"accuracy": "maximize"}, {"accuracy": 0.4})
    assert growth is not None
    assert growth.run == pytest.approx([0.2, 1.0, 1.0])


def test_of_three_objectives_the_first_two_are_told() -> None:
    """They are the ones that the plot of the front has; the third changes nothing."""
    trials = trials_at([(0.5, 2.0), (0.8, 4.0), (0.7, 3.0)])
    objectives = {**OBJECTIVES, "params": "minimize"}
    three = find_growth(trials, objectives, find_front(trials, objectives, {}).reference)
    assert three is not None
    assert three == find_growth(trials, OBJECTIVES, find_front(trials, OBJECTIVES, {}).reference)
    assert three.objectives == ("accuracy", "latency_ms")


def test_a_long_run_is_told_at_few_numbers_of_trials() -> None:
    """Of 2,000 trials at 64 at most, the first and the last among them, each share rising."""
    rng = np.random.default_rng(0)
    growth = growth_of([(float(a), float(b)) for a, b in zip(rng.random(2000), 1 + rng.random(2000), strict=True)])
    assert growth is not None
    assert len(growth.trials) <= 64
    assert (growth.trials[0], growth.trials[-1]) == (1, 2000)
    assert (growth.run[-1], growth.random_mean[-1]) == pytest.approx((1, 1))
    for shares in (growth.run, growth.random_mean, growth.random_low, growth.random_high):
        assert (np.diff(shares) >= -1e-12).all()
