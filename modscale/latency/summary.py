"""What the processes saw of a model, in figures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median, quantiles, stdev

from modscale.deploy.timing_worker import Timings, were_kept
from modscale.latency.confidence import Z95, confidence_interval, median_interval
from modscale.latency.device import Device
from modscale.latency.probed import Probe, find_probe
from modscale.providers import PROVIDERS
from modscale.settings import UNSTEADY, LatencySettings

PROCESSES = 5
"""Fresh processes that share the runs of one model."""

BUSY_SHARE = 0.2
"""Share of disturbed processes above which the machine is called busy."""

BEST = 0.25
"""Quantile of the reference's rounds that stands for the machine at its best."""

LOW = 0.05
"""Quantile of all runs that stands for a quiet machine where no probe tells which rounds were: it repeats best then."""

RESAMPLES = 200
"""Draws of the bootstrap."""

QUIET_SHARE = 1 / 3
"""Share of the rounds that must be quiet for the others not to count: fewer are no better than all."""

FEWEST_PROBED = 3
"""Rounds that must be quiet where a probe in each of them tells; where the reference does, as many as first ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """What was measured of one model."""

    provider: str
    """A key of `PROVIDERS`, as asked and as used."""
    threads: int
    """Intra-op threads."""
    runs: int
    """Timed runs, over all processes."""
    mean_ms: float
    """Mean of all timed runs, the paper's figure."""
    median_ms: float
    """Median over the rounds of the median of each round's runs: the figure that is reported and compared."""
    ci95_ms: float
    """Half-width of the 95 % confidence interval of the median, between processes."""
    mean_ci95_ms: float
    """The same of the mean."""
    quiet_ms: float
    """What it takes while the machine is quiet, by the probe between its runs (`probed.py`).

    Where there is none, on a GPU say: quantile `LOW` of all runs, or the median where no reference ran either.
    """
    quiet_ci95_ms: float
    """Half-width of the 95 % interval of that, the machine being as quick as it was during this measurement."""
    reached_percent: float
    """`quiet_ci95_ms` as a percentage of `quiet_ms`."""
    standard_error_ms: float
    """Standard error of the median; the interval is Student's t times it."""
    p10_ms: float
    """One of ten runs took no longer."""
    p90_ms: float
    """Nine of ten runs took no longer: far above the median, something else was running."""
    min_ms: float
    """The fastest run."""
    rounds: int
    """Processes behind these figures."""
    all_rounds: int
    """Processes that ran; those that were disturbed or unsteady count only where too few others ran."""
    disturbed_rounds: int
    """Of them those whose cores others had too."""
    unsteady_rounds: int
    """Of them those during which the machine itself was slower, by the probe, or by the reference beside them."""
    process_medians_ms: tuple[float, ...]
    """Median of each process that counts, in the order they ran."""
    process_means_ms: tuple[float, ...]
    """Mean of each process that counts, in the order they ran."""
    preemptions: int
    """Times another process took a core during the timed runs; -1 where the system does not say."""
    core_share: float | None
    """Share of the time in which the threads had a core; low beside a neighbour. None where it is not known."""
    cores: int
    """Cores there were; more threads than that slow each other down."""
    wide: bool
    """Whether the interval stayed wider than asked."""
    busy: bool
    """Whether others had the cores in too many of the rounds, so that the figures are those of a busy machine."""
    reference_ms: float | None
    """Median of the reference network's rounds in this measurement; None where it was not timed."""
    reference_quiet_ms: float | None
    """What it takes while the machine is quiet; `relative` times this is `quiet_ms`."""
    reference_drift_percent: float | None
    """By how much it was slower in the later half of the measurement than in the earlier one."""
    relative: float | None
    """`quiet_ms` in units of the reference's."""
    relative_ci95: float | None
    """Half-width of the 95 % interval of that, by bootstrap over the rounds of both; None of fewer than three."""
    relative_standard_error: float | None
    """Its standard error; the interval is the normal one."""
    precision: str
    """`fp32`, `fp16` or `int8`: what the weights are kept in."""
    graph_level: str
    """How far ONNX Runtime optimised the graph: `all`, `basic` or `disabled`."""
    runtime: str
    """Version of the ONNX Runtime that ran."""
    processor: str
    """What it ran on, as that calls itself."""
    target: str | None
    """Name of the device where it is not this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one process saw, of a model or of the reference."""

    order: int
    """Its place among all processes of the measurement, in which they ran one after the other."""
    at_s: float
    """When it was started, seconds from the begin of the measurement."""
    seconds: float
    """How long it took, load, warm-up and its share of the start included."""
    timings: Timings
    """What it saw."""

    @property
    def median_ms(self) -> float:
        """Median of its runs."""
        return self.timings.median_ms


