"""95 % intervals of timed runs, which depend on each other within a process and between processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

BATCHES = 5
"""Batches of consecutive runs in each process, whose means give the interval."""

Z95 = 1.959964
"""97.5 % quantile of the normal distribution."""

Z99 = 2.575829
"""99.5 % quantile of the normal distribution."""

# Student's t, 97.5 %, by degrees of freedom (any statistics table); beyond, see `student_t`.
_STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


def confidence_interval(processes: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Half-width of the 95 % interval, and standard error, of the mean of runs that depend on each other.

    They do so within, and between, processes: the batch means of all processes give one interval, the means of the
    processes another (Student's t both times), and the wider one is returned. Each process needs two runs or more.
    """
    batch_means = [fmean(batch) for times in processes for batch in _batches(times)]
    widths = [_half_width(batch_means)]
    if len(processes) > 1:
        widths.append(_half_width([fmean(times) for times in processes]))
    return max(widths)


def median_interval(rounds: Sequence[float]) -> tuple[float, float]:
    """Half-width of the 95 % interval, and standard error, of the median of independent rounds, three or more.

    McKean and Schrader's standard error (1984), from the two order statistics between which the median lies with 99 %
    confidence, so that a few rounds far off count no more than any others; Student's t times it is the half-width.
    """
    count, ordered = len(rounds), sorted(rounds)
    low = max(1.0, (count + 1) / 2 - Z99 * math.sqrt(count / 4))
    error = (_at(ordered, count + 1 - low) - _at(ordered, low)) / (2 * Z99)
    return student_t(count - 1) * error, error


def _at(ordered: Sequence[float], place: float) -> float:
    """The order statistic at a place from 1 on, between two of them in proportion."""
    below = int(place)
    rest = ordered[below] - ordered[below - 1] if below < len(ordered) else 0.0
    return ordered[below - 1] + (place - below) * rest


def _batches(times: Sequence[float]) -> list[Sequence[float]]:
    """At most `BATCHES` runs of consecutive times, as even as can be."""
    count = min(BATCHES, len(times))
    edges = [len(times) * i // count for i in range(count + 1)]
    return [times[start:stop] for start, stop in itertools.pairwise(edges)]


def _half_width(means: Sequence[float]) -> tuple[float, float]:
    """Of the 95 % interval of independent means, and their standard error."""
    error = stdev(means) / math.sqrt(len(means))
    return student_t(len(means) - 1) * error, error


def student_t(freedom: int) -> float:
    """97.5 % quantile of Student's t; from 11 degrees on by its expansion in 1/freedom, good to 5e-4 there."""
    if freedom in _STUDENT_T:
        return _STUDENT_T[freedom]
    z = Z95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
