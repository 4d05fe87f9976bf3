"""Latency of exported models: fresh processes, alternating rounds, and an interval that owns up to its noise.

Protocol. Batch 1 at the model's full resolution, random input of fixed seed, sequential execution with every graph
optimisation. The timed runs are split over `PROCESSES` fresh processes (see `device.py`), since a process keeps
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

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modscale.deploy.timing_worker import Timings
from modscale.files import path_text, scratch_folder
from modscale.latency.device import LIMIT_S, Device
from modscale.latency.summary import Latency, core_share, first_rounds, is_busy, summarise
from modscale.machine import load_average, stolen_seconds
from modscale.processes import Child
from modscale.settings import LatencySettings
from modscale.specs.spec import ModelSpec


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


def measure_latency(
    onnx_file: str | Path,
    settings: LatencySettings,
    *,
    note: Callable[[str], None] = lambda text: None,
    device: Device | None = None,
) -> Latency:
    """Latency of one verified ONNX file. Raises as `measure_files` does."""
    return measure_files([onnx_file], settings, note=note, device=device)[0]


def measure_files(
    onnx_files: Sequence[str | Path | OnnxModel],
    settings: LatencySettings,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
    device: Device | None = None,
) -> list[Latency]:
    """Latency of each file, the files taking turns; `on_round(done, total)` hears of every finished process.

    `note` hears in a line that the machine is busy, when that is seen.

    Raises:
        ProviderError: the provider is not there, or would fall back.
        TargetError: the device cannot be reached or cannot time, or it is not what it was when this began.
        TrialFailed: a worker failed, was killed or took too long.
    """
    device = Device(settings) if device is None else device
    count = first_rounds(settings)
    seen: list[list[Timings]] = [[] for _ in onnx_files]
    seconds: list[list[float]] = [[] for _ in onnx_files]
    open_files = list(range(len(onnx_files)))
    stolen, start = stolen_seconds(), time.monotonic()
    while open_files:
        turn = max(map(len, seen))
        runs = settings.runs // count + (turn % count < settings.runs % count)
        for i in open_files if turn % 2 == 0 else reversed(open_files):
            began = time.monotonic()
            model = onnx_files[i]
            file, shape = (model.file, model.shape) if isinstance(model, OnnxModel) else (Path(model), None)
            seen[i].append(device.time(file, runs=runs, shape=shape))
            seconds[i].append(time.monotonic() - began)
            done, missing = sum(map(len, seen)), sum(max(0, count - len(timings)) for timings in seen)
            on_round(done, done + missing)
        if turn + 1 == count and (found := _busy_text(seen, device, stolen, start)):
            note(found)
        open_files = [i for i in open_files if _goes_on(seen[i], seconds[i], device)]
    return [summarise(timings, device) for timings in seen]


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


def _goes_on(timings: Sequence[Timings], seconds: Sequence[float], device: Device) -> bool:
    """Whether a model is measured once more: always up to the first rounds, then while there is doubt and time."""
    settings = device.settings
    count = first_rounds(settings)
    if len(timings) < count:
        return True
    if sum(seconds[count:]) + seconds[-1] > settings.patience_s:
        return False
    so_far = summarise(timings, device)
    return so_far.wide or so_far.busy


def _busy_text(seen: Sequence[Sequence[Timings]], device: Device, stolen: float | None, start: float) -> str | None:
    """That the machine is busy, and how that shows; None where it is not."""
    timings = [one for each in seen for one in each]
    if not is_busy(timings, device):
        return None
    settings, is_here = device.settings, device.settings.target is None
    share, cores = core_share(timings, device) or 0.0, device.cores
    found = []
    if min(one.preemptions for one in timings) >= 0:
        runs = sum(len(one.times_ns) for one in timings)
        found.append(f"{sum(one.preemptions for one in timings) / runs:.1f} preemptions a run")
    if is_here and (load := load_average()) is not None:
        found.append(f"load {load:.1f} on {cores} cores")
    if is_here and stolen is not None and (now := stolen_seconds()) is not None:
        taken = (now - stolen) / cores / (time.monotonic() - start)
        found += [f"{taken:.0%} taken by the host"] if taken >= 0.01 else []
    again = f"; measuring for {settings.patience_s:g} s more at most" if settings.patience_s else ""
    signs = f" ({', '.join(found)})" if found else ""
    return f"note: the machine is busy: the timing threads had a core {share:.0%} of the time{signs}{again}"


def latency_to_json(model: ModelSpec | OnnxModel, latency: Latency) -> dict[str, Any]:
    """One entry of `models` in the JSON of `modscale latency`; a file's name is its path, its `input` the shape."""
    if isinstance(model, OnnxModel):
        known = {"name": path_text(model.file), "resolution": model.resolution, "input": list(model.shape)}
    else:
        known = {"name": model.name, "resolution": model.resolution}
    return {**known, **asdict(latency)}


def _ask(module: str, function: str, *arguments: Any) -> Any:
    """What `function` of `module` returns in a fresh process. Raises as `Child.ask` does."""
    with Child(module, name=module, limit_s=LIMIT_S, keeps_log=True) as child:
        return child.ask(function, *arguments)