def summarise(
    rounds: Sequence[Round],
    references: Sequence[Round],
    device: Device,
    *,
    others: Sequence[Round] = (),
    precision: str = "fp32",
) -> Latency:
    """One `Latency` from what the processes saw: the quiet ones, once they are enough and a third of all, or all.

    A round is quiet where the probe in it was near its best, in these rounds and `others`, of further models that took
    turns with it; without a probe where the reference was, before and after it; where none was timed, where its threads
    had their cores.
    """
    settings = device.settings
    own = [one.timings for one in rounds]
    probe = find_probe([*own, *(one.timings for one in others)], device.threads, [one.timings for one in references])
    if probe is not None:
        slow = probe.are_slow(own)
        steady = [one for one, is_slow in zip(rounds, slow, strict=True) if not is_slow]
    else:
        best_ms, beside = best_reference_ms(references), beside_ms(rounds, references)
        steady = [one for one, ms in zip(rounds, beside, strict=True) if ms is None or max(ms) <= UNSTEADY * best_ms]
    undisturbed = [one for one in rounds if not is_disturbed(one.timings, device)]
    quiet = steady if references or probe is not None else undisturbed
    fewest = FEWEST_PROBED if probe is not None else first_rounds(settings)
    counted = quiet if len(quiet) >= max(fewest, QUIET_SHARE * len(rounds)) else list(rounds)
    timings = [one.timings for one in counted]
    times_ms = [[ns / 1e6 for ns in one.times_ns] for one in timings]
    everything = sorted(time for times in times_ms for time in times)
    preemptions = [one.preemptions for one in timings]
    mean_half_width, mean_error = confidence_interval(times_ms)
    medians = [one.median_ms for one in counted]
    half_width, error = median_interval(medians) if len(medians) > 2 else (mean_half_width, mean_error)
    median_ms = median(medians)
    tenths = quantiles(everything, n=10, method="inclusive")

    level = partial(level_ms, probe=probe)
    unlike = 0.0 if probe is None else probe.unlike(own)
    relative, relative_half, relative_error = relative_latency(rounds, references, level, unlike)
    quiet_ms = median_ms if relative is None and probe is None else level(rounds)
    quiet_half = None if probe is None else probe.half_width_ms(own)
    if quiet_half is not None:
        quiet_share = quiet_half / quiet_ms
    else:
        quiet_share = half_width / median_ms if relative is None or relative_half is None else relative_half / relative
    return Latency(
        provider=settings.provider,
        threads=device.threads,
        runs=len(everything),
        mean_ms=fmean(everything),
        median_ms=median_ms,
        ci95_ms=half_width,
        mean_ci95_ms=mean_half_width,
        quiet_ms=quiet_ms,
        quiet_ci95_ms=quiet_share * quiet_ms,
        reached_percent=100 * quiet_share,
        standard_error_ms=error,
        p10_ms=tenths[0],
        p90_ms=tenths[-1],
        min_ms=everything[0],
        rounds=len(counted),
        all_rounds=len(rounds),
        disturbed_rounds=len(rounds) - len(undisturbed),
        unsteady_rounds=len(rounds) - len(steady),
        process_medians_ms=tuple(medians),
        process_means_ms=tuple(fmean(times) for times in times_ms),
        preemptions=-1 if min(preemptions) < 0 else sum(preemptions),
        core_share=core_share(timings, device),
        cores=device.cores,
        wide=100 * quiet_share > settings.until_percent,
        busy=is_busy(timings, device),
        reference_ms=median(one.median_ms for one in references) if references else None,
        reference_quiet_ms=level(references) if references else None,
        reference_drift_percent=drift_percent(references),
        relative=relative,
        relative_ci95=relative_half,
        relative_standard_error=relative_error,
        precision=precision,
        graph_level=settings.graph_level,
        runtime=str(device.facts["runtime"]),
        processor=str(device.facts["processor"]),
        target=None if settings.target is None else settings.target.name or "target",
    )


