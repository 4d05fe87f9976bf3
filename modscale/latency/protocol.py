"""Latency of exported models: fresh processes, alternating rounds, and an interval that owns up to its noise.

Protocol. Batch 1 at the model's full resolution, random input of fixed seed, sequential execution with every graph
optimisation. The timed runs are split over `PROCESSES` fresh processes (see `deploy/runtime.py`), since a process keeps
for life the memory layout it happened to get; each warms up before its share. Several models take turns process by
process, in an order that reverses every round, so that a machine which slows down does so for all of them.
`benchmarks/latency_isolation.md` has the measurements behind this.

`ci95_ms` is the half-width of a 95 % interval of the mean. Successive runs are not independent, so it is taken from
means: of `BATCHES` consecutive batches in each process, and of the processes themselves; the wider of the two counts.
The paper's protocol is `threads: 4, runs: 4000` and the mean.

A busy machine. ONNX Runtime's threads wait for each other by spinning, as they do where a network is deployed, and are
left to; so a neighbour costs twice: beside one spinning process on two cores xxs took 2 times as long, beside two 3.5
times. More runs do not mend that: their mean closes in on the neighbour's figure, and no run was left undisturbed that
could be picked out. What helps is to wait. A model is measured again, round by round, while its interval is wider than
`until_percent` or its rounds were disturbed, for `patience_s` at most; once as many rounds as asked for were not, only
such rounds count. Whether one was is told by the share of the time in which its threads had a core, never by its
latency. What stays wide or disturbed is kept, and marked: `wide`, `busy`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from modscale.deploy.runtime import Job, Timings
from modscale.errors import ProviderError
from modscale.files import path_text, scratch_folder
from modscale.latency.confidence import confidence_interval
from modscale.machine import available_cores, load_average, stolen_seconds
from modscale.processes import Child
from modscale.settings import LatencySettings
from modscale.specs.spec import ModelSpec

PROCESSES = 5
"""Fresh processes that share the runs of one model."""

MAIN_SHARE = 0.9
"""Share of the time below which the thread that asks for the runs was kept from its core."""

ALL_SHARE = 0.8
"""The same of all threads together, which also rest where a network leaves them nothing to do."""

BUSY_SHARE = 0.2
"""Share of disturbed processes above which the machine is called busy."""

LIMIT_S = 1200.0
"""Seconds one worker may take before its model is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """What was measured of one model."""

    provider: str
    """`cpu` or `cuda`, as asked and as used."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxModel:
    """A model in an ONNX file of any origin, and what it is timed with."""

    file: Path
    """The file."""
    shape: tuple[int, ...]
    """Shape of its one input."""

    @property
    def resolution(self) -> int | None:
        """Side of the square image, [B, C, R, R] or [B, R, R, C]; None where the input is none."""
        for sides in (self.shape[2:], self.shape[1:3]) if len(self.shape) == 4 else ():
            if len(set(sides)) == 1:
                return sides[0]
        return None


def check_provider(provider: str) -> None:
    """Raises ProviderError where ONNX Runtime lacks `provider` or it does not start; asked in a process of its own."""
    _ask("modscale.deploy.runtime", "answer_provider", provider)


def measure_latency(
    onnx_file: str | Path, settings: LatencySettings, *, note: Callable[[str], None] = lambda text: None
) -> Latency:
    """Latency of one verified ONNX file. Raises as `measure_files` does."""
    return measure_files([onnx_file], settings, note=note)[0]


def measure_files(
    onnx_files: Sequence[str | Path | OnnxModel],
    settings: LatencySettings,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Latency]:
    """Latency of each file, the files taking turns; `on_round(done, total)` hears of every finished process.

    `note` hears in a line that the machine is busy, when that is seen.

    Raises:
        ProviderError: the provider is not there, or would fall back.
        TrialFailed: a worker failed, was killed or took too long.
    """
    count = _processes(settings)
    seen: list[list[Timings]] = [[] for _ in onnx_files]
    seconds: list[list[float]] = [[] for _ in onnx_files]
    open_files = list(range(len(onnx_files)))
    stolen, start = stolen_seconds(), time.monotonic()
    while open_files:
        turn = max(map(len, seen))
        runs = settings.runs // count + (turn % count < settings.runs % count)
        for i in open_files if turn % 2 == 0 else reversed(open_files):
            began = time.monotonic()
            seen[i].append(_run_worker(_job(onnx_files[i], settings, runs)))
            seconds[i].append(time.monotonic() - began)
            done, missing = sum(map(len, seen)), sum(max(0, count - len(timings)) for timings in seen)
            on_round(done, done + missing)
        if turn + 1 == count and (found := _busy_text(seen, settings, stolen, start)):
            note(found)
        open_files = [i for i in open_files if _goes_on(seen[i], seconds[i], settings)]
    return [summarise(timings, settings) for timings in seen]


def find_onnx(file: str | Path, resolution: int | None = None) -> OnnxModel:
    """The model in an ONNX file, of ours or not, and the input it is to be timed with: see `runtime.input_shape`.

    Raises:
        InputError: it cannot be loaded, or does not take one image.
    """
    shape = _ask("modscale.deploy.runtime", "answer_shape", str(file), resolution)
    return OnnxModel(file=Path(file), shape=shape)


def measure_models(
    models: Sequence[ModelSpec | OnnxModel],
    settings: LatencySettings,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Latency]:
    """Latency of each spec with fresh weights, and of each ONNX file as it is, all taking turns.

    The specs are exported and verified first, in a process that has ended.

    Raises:
        InputError, MismatchError: an export failed.
        ProviderError, TrialFailed: see `measure_files`.
    """
    with scratch_folder() as folder:
        outs = {i: folder / str(i) for i, model in enumerate(models) if isinstance(model, ModelSpec)}
        if outs:
            specs = [model for model in models if isinstance(model, ModelSpec)]
            _ask("modscale.deploy.export", "export_all", specs, list(outs.values()))
        files = [outs[i] / "model.onnx" if isinstance(model, ModelSpec) else model for i, model in enumerate(models)]
        return measure_files(files, settings, on_round=on_round, note=note)


def summarise(timings: Sequence[Timings], settings: LatencySettings) -> Latency:
    """One `Latency` from what the processes saw: the undisturbed ones, once they are as many as asked for, or all."""
    quiet = [one for one in timings if not is_disturbed(one, settings)]
    disturbed = len(timings) - len(quiet)
    timings = quiet if len(quiet) >= _processes(settings) else timings
    times_ms = [[ns / 1e6 for ns in one.times_ns] for one in timings]
    everything = sorted(time for times in times_ms for time in times)
    preemptions = [one.preemptions for one in timings]
    half_width, standard_error = confidence_interval(times_ms)
    mean_ms = fmean(everything)
    reached_percent = 100 * half_width / mean_ms
    return Latency(
        provider=settings.provider,
        threads=settings.resolved_threads(),
        runs=len(everything),
        mean_ms=mean_ms,
        median_ms=median(everything),
        ci95_ms=half_width,
        reached_percent=reached_percent,
        standard_error_ms=standard_error,
        p90_ms=quantiles(everything, n=10, method="inclusive")[-1],
        min_ms=everything[0],
        rounds=len(timings),
        disturbed_rounds=disturbed,
        process_means_ms=tuple(fmean(times) for times in times_ms),
        preemptions=-1 if min(preemptions) < 0 else sum(preemptions),
        core_share=core_share(timings, settings),
        cores=available_cores(),
        wide=reached_percent > settings.until_percent,
        busy=_is_busy(timings, settings),
    )


def is_disturbed(one: Timings, settings: LatencySettings) -> bool:
    """Whether other processes had the cores of a timing process; False where that is not known, or on a GPU."""
    share = core_share([one], settings)
    if share is None:
        return False
    # Threads without work rest, which looks like being kept from a core, but is no reason for them to be preempted.
    is_preempted = one.preemptions > len(one.times_ns)
    return one.main_cpu_ns < MAIN_SHARE * sum(one.times_ns) or (is_preempted and share < ALL_SHARE)


def _is_busy(timings: Sequence[Timings], settings: LatencySettings) -> bool:
    return sum(is_disturbed(one, settings) for one in timings) > BUSY_SHARE * len(timings)


def core_share(timings: Sequence[Timings], settings: LatencySettings) -> float | None:
    """Share of the timed runs in which the threads, or as many as there are cores, had one; None where not known."""
    if settings.provider != "cpu" or min(one.cpu_ns for one in timings) < 0:
        return None
    wall_ns = sum(sum(one.times_ns) for one in timings)
    cores = min(settings.resolved_threads(), available_cores())
    return min(1.0, sum(one.cpu_ns for one in timings) / wall_ns / cores)  # what lies between two runs is not wall time


def _goes_on(timings: Sequence[Timings], seconds: Sequence[float], settings: LatencySettings) -> bool:
    """Whether a model is measured once more: always up to the first rounds, then while there is doubt and time."""
    count = _processes(settings)
    if len(timings) < count:
        return True
    if sum(seconds[count:]) + seconds[-1] > settings.patience_s:
        return False
    so_far = summarise(timings, settings)
    return so_far.wide or so_far.busy


def _busy_text(
    seen: Sequence[Sequence[Timings]], settings: LatencySettings, stolen: float | None, start: float
) -> str | None:
    """That the machine is busy, and how that shows; None where it is not."""
    timings = [one for each in seen for one in each]
    if not _is_busy(timings, settings):
        return None
    share, cores = core_share(timings, settings) or 0.0, available_cores()
    found = []
    if min(one.preemptions for one in timings) >= 0:
        runs = sum(len(one.times_ns) for one in timings)
        found.append(f"{sum(one.preemptions for one in timings) / runs:.1f} preemptions a run")
    if (load := load_average()) is not None:
        found.append(f"load {load:.1f} on {cores} cores")
    if stolen is not None and (now := stolen_seconds()) is not None:
        taken = (now - stolen) / cores / (time.monotonic() - start)
        found += [f"{taken:.0%} taken by the host"] if taken >= 0.01 else []
    again = f"; measuring for {settings.patience_s:g} s more at most" if settings.patience_s else ""
    signs = f" ({', '.join(found)})" if found else ""
    return f"note: the machine is busy: the timing threads had a core {share:.0%} of the time{signs}{again}"


def _processes(settings: LatencySettings) -> int:
    """Fresh processes that share the runs asked for."""
    return max(1, min(PROCESSES, settings.runs // 2))


def latency_to_json(model: ModelSpec | OnnxModel, latency: Latency) -> dict[str, Any]:
    """One entry of `models` in the JSON of `modscale latency`; a file's name is its path, its `input` the shape."""
    if isinstance(model, OnnxModel):
        known = {"name": path_text(model.file), "resolution": model.resolution, "input": list(model.shape)}
    else:
        known = {"name": model.name, "resolution": model.resolution}
    return {**known, **asdict(latency)}


