"""What networks take on a machine whose speed changes."""

from __future__ import annotations

import numpy as np
import pytest

from modscale.latency.steady import Take, steady_ms


def take(ms: float, factor: float = 1.0, *, jitter: tuple[float, ...] = (1.0,) * 5) -> Take:
    """A network of `ms` on a machine that takes `factor` times as long as at its best, where a probe takes 0.5 ms."""
    times = tuple(round(1e6 * ms * factor * one) for one in jitter)
    return Take(times_ns=times, probes_ns=(round(500_000 * factor),) * len(times))


def test_the_usual_speed_is_the_middle_of_the_quiet_takes():
    """A third at 1.0, a third at 1.03, a third at 1.65 times the best: all as they are at 1.015."""
    takes = [take(5.0, (1.0, 1.03, 1.65)[i % 3]) for i in range(12)]
    assert steady_ms(takes) == pytest.approx([5.0 * 1.015] * 12, rel=1e-4)


def test_what_ran_on_a_slow_machine_is_scaled_by_the_probe_beside_it():
    """Half of the networks meet a machine of 1.65 times their times, which is no usual one."""
    takes = [take(5.0 + i, 1.65 if i % 2 else 1.0) for i in range(12)]
    assert steady_ms(takes) == pytest.approx([5.0 + i for i in range(12)], rel=1e-4)


def test_a_few_fast_moments_do_not_set_the_level():
    """One take in twelve that found the machine 5 % faster does not make all others look slow."""
    takes = [take(8.0, 0.95 if i == 3 else 1.0) for i in range(12)]
    assert steady_ms(takes) == pytest.approx([8.0] * 12, rel=1e-4)


def test_it_is_the_median_run_that_is_told():
    """Runs that scatter upwards by up to 8 %: the lower decile is what is compared, the median what is given."""
    jitter = (1.0, 1.0, 1.02, 1.05, 1.08)
    takes = [take(10.0 + i, jitter=jitter) for i in range(8)]
    assert steady_ms(takes) == pytest.approx([1.02 * (10.0 + i) for i in range(8)], rel=1e-4)


def test_a_disturbed_run_of_a_take_does_not_matter():
    """A few runs of three times the time, in one of the takes."""
    takes = [take(10.0, jitter=(1.0,) * 5 + ((3.0,) * 2 if i == 5 else (1.0,) * 2)) for i in range(8)]
    assert steady_ms(takes) == pytest.approx([10.0] * 8, rel=1e-4)


def test_without_a_probe_the_times_stand_as_they_are():
    """On a device whose cores do not compute."""
    takes = [Take(times_ns=(2_000_000, 2_000_000)), Take(times_ns=(3_000_000, 3_000_000))]
    assert np.array_equal(steady_ms(takes), [2.0, 3.0])
