"""Intervals that hold what they promise, also for runs that depend on each other."""

from __future__ import annotations

import math
import random
from statistics import fmean, median, stdev

import pytest

from modscale.latency.confidence import confidence_interval, median_interval, student_t


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.706),
        (2, 4.303),
        (9, 2.262),
        (11, 2.201),
        (14, 2.145),
        (19, 2.093),
        (29, 2.045),
        (60, 2.000),
        (120, 1.980),
    ],
)
def test_student_t(freedom, quantile):
    """The 97.5 % quantiles of any statistics table."""
    assert student_t(freedom) == pytest.approx(quantile, abs=6e-4)


def series(generator: random.Random, *, memory: float, spread: float, runs: int) -> list[float]:
    """Runs of one process around 10: each remembers the one before, and the process has an offset of its own."""
    offset, state, times = generator.gauss(0, spread), generator.gauss(0, 1), []
    for _ in range(runs):
        state = memory * state + math.sqrt(1 - memory**2) * generator.gauss(0, 1)
        times.append(10 + offset + state)
    return times


def coverage(*, memory: float, spread: float, processes: int, runs: int) -> tuple[float, float]:
    """Share of 400 experiments whose interval holds the true mean: ours, and that of independent runs."""
    generator = random.Random(0)
    ours = naive = 0
    for _ in range(400):
        seen = [series(generator, memory=memory, spread=spread, runs=runs) for _ in range(processes)]
        flat = [time for times in seen for time in times]
        miss = abs(fmean(flat) - 10)
        ours += miss <= confidence_interval(seen)[0]
        naive += miss <= 1.96 * stdev(flat) / math.sqrt(len(flat))
    return ours / 400, naive / 400


@pytest.mark.parametrize(
    ("memory", "spread", "processes", "runs"), [(0.0, 0.0, 5, 20), (0.7, 0.0, 1, 400), (0.5, 1.0, 5, 20)]
)
def test_the_interval_holds_what_it_promises(memory, spread, processes, runs):
    """It holds the mean in at least 93 % of cases, also where runs or processes depend on each other."""
    ours, naive = coverage(memory=memory, spread=spread, processes=processes, runs=runs)
    assert ours >= 0.93
    if memory or spread:
        assert naive < 0.75


def test_the_interval_in_closed_form():
    """One process of five equal batches: Student's t of the batch means."""
    times = [mean + wobble for mean in (1.0, 2.0, 3.0, 4.0, 5.0) for wobble in (-0.1, 0.1)]
    error = math.sqrt(2.5) / math.sqrt(5)
    assert confidence_interval([times]) == pytest.approx((2.776 * error, error))


@pytest.mark.parametrize("count", [5, 8, 12, 25])
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_the_interval_of_a_median_holds(count, outliers):
    """It holds the true median in 92 % of 1000 experiments, also where a fifth of the rounds are far slower."""
    generator = random.Random(count)

    def taken() -> float:
        return 10 + generator.gauss(0, 0.3) + (5.0 if generator.random() < outliers else 0.0)

    true = median(taken() for _ in range(100_000))
    held = 0
    for _ in range(1000):
        rounds = [taken() for _ in range(count)]
        held += abs(median(rounds) - true) <= median_interval(rounds)[0]
    assert held / 1000 >= 0.92


def test_a_few_rounds_far_off_do_not_widen_the_interval_of_a_median():
    """Of 15 rounds the two outermost on each side count no more than any others."""
    near = [10 + i / 100 for i in range(15)]
    assert median_interval([*near[:13], 99.0, 1e6]) == median_interval(near)
