"""Which latencies of a run were taken while the machine itself was slower than at other times of the run.

A virtual machine may run at half its speed for minutes, while its threads have all of their cores and every interval
is narrow (`benchmarks/latency.md`). The reference network that is timed along with each candidate shows it: where it
took more than `SLOW` times its fastest of the run, what stands beside it is marked.

Worked by hand: references of 8.6, 8.7 and 14.1 ms mark the third, for 14.1 is 1.64 times 8.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modscale.runs.metrics import LATENCY, Results, is_target_metric

SLOW = 1.15
"""Times the fastest reference of the run; what a round is held to within one measurement (`latency/summary.py`)."""


def slow_marks(measured: Sequence[Results]) -> list[dict[str, bool]]:
    """For each network's results the marks to add, by key; where no reference was timed, none."""
    marks: list[dict[str, bool]] = [{} for _ in measured]
    for name in _latencies(measured):
        prefix = name.removesuffix("_ms")
        key = f"{prefix}_reference_ms"
        fastest = min((results[key] for results in measured if key in results), default=None)
        for results, mark in zip(measured, marks, strict=True):
            if fastest is not None and results.get(key, 0.0) > SLOW * fastest:
                mark[f"{prefix}_slow"] = True
    return marks


def _latencies(measured: Sequence[Results]) -> Iterable[str]:
    names = {key for results in measured for key in results}
    return sorted(name for name in names if name == LATENCY.name or is_target_metric(name))
