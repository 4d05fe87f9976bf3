"""Latency of exported models: fresh processes, alternating rounds, and an interval that owns up to its noise.

Protocol. Batch 1 at the model's full resolution, random input of fixed seed, sequential execution with every graph
optimisation. The timed runs are split over `PROCESSES` fresh processes (see `device.py`), since a process keeps
for life the memory layout it happened to get; each warms up before its share. Several models take turns process by
process, in an order that reverses every round, so that a machine which slows down does so for all of them.
`benchmarks/latency_isolation.md` and `benchmarks/latency.md` have the measurements behind this.

What is reported is `quiet_ms`, what a model takes while the machine is quiet, and `relative`, that divided by the
reference's. A small model, the probe, runs between the timed runs, on the same threads: rounds beside a slow probe do
not count, and the others are put to the probe's usual time (`probed.py`). Of all ways that were tried that repeats
best, and its interval closes soonest. Of runs under 5 ms several lie between two probes, and a round has as many as
fill a tenth of a second (`benchmarks/short_runs.md`). Where no probe can run on the model's threads, on a GPU say, it
is the 5th percentile of all runs. Median and mean of the rounds and runs stand beside it; the paper's protocol is
`threads: 4, runs: 4000` and the mean. A model is measured until the interval is within `until_percent`, or `patience_s`
is over, in which all counts that is run for it: its rounds, and its share of the reference's beside them and of their
start.

The reference. A fixed network runs before every third model and at the end: `relative` is in units of it, and so
compares with another day's. A virtual machine is slower for some seconds, or minutes, while its own threads have all of
its cores; no counter in it tells. Where there is no probe, a round beside which the reference took more than `UNSTEADY`
times its best is unsteady instead; in the median such rounds count only where too few others were.

A busy machine. ONNX Runtime's threads wait for each other by spinning, as they do where a network is deployed, and are
left to; so a neighbour costs twice: beside one spinning process on two cores xxs took 2.5 times as long, beside three 4
times. So a timing process puts itself before all others, where the system lets it (`timing_worker.go_first`: as root),
and they cost nothing then. Where it may not, more runs do not mend it: their mean closes in on the neighbour's figure,
and no run was left undisturbed that could be picked out. What helps is to wait. A model is measured again, round by
round, while its interval is wider than `until_percent` or its rounds were disturbed, for `patience_s` at most; once
enough rounds were not, only those count. Whether one was is told by the share of the time in which its threads had a
core, never by its latency. What stays wide or disturbed is kept, and marked: `wide`, `busy`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modscale.errors import InputError, TrialFailed
from modscale.files import path_text, scratch_folder
from modscale.latency.device import LIMIT_S, Device
from modscale.latency.doubt import in_doubt
from modscale.latency.noise import busy_text
from modscale.latency.summary import Latency, Round, first_rounds, summarise
from modscale.machine import stolen_seconds
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
    precision: str = "fp32"
    """What its weights are kept in: `fp32`, `fp16` or `int8`; `other` or `unknown` in a file that is none of ours."""
    name: str | None = None
    """By which it is told; None: by its path."""

    @property
    def resolution(self) -> int | None:
        """Side of the square image, [B, C, R, R] or [B, R, R, C]; None where the input is none."""
        for sides in (self.shape[2:], self.shape[1:3]) if len(self.shape) == 4 else ():
            if len(set(sides)) == 1:
                return sides[0]
        return None


REFERENCE = OnnxModel(file=Path(__file__).with_name("reference.onnx"), shape=(1, 3, 224, 224))
"""The network that every measurement times besides: the published xxs with constants for weights, never changed."""

REFERENCE_EVERY = 3
"""Models between two of its rounds."""

REFERENCE_RUNS = 10
"""Timed runs in each of them."""

Keep = Callable[[int | None, Round, Device], None]
"""Hears of every round: see `measure_files`."""


def measure_latency(
    onnx_file: str | Path,
    settings: LatencySettings,
    *,
    note: Callable[[str], None] = lambda text: None,
    device: Device | None = None,
    keep: Keep | None = None,
) -> Latency:
    """Latency of one verified ONNX file. Raises as `measure_files` does."""
    return measure_files([onnx_file], settings, note=note, device=device, keep=keep)[0]


def measure_files(
    onnx_files: Sequence[str | Path | OnnxModel],
    settings: LatencySettings,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
    device: Device | None = None,
    keep: Keep | None = None,
    only_in_doubt: bool = False,
    beside: Sequence[tuple[float, float]] = (),
    between: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Latency of each file, the files taking turns; `on_round(done, total)` hears of every finished process of theirs.

    `between` is called between two turns, for what else is to be done meanwhile, while nothing is timed.
    With `only_in_doubt` a wide interval is no reason to go on once the model is told apart from every other one, those
    `beside` too: their `relative` and its half-width, as they were measured before.
    Where the settings' precision is another than fp32, the files are put in it first (`deploy/precision.py`). `note`
    hears in a line that nothing is multiplied in it, or that the machine is busy. `keep` is given every round as it was
    taken, with the place of its file in `onnx_files`, or None for the reference, and the device.

    Raises:
        InputError: a file that is not ours is to be put in int8.
        ProviderError: the provider is not there, or would fall back.
        TargetError: the device cannot be reached or cannot time, or it is not what it was when this began.
        TrialFailed: a worker failed, was killed or took too long.
    """
    device = Device(settings) if device is None else device
    if settings.precision != "fp32":
        with scratch_folder() as folder:
            models = [_put(model, settings, folder / f"{i}.onnx", note) for i, model in enumerate(onnx_files)]
            plain = replace(settings, precision="fp32")
            return measure_files(
                models, plain, on_round=on_round, note=note, device=device, keep=keep,
                only_in_doubt=only_in_doubt, beside=beside, between=between,
            )  # fmt: skip
    count = first_rounds(settings)
    seen: list[list[Round]] = [[] for _ in onnx_files]
    references: list[Round] = []
    has_reference = settings.reference
    open_files = list(range(len(onnx_files)))
    last_s, again_s = [0.0] * len(onnx_files), [0.0] * len(onnx_files)
    stolen, start, order = stolen_seconds(), device.now(), itertools.count()

    def take(which: int | None, runs: int, start_s: float) -> float:
        """Times a model, or the reference, in a process of the device; the seconds, with `start_s` for its start."""
        model = REFERENCE if which is None else onnx_files[which]
        file, shape = (model.file, model.shape) if isinstance(model, OnnxModel) else (Path(model), None)
        began = device.now()
        timings = device.time(file, runs=runs, shape=shape)
        seconds = device.now() - began + start_s
        taken = Round(order=next(order), at_s=began - start, seconds=seconds, timings=timings)
        (references if which is None else seen[which]).append(taken)
        if keep is not None:
            keep(which, taken, device)
        return seconds

    def take_beside(group: Sequence[int], turn: int, *, is_last: bool) -> float:
        """Times the reference, and models each once; the seconds of the former. One more process is for the end."""
        nonlocal has_reference
        runs = settings.runs // count + (turn % count < settings.runs % count)
        began, shared_s = device.now(), 0.0
        device.start(len(group) + has_reference + (has_reference and is_last))
        start_s = (device.now() - began) / (len(group) + has_reference)
        if has_reference:
            try:
                shared_s = take(None, REFERENCE_RUNS, start_s)
            except TrialFailed as error:  # it is of float32, which not every device takes
                if references:
                    raise
                has_reference = False
                note(f"note: the reference network is left out: {error}")
        for i in group:
            last_s[i] = take(i, runs, start_s)
            done, missing = sum(map(len, seen)), sum(max(0, count - len(rounds)) for rounds in seen)
            on_round(done, done + missing)
        return shared_s

    try:
        while open_files:
            turn = max(map(len, seen))
            if turn:
                between()
            in_turn = open_files if turn % 2 == 0 else open_files[::-1]
            ends = range(REFERENCE_EVERY, len(in_turn) + REFERENCE_EVERY, REFERENCE_EVERY)
            shared_s = sum(
                take_beside(in_turn[end - REFERENCE_EVERY : end], turn, is_last=turn + 1 >= count and end == ends[-1])
                for end in ends
            )
            for i in in_turn:
                last_s[i] += shared_s / len(in_turn)
                again_s[i] += last_s[i] if turn >= count else 0.0
            if turn + 1 == count and (found := busy_text(seen, device, stolen, start)):
                note(found)
            is_due = only_in_doubt and turn + 1 >= count
            doubts = in_doubt(seen, references, device, beside) if is_due else [True] * len(seen)
            open_files = [
                i
                for i in open_files
                if _goes_on(seen[i], references, device, again_s[i] + last_s[i], is_in_doubt=doubts[i])
            ]
        if has_reference:
            take(None, REFERENCE_RUNS, 0.0)
    finally:
        device.stop()
    return [
        summarise(
            seen[i],
            references,
            device,
            others=[one for j, rounds in enumerate(seen) if j != i for one in rounds],
            precision=getattr(model, "precision", "fp32"),
        )
        for i, model in enumerate(onnx_files)
    ]


