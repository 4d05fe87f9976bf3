"""Latencies of a run at one level of the reference, against cases worked out by hand."""

from __future__ import annotations

from math import hypot, log

import pytest

from modscale.runs.machine_speed import add_first, at_levels, comparable, reference_levels
from modscale.settings import UNLIKE


def test_by_hand() -> None:
    """14.1 is 1.64 times 8.6, and slow; 9.8 is 1.14 times, within 1.15; what has no reference stays as it is."""
    measured = [
        {"latency_ms": 5.2, "latency_reference_ms": 8.6},
        {"latency_ms": 8.86, "latency_reference_ms": 14.1},
        {"latency_ms": 6.0, "latency_reference_ms": 9.8},
        {"latency_ms": 1.0},
        {"params": 3.0},
    ]
    found = comparable(measured)
    assert [one.get("latency_ms") for one in found] == [
        pytest.approx(5.2), pytest.approx(5.404, abs=5e-4), pytest.approx(5.265, abs=5e-4), 1.0, None
    ]  # fmt: skip
    assert [one.get("latency_measured_ms") for one in found] == [5.2, 8.86, 6.0, None, None]
    assert [one.get("latency_slow") for one in found] == [None, True, None, None, None]
    assert comparable([]) == []


def test_the_ratio_that_was_measured_counts_and_its_noise_comes_along() -> None:
    """0.6 +- 0.03 of a reference of 10 ms is 6 +- 0.3 ms, whatever the median was; at half the speed it is wider.

    There the standard error of 0.1 ms meets what networks differ by, UNLIKE times log 2 of 6 ms.
    """
    noise = {"latency_relative_ci95": 0.03, "latency_relative_standard_error": 0.01, "latency_ci95_ms": 5.0}
    quiet = {"latency_ms": 6.4, "latency_reference_ms": 10.0, "latency_relative": 0.6, **noise}
    slow = {"latency_ms": 13.0, "latency_reference_ms": 20.0, "latency_relative": 0.6, **noise}
    one, other = comparable([quiet, slow])
    assert one["latency_ms"] == other["latency_ms"] == pytest.approx(6.0)
    assert (one["latency_ci95_ms"], one["latency_standard_error_ms"]) == (pytest.approx(0.3), pytest.approx(0.1))
    unlike = UNLIKE * log(2) * 6
    assert other["latency_standard_error_ms"] == pytest.approx(hypot(0.1, unlike))
    assert other["latency_ci95_ms"] == pytest.approx(hypot(0.3, 1.959964 * unlike))


def test_each_device_has_its_own_level() -> None:
    """A slow phone is no slow server; of two of equal speed none is slow."""
    measured = [
        {"latency_ms": 5.0, "latency_reference_ms": 8.0, "latency_pi_ms": 60.0, "latency_pi_reference_ms": 200.0},
        {"latency_ms": 5.0, "latency_reference_ms": 8.0, "latency_pi_ms": 30.0, "latency_pi_reference_ms": 100.0},
    ]
    assert reference_levels(measured) == {"latency_ms": 8.0, "latency_pi_ms": 100.0}
    found = comparable(measured)
    assert [one["latency_pi_ms"] for one in found] == [30.0, 30.0]
    assert [one.get("latency_pi_slow") for one in found] == [True, None]
    assert not any("latency_slow" in one for one in found)


def test_a_new_best_moves_all_by_one_factor_and_the_first_level_moves_none() -> None:
    """The order among networks does not hang on who came later."""
    measured = [
        {"latency_ms": 9.0, "latency_reference_ms": 15.0},
        {"latency_ms": 8.0, "latency_reference_ms": 14.0},
        {"latency_ms": 5.0, "latency_reference_ms": 8.0},
    ]
    before, after = comparable(measured[:2]), comparable(measured)
    factors = [new["latency_ms"] / old["latency_ms"] for old, new in zip(before, after, strict=False)]
    assert factors == [pytest.approx(8 / 14)] * 2
    levels: dict[str, float] = {}
    told = []
    for results in measured:
        add_first(levels, results)
        told.append(at_levels(results, levels)["latency_ms"])
    assert levels == {"latency_ms": 15.0}
    assert told == [at_levels(results, {"latency_ms": 15.0})["latency_ms"] for results in measured]
