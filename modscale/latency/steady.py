"""Many networks timed one after the other, and only while the machine is as fast as it was at its best.

A virtual machine shares its cores with others: for a minute, or for a single process, everything took 1.6 times as long
on ours, while the timing threads had their cores all the while, so that no share of a core tells it. Two things tell
it. A small reference network is timed before and after every few networks; what was timed beside a slow reference is
timed again later, while there is time. So is what took far longer than its FLOPs let expect, unless it does so again:
then it is the network that is slow.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from modscale.interrupts import check_stop
from modscale.latency.summary import BEST

BATCH = 4
"""Networks between two references."""
SLOWER = 1.08
"""Times the machine's best from which a reference is slow."""
SLOW = 1.3
"""Times what is usual for a network's FLOPs from which a take is doubted."""
USUAL = 0.3
"""Quantile of the takes, each by its FLOPs, that is usual."""
AGREE = 0.05
"""Share by which two takes of a network may differ to confirm each other."""
TRIES = 3
"""Times that one network is timed at most."""

TimeFile = Callable[[Path, int], tuple[tuple[int, ...], bool]]
"""Takes an ONNX file and a number of runs; gives their times in ns, and whether others had the cores meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One network, timed in one process."""

    index: int
    """Which one it was."""
    times_ns: tuple[int, ...]
    """Wall time of each run."""
    at_s: float
    """When, in seconds from the begin."""
    references_ms: tuple[float, float]
    """Medians of the reference before and after."""
    disturbed: bool
    """Whether others had the cores."""

    @property
    def median_ms(self) -> float:
        """Of the runs."""
        return median(self.times_ns) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Takes:
    """What was timed."""

    steady: tuple[Take, ...]
    """The fastest of each network that was timed while the machine was at its best."""
    others: tuple[Take, ...]
    """All others."""
    reference_ms: float
    """The machine's best with the reference."""


def take_steadily(
    number: int,
    prepare: Callable[[int], Path],
    time_file: TimeFile,
    reference: Path,
    *,
    runs: Callable[[int], int],
    flops: Callable[[int], float],
    limit_s: float,
    tries: int = TRIES,
    on_take: Callable[[int, int], None] = lambda done, left: None,
    now: Callable[[], float] = time.monotonic,
) -> Takes:
    """Times networks 0 to `number`, each in a process, in order, until the time is up.

    `prepare` gives a network's file, which may be the same place for all; `runs` how often it is to run.
    """
    start = now()
    queue, tried = deque(range(number)), dict.fromkeys(range(number), 0)
    takes: list[Take] = []
    references: list[float] = []

    def time_reference() -> float:
        times, _ = time_file(reference, 3 * BATCH)
        references.append(float(np.median(times)) / 1e6)
        return references[-1]

    before = time_reference()
    while queue and now() - start < limit_s:
        batch = []
        for index in [queue.popleft() for _ in range(min(BATCH, len(queue)))]:
            check_stop()
            file = prepare(index)
            at = now() - start
            times, disturbed = time_file(file, runs(index))
            batch.append((index, times, at, disturbed))
        after = time_reference()
        for index, times, at, disturbed in batch:
            take = Take(index=index, times_ns=times, at_s=at, references_ms=(before, after), disturbed=disturbed)
            takes.append(take)
            tried[index] += 1
            if index not in _steady(takes, references, flops) and tried[index] < tries:
                queue.append(index)
        before = after
        if not queue:  # what was usual at first may not be now
            steady = _steady(takes, references, flops)
            queue.extend(index for index, times in tried.items() if index not in steady and times < tries)
        on_take(len(takes), len(queue))
    steady = _steady(takes, references, flops)
    others = [take for take in takes if steady.get(take.index) is not take]
    return Takes(steady=tuple(steady.values()), others=tuple(others), reference_ms=_best(references))


def _steady(takes: Sequence[Take], references: list[float], flops: Callable[[int], float]) -> dict[int, Take]:
    """The fastest take of each network that nothing speaks against."""
    usual = float(np.quantile([take.median_ms / flops(take.index) for take in takes], USUAL))
    good: dict[int, list[Take]] = {}
    for take in sorted(takes, key=lambda take: take.median_ms):
        if not take.disturbed and max(take.references_ms) <= SLOWER * _best(references):
            good.setdefault(take.index, []).append(take)
    return {
        index: each[0]
        for index, each in good.items()
        if each[0].median_ms / flops(index) <= SLOW * usual
        or (len(each) > 1 and each[1].median_ms <= (1 + AGREE) * each[0].median_ms)
    }


def _best(references: list[float]) -> float:
    return float(np.quantile(references, BEST))
