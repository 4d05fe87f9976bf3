"""How fast the machine was while a process timed a model, by the probe between its runs, and what follows from it.

A virtual machine changes its speed by the minute, and several threads have a second slowness, for a whole process and
by a factor of 1.4 to 1.9: that of two cores which do not work well together (`benchmarks/latency.md`). Neither shows in
the share of the cores that the threads had, nor in a reference network that was timed in another process. A small model
(`timing_worker.PROBE`) between the runs, on the same threads, tells both without regard to the model's own latency:
a round beside a slow probe does not count where enough others do, and of those that count the runs are divided by the
probe's, times what that takes on the quiet machine.

Worked by hand: rounds of 10, 10.5 and 16 ms beside probes of 1, 1.05 and 1.3 ms. The last one is slow, and left out;
the others are 10 probes each. Of a machine whose quiet probes take 1.02 ms the model takes 10.2 ms.

A model that met slow rounds alone is told by those, as if it had slowed down as the reference did, whose rounds were of
both kinds: of 13 probes in slow rounds and 10 in others, say. Others do not do quite that, which widens its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, log
from statistics import median

from modscale.deploy.timing_worker import Timings
from modscale.latency.confidence import Z95, median_interval
from modscale.settings import UNLIKE, UNSTEADY

BEST = 0.1
"""Quantile of the probes of all rounds that stands for the machine at its best: most of them may be slow."""

SHORT = 1.08
"""Times the best of a model's own rounds, above which a round of short runs is slow: what slows the probe by a tenth
slows a network of a fifth of a millisecond by a half (`benchmarks/short_runs.md`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What the probe took during one measurement."""

    limit_ms: float
    """Beside more than that a round is slow."""
    usual_ms: float
    """Median over the rounds that are not."""
    slow_ms: float
    """The same over those that are; as much as `usual_ms` where none is."""
    slow_factor: float
    """By how much a model takes more probes in a slow round, as the reference does; 1 where it was not seen in both."""

    def are_slow(self, rounds: Sequence[Timings]) -> list[bool]:
        """Whether the machine was slow during each of a model's rounds."""
        best_ms = _best_ms(rounds)
        return [one.probe_ms > self.limit_ms or (one.is_short and one.probe_ms > SHORT * best_ms) for one in rounds]

    def level_ms(self, rounds: Sequence[Timings]) -> float:
        """What a model takes on the quiet machine: median over its rounds, none of them slow if that can be."""
        counted, is_quiet = self._counted(rounds)
        return self.usual_ms * median(map(in_probes, counted)) / (1.0 if is_quiet else self.slow_factor)

    def half_width_ms(self, rounds: Sequence[Timings]) -> float | None:
        """Of the 95 % interval of that; None of fewer than three rounds.

        It is that of the ratio to the probe: by how much the machine is quicker another time is not in it.
        """
        counted, is_quiet = self._counted(rounds)
        if len(counted) < 3:
            return None
        half, _ = median_interval([in_probes(one) for one in counted])
        return hypot(
            self.usual_ms * half / (1.0 if is_quiet else self.slow_factor),
            Z95 * self.unlike(rounds) * self.level_ms(rounds),
        )

    def unlike(self, rounds: Sequence[Timings]) -> float:
        """Standard error, as a share, of what a model takes that met slow rounds alone; 0 of others."""
        _, is_quiet = self._counted(rounds)
        return 0.0 if is_quiet else UNLIKE * abs(log(self.slow_ms / self.usual_ms * self.slow_factor))

    def _counted(self, rounds: Sequence[Timings]) -> tuple[Sequence[Timings], bool]:
        """The rounds that are not slow, or all of them where there is none; and whether there is one."""
        quiet = [one for one, is_slow in zip(rounds, self.are_slow(rounds), strict=True) if not is_slow]
        return quiet or rounds, bool(quiet)


def find_probe(rounds: Sequence[Timings], threads: int, references: Sequence[Timings] = ()) -> Probe | None:
    """The probe of a measurement, from all of its rounds, the `references` too; None where not all had it on `threads`.

    One on fewer threads than the models' does not tell how these work together.
    """
    everything = [*rounds, *references]
    if not everything or any(one.probe_threads != threads for one in everything):
        return None
    limit_ms = UNSTEADY * _best_ms(everything)
    usual_ms = median(one.probe_ms for one in everything if one.probe_ms <= limit_ms)
    slow = [one for one in everything if one.probe_ms > limit_ms]
    in_slow, in_others = (
        [in_probes(one) for one in references if (one.probe_ms > limit_ms) is is_slow] for is_slow in (True, False)
    )
    return Probe(
        limit_ms=limit_ms,
        usual_ms=usual_ms,
        slow_ms=median(one.probe_ms for one in slow) if slow else usual_ms,
        slow_factor=median(in_slow) / median(in_others) if in_slow and in_others else 1.0,
    )


def _best_ms(rounds: Sequence[Timings]) -> float:
    """What the probe takes in these rounds while the machine is at its best."""
    taken = sorted(one.probe_ms for one in rounds)
    return taken[int(BEST * (len(taken) - 1))]


def in_probes(one: Timings) -> float:
    """How many times as long as the probe's the runs of a round took, by the medians; see `Timings.quick_ms`."""
    return one.quick_ms / one.probe_ms