def _put(model: str | Path | OnnxModel, settings: LatencySettings, out: Path, note: Callable[[str], None]) -> OnnxModel:
    """A model in the settings' precision. Raises InputError where it is in another one than fp32 already."""
    file = model.file if isinstance(model, OnnxModel) else Path(model)
    if isinstance(model, OnnxModel) and model.precision == settings.precision:
        return model
    if isinstance(model, OnnxModel) and model.precision != "fp32":
        rule = f"holds weights in {model.precision}, and is put in no other precision: time it as it is"
        raise InputError(rule, file=file, place="--precision", value=settings.precision)
    asked = (settings.precision, str(file), str(out), settings.provider, settings.graph_level)
    counts = _ask("modscale.deploy.precision", "write_in", *asked)
    if (wanted := settings.precision) not in counts:
        note(f"note: the {settings.provider} provider multiplies by no weight in {wanted}, but in {', '.join(counts)}")
    shape = model.shape if isinstance(model, OnnxModel) else find_onnx(out).shape
    return OnnxModel(file=out, shape=shape, precision=settings.precision)


def find_onnx(file: str | Path, resolution: int | None = None) -> OnnxModel:
    """The model in an ONNX file, of ours or not, and the input it is to be timed with: see `runtime.input_shape`.

    Raises:
        InputError: it cannot be loaded, or does not take one image.
    """
    shape, precision = _ask("modscale.deploy.precision", "answer_file", str(file), resolution)
    return OnnxModel(file=Path(file), shape=shape, precision=precision)