def relative_latency(
    rounds: Sequence[Round],
    references: Sequence[Round],
    level: Callable[[Sequence[Round]], float],
    unlike: float = 0.0,
) -> tuple[float | None, float | None, float | None]:
    """`Latency.relative`, `relative_ci95` and `relative_standard_error`; None where there is none.

    `level` gives what some rounds take while the machine is quiet, milliseconds; `unlike` is a standard error of that,
    as a share, which the rounds do not tell.
    """
    if not references:
        return None, None, None

    def ratio(some: Sequence[Round], others: Sequence[Round]) -> float:
        return level(some) / level(others)

    found, fewest = ratio(rounds, references), min(len(rounds), len(references))
    if fewest < 3:
        return found, None, None
    draw = random.Random(0)  # noqa: S311  # the same figures from the same timings
    drawn = [
        ratio(draw.choices(rounds, k=len(rounds)), draw.choices(references, k=len(references)))
        for _ in range(RESAMPLES)
    ]
    error = math.hypot(stdev(drawn), unlike * found)
    return found, Z95 * error, error


def level_ms(rounds: Sequence[Round], probe: Probe | None) -> float:
    """What a model takes while the machine is quiet, by its rounds: by the probe, or `low_ms` where there is none."""
    return low_ms(rounds) if probe is None else probe.level_ms([one.timings for one in rounds])


def low_ms(rounds: Sequence[Round]) -> float:
    """Quantile `LOW` of all runs of some rounds."""
    runs = sorted(ns for one in rounds for ns in one.timings.ordered_ns)  # what is in order already is merged
    return runs[int(LOW * len(runs))] / 1e6


def beside_ms(rounds: Sequence[Round], references: Sequence[Round]) -> list[tuple[float, ...] | None]:
    """For each round the medians of the references that ran last before it and first after it; None where none did."""
    found: list[tuple[float, ...] | None] = []
    for one in rounds:
        before = [other for other in references if other.order < one.order][-1:]
        after = [other for other in references if other.order > one.order][:1]
        found.append(tuple(other.median_ms for other in (*before, *after)) or None)
    return found


def best_reference_ms(references: Sequence[Round]) -> float:
    """What the reference takes while the machine is at its best: quantile `BEST` of its rounds; infinite for none."""
    medians = sorted(one.median_ms for one in references)
    return medians[int(BEST * (len(medians) - 1))] if medians else math.inf


def drift_percent(references: Sequence[Round]) -> float | None:
    """By how much the reference's median was higher in the later half of its rounds than in the earlier one."""
    if len(references) < 4:
        return None
    half = len(references) // 2
    earlier, later = (median(one.median_ms for one in part) for part in (references[:half], references[-half:]))
    return 100 * (later / earlier - 1)


def is_disturbed(one: Timings, device: Device) -> bool:
    """Whether other processes had the cores of a timing process; False where that is not known, or on a GPU."""
    share = core_share([one], device)
    if share is None:
        return False
    return were_kept(one.main_cpu_ns / sum(one.times_ns), share, one.preemptions, len(one.times_ns))


def is_busy(timings: Sequence[Timings], device: Device) -> bool:
    """Whether others had the cores in too many of the processes."""
    return sum(is_disturbed(one, device) for one in timings) > BUSY_SHARE * len(timings)


def core_share(timings: Sequence[Timings], device: Device) -> float | None:
    """Share of the timed runs in which the threads, or as many as there are cores, had one; None where not known."""
    if not PROVIDERS[device.settings.provider].takes_cores or min(one.cpu_ns for one in timings) < 0:
        return None
    wall_ns = sum(sum(one.times_ns) for one in timings)
    cores = min(device.threads, device.cores)
    return min(1.0, sum(one.cpu_ns for one in timings) / wall_ns / cores)  # what lies between two runs is not wall time


def first_rounds(settings: LatencySettings) -> int:
    """Fresh processes that share the runs asked for."""
    return max(1, min(PROCESSES, settings.runs // 2))
