"""The latencies of a run in terms of one machine: as if it had been at its best when each was taken.

A virtual machine may run at half its speed for minutes, while its threads have all of their cores and every interval
is narrow (`benchmarks/latency.md`). The reference network that is timed along with each candidate is slowed down as
well, so a latency in units of it moves far less; times one level of the reference it is in milliseconds again. That is
what networks are compared, ranked and limited by; the figures as measured stay in the run's files, and are told.

The level is the least that the reference took beside any network of the run. It falls when the machine speeds up, and
then all figures fall by one factor: no order changes, no front. Where not even that may be, in what the sampler is
told, the level is that of the first network measured (`searching/study.py`).

Worked by hand: references of 8.6 and 14.1 ms stand beside latencies of 5.2 and 8.86 ms. At the level of 8.6 the second
is 8.86 / 14.1 * 8.6 = 5.40 ms, and marked as slow, for 14.1 is 1.64 times 8.6. Networks do not slow down alike: by
`UNLIKE` times the logarithm of that, 15 % of it, which widens its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import hypot, log

from modscale.runs.metrics import LATENCY, Z95, Results, is_target_metric
from modscale.runs.trials import Trial
from modscale.settings import UNLIKE, UNSTEADY


def reference_levels(measured: Iterable[Results]) -> dict[str, float]:
    """By the name of each latency metric the least that the reference took beside any of these."""
    levels: dict[str, float] = {}
    for results in measured:
        for name, level_ms in _references(results).items():
            levels[name] = min(level_ms, levels.get(name, level_ms))
    return levels


def add_first(levels: dict[str, float], results: Results) -> None:
    """Adds what the reference took beside this network, where no network before it had one."""
    for name, level_ms in _references(results).items():
        levels.setdefault(name, level_ms)


def at_levels(results: Results, levels: Mapping[str, float]) -> dict[str, float]:
    """Results as they were measured, with each latency at the level of the reference where that is known.

    What was measured is `latency_measured_ms` then. Of a run that kept no `latency_relative`, latency and reference
    are divided as they are.
    """
    found = dict(results)
    for name, own_ms in _references(results).items():
        if name not in levels:
            continue
        prefix, measured_ms = name.removesuffix("_ms"), results[name]
        value = results.get(f"{prefix}_relative", measured_ms / own_ms) * levels[name]
        unlike = UNLIKE * max(0.0, log(own_ms / levels[name])) * value
        for word, times in (("standard_error", 1.0), ("ci95", Z95)):
            key, relative = f"{prefix}_{word}_ms", f"{prefix}_relative_{word}"
            if relative in results or key in results:
                noise = results[relative] * levels[name] if relative in results else results[key] * value / measured_ms
                found[key] = hypot(noise, times * unlike)
        found |= {name: value, f"{prefix}_measured_ms": measured_ms}
        if own_ms > UNSTEADY * levels[name]:
            found[f"{prefix}_slow"] = True
    return found


def comparable(measured: Sequence[Results]) -> list[dict[str, float]]:
    """The results of networks of one run with their latencies at one level, see above."""
    levels = reference_levels(measured)
    return [at_levels(results, levels) for results in measured]


def trials_at(trials: Sequence[Trial], levels: Mapping[str, float]) -> list[Trial]:
    """Trials with their latencies at these levels."""
    return [replace(trial, results=at_levels(trial.results, levels)) for trial in trials]


def _references(results: Results) -> dict[str, float]:
    """By the name of each latency metric that was measured what the reference took beside it."""
    names = (name for name in results if name == LATENCY.name or is_target_metric(name))
    keys = {name: f"{name.removesuffix('_ms')}_reference_ms" for name in names}
    return {name: results[key] for name, key in keys.items() if key in results}