def measure_models(
    models: Sequence[ModelSpec | OnnxModel],
    settings: LatencySettings,
    *,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
    keep: Keep | None = None,
) -> list[Latency]:
    """Latency of each spec with fresh weights, and of each ONNX file as it is, all taking turns; `keep` as there.

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
        return measure_files(files, settings, on_round=on_round, note=note, keep=keep)


def _goes_on(
    rounds: Sequence[Round], references: Sequence[Round], device: Device, again_s: float, *, is_in_doubt: bool
) -> bool:
    """Whether a model is measured once more: always up to the first rounds, then while there is doubt and time.

    `again_s` is what has been spent on it beyond the first rounds, with what one more would take.
    """
    settings = device.settings
    count = first_rounds(settings)
    if len(rounds) < count:
        return True
    if again_s > settings.patience_s:
        return False
    so_far = summarise(rounds, references, device)
    return (so_far.wide and is_in_doubt) or so_far.busy or so_far.rounds == so_far.unsteady_rounds


def latency_to_json(model: ModelSpec | OnnxModel, latency: Latency) -> dict[str, Any]:
    """One entry of `models` in the JSON of `modscale latency`."""
    return {**model_to_json(model), **asdict(latency)}


def model_to_json(model: ModelSpec | OnnxModel) -> dict[str, Any]:
    """What is timed, for that entry: a file's name is its path, its `input` the shape."""
    if isinstance(model, OnnxModel):
        name = model.name or path_text(model.file)
        return {"name": name, "resolution": model.resolution, "input": list(model.shape)}
    return {"name": model.name, "resolution": model.resolution}


def _ask(module: str, function: str, *arguments: Any) -> Any:
    """What `function` of `module` returns in a fresh process. Raises as `Child.ask` does."""
    with Child(module, name=module, limit_s=LIMIT_S, keeps_log=True) as child:
        return child.ask(function, *arguments)
