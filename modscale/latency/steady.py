"""What networks take on a machine whose speed changes all the while, each timed once: as if it had kept its usual one.

A virtual machine shares its cores with others: for seconds or minutes everything takes up to 1.65 times as long, while
the timing threads have their cores all the while, so that no share of a core tells it. A small fixed model that runs
between any two runs of the network, in the same process, does (`timing_worker.PROBE`): a network takes as many times as
long as the probe beside it. So nothing is thrown away or timed again; what was timed beside a slow probe is scaled.

Worked by hand: a network of 24 ms beside probes of 0.6 ms, where they usually take 0.5 ms, takes 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modscale.arrays import FloatArray
from modscale.latency.summary import BEST
from modscale.settings import UNSTEADY

LOW = 0.1
"""Quantile of the runs of a process, and of its probes, that is compared: the lower decile repeats best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One network, timed in one process."""

    times_ns: tuple[int, ...]
    """Wall time of each run."""
    probes_ns: tuple[int, ...] = ()
    """Wall time of the probe after each run; none where the device has no probe."""


def steady_ms(takes: Sequence[Take]) -> FloatArray:
    """[N] the median run of each take as it would be beside the usual probe, ms.

    The lower decile of the runs by that of the probes, times what the probe usually takes, times the share by which the
    median of runs usually lies above their lower decile. Usual is the median of the takes during which the machine was
    quiet, as a measurement reports it: not slower than `UNSTEADY` times its best.
    """
    low = np.array([np.quantile(take.times_ns, LOW) for take in takes]) / 1e6
    above = np.array([np.median(take.times_ns) for take in takes]) / 1e6 / low
    speed = np.array([np.quantile(take.probes_ns, LOW) if take.probes_ns else 1.0 for take in takes])
    quiet = speed <= UNSTEADY * np.quantile(speed, BEST)
    return np.asarray(low / speed * np.median(speed[quiet]) * np.median(above[quiet]))
