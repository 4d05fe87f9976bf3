"""What the processes saw of a model, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from modscale.deploy.timing_worker import Timings
from modscale.latency.confidence import confidence_interval
from modscale.latency.device import Device
from modscale.providers import PROVIDERS
from modscale.settings import LatencySettings

PROCESSES = 5
"""Fresh processes that share the runs of one model."""

MAIN_SHARE = 0.9
"""Share of the time below which the thread that asks for the runs was kept from its core."""

ALL_SHARE = 0.8
"""The same of all threads together, which also rest where a network leaves them nothing to do."""

BUSY_SHARE = 0.2
"""Share of disturbed processes above which the machine is called busy."""


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
    """Mean of all timed runs."""
    median_ms: float
    """Median of all timed runs."""
    ci95_ms: float
    """Half-width of the 95 % confidence interval of the mean, between processes included."""
    reached_percent: float
    """The same as a percentage of the mean."""
    standard_error_ms: float
    """Standard error of the mean; the interval is Student's t times it."""
    p10_ms: float
    """One of ten runs took no longer."""
    p90_ms: float
    """Nine of ten runs took no longer: far above the median, something else was running."""
    min_ms: float
    """The fastest run."""
    rounds: int
    """Processes behind these figures."""
    disturbed_rounds: int
    """Processes, of all that ran, whose cores others had too; they count only where too few others ran."""
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


def summarise(timings: Sequence[Timings], device: Device, *, precision: str = "fp32") -> Latency:
    """One `Latency` from what the processes saw: the undisturbed ones, once they are as many as asked for, or all."""
    settings = device.settings
    quiet = [one for one in timings if not is_disturbed(one, device)]
    disturbed = len(timings) - len(quiet)
    timings = quiet if len(quiet) >= first_rounds(settings) else timings
    times_ms = [[ns / 1e6 for ns in one.times_ns] for one in timings]
    everything = sorted(time for times in times_ms for time in times)
    preemptions = [one.preemptions for one in timings]
    half_width, standard_error = confidence_interval(times_ms)
    mean_ms = fmean(everything)
    reached_percent = 100 * half_width / mean_ms
    tenths = quantiles(everything, n=10, method="inclusive")
    return Latency(
        provider=settings.provider,
        threads=device.threads,
        runs=len(everything),
        mean_ms=mean_ms,
        median_ms=median(everything),
        ci95_ms=half_width,
        reached_percent=reached_percent,
        standard_error_ms=standard_error,
        p10_ms=tenths[0],
        p90_ms=tenths[-1],
        min_ms=everything[0],
        rounds=len(timings),
        disturbed_rounds=disturbed,
        process_means_ms=tuple(fmean(times) for times in times_ms),
        preemptions=-1 if min(preemptions) < 0 else sum(preemptions),
        core_share=core_share(timings, device),
        cores=device.cores,
        wide=reached_percent > settings.until_percent,
        busy=is_busy(timings, device),
        precision=precision,
        graph_level=settings.graph_level,
        runtime=str(device.facts["runtime"]),
        processor=str(device.facts["processor"]),
        target=None if settings.target is None else settings.target.name or "target",
    )


def is_disturbed(one: Timings, device: Device) -> bool:
    """Whether other processes had the cores of a timing process; False where that is not known, or on a GPU."""
    share = core_share([one], device)
    if share is None:
        return False
    # Threads without work rest, which looks like being kept from a core, but is no reason for them to be preempted.
    is_preempted = one.preemptions > len(one.times_ns)
    return one.main_cpu_ns < MAIN_SHARE * sum(one.times_ns) or (is_preempted and share < ALL_SHARE)


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
