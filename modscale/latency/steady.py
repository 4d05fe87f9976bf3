"""What networks take on a machine whose speed changes all the while, each timed once: as if it had kept its usual one.

A virtual machine shares its cores with others: for seconds or minutes everything takes up to 1.65 times as long, while
the timing threads have their cores all the while, so that no share of a core tells it. A small fixed model that runs
between the runs of the network, in the same process, does (`timing_worker.PROBE`): a network takes as many times as
long as the probe beside it. So nothing is timed again; what was timed beside a slow probe is scaled.

Several threads have a second slowness, that of two cores which do not work well together (a process in five or so, for
all of its life): networks take 1.4 to 1.9 times as long then, each another factor, and the probe on the same threads
1.2 times or more. That is told (`are_slow`), and left out where it can be.

Worked by hand: a network of 24 ms beside probes of 0.6 ms, where they usually take 0.5 ms, takes 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modscale.arrays import BoolArray, FloatArray
from modscale.latency.probed import BEST
from modscale.settings import UNSTEADY

LOW = 0.1
"""Quantile of the runs of a process, and of its probes, that is compared: the lower decile repeats best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One network, timed in one process."""

    times_ns: tuple[int, ...]
    """Wall time of each run."""
    probes_ns: tuple[int, ...] = ()
    """Wall time of the probe after each run, or each few short ones; none where the device has no probe."""


def steady_ms(takes: Sequence[Take]) -> FloatArray:
    """[N] the median run of each take as it would be beside the usual probe, ms.

    The lower decile of the runs by that of the probes, times what the probe usually takes, times the share by which the
    median of runs usually lies above their lower decile. Usual is the median of the takes during which the machine was
    quiet, as a measurement reports it: not slower than `UNSTEADY` times its best.
    """
    low = np.array([np.quantile(take.times_ns, LOW) for take in takes]) / 1e6
    above = np.array([np.median(take.times_ns) for take in takes]) / 1e6 / low
    speed, quiet = _probe_ms(takes), ~are_slow(takes)
    return np.asarray(low / speed * np.median(speed[quiet]) * np.median(above[quiet]))


def are_slow(takes: Sequence[Take]) -> BoolArray:
    """[N] whether the probe took more than `UNSTEADY` times its best beside each take."""
    speed = _probe_ms(takes)
    return np.asarray(speed > UNSTEADY * np.quantile(speed, BEST))


def _probe_ms(takes: Sequence[Take]) -> FloatArray:
    """[N] the lower decile of the probes of each take; 1 where it has none."""
    return np.array([np.quantile(take.probes_ns, LOW) / 1e6 if take.probes_ns else 1.0 for take in takes])
