"""The marks of a slow machine, against cases worked out by hand."""

from __future__ import annotations

from modscale.runs.machine_speed import slow_marks


def test_by_hand() -> None:
    """14.1 is 1.64 times 8.6, and 9.8 is 1.14 times: within 1.15; what has no reference is not judged, nor judges."""
    measured = [
        {"latency_ms": 5.2, "latency_reference_ms": 8.6},
        {"latency_ms": 8.9, "latency_reference_ms": 14.1},
        {"latency_ms": 6.0, "latency_reference_ms": 9.8},
        {"latency_ms": 1.0},
        {"params": 3.0},
    ]
    assert slow_marks(measured) == [{}, {"latency_slow": True}, {}, {}, {}]
    assert slow_marks([]) == []


def test_each_device_has_its_own_speed() -> None:
    """A slow phone is no slow server; of two of equal speed none is slow."""
    measured = [
        {"latency_ms": 5.0, "latency_reference_ms": 8.0, "latency_pi_ms": 50.0, "latency_pi_reference_ms": 200.0},
        {"latency_ms": 5.0, "latency_reference_ms": 8.0, "latency_pi_ms": 30.0, "latency_pi_reference_ms": 100.0},
    ]
    assert slow_marks(measured) == [{"latency_pi_slow": True}, {}]