def _job(model: str | Path | OnnxModel, settings: LatencySettings, runs: int) -> Job:
    return Job(
        onnx_file=str(model.file if isinstance(model, OnnxModel) else model),
        shape=model.shape if isinstance(model, OnnxModel) else None,
        provider=settings.provider,
        threads=settings.resolved_threads(),
        warmup=settings.warmup,
        runs=runs,
        limit_s=LIMIT_S / 2,
    )


def _run_worker(job: Job) -> Timings:
    return _ask("modscale.deploy.runtime", "answer_timing", job)


def _ask(module: str, function: str, *arguments: Any) -> Any:
    """What `function` of `module` returns in a fresh process. Raises as `Child.ask` does."""
    # numpy's BLAS would otherwise start a pool of its own on import, beside the model that is timed.
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if module == "modscale.deploy.runtime" else {}
    with Child(module, name=module, environment=alone, limit_s=LIMIT_S, keeps_log=True) as child:
        try:
            return child.ask(function, *arguments)
        except ProviderError as error:
            error.rule += _missing_library(child.log)
            raise


def _missing_library(log: str) -> str:
    """The library that ONNX Runtime could not load, which stands in its log and not in its exception."""
    found = re.search(r"Failed to load library .* with error: ([^:]+: cannot open shared object file)", log)
    return f" ({found[1]})" if found else ""
