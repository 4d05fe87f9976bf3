"""What a task on another machine does: it trains and exports, or times, as the processes of one machine do.

A process there keeps the data that it has loaded for the next task. The data are found by the path that the search was
given, which must lead to the same data there, and so must the versions be those of whoever searches.

It is begun only where the code is that of the search (`far_entry.py`). Whatever is raised while a task does its work is
its answer. What Ray hands on as an exception was raised before or after that: torch is not there, say.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modscale.errors import InputError, ModscaleError, WorkerFault, one_line
from modscale.files import scratch_folder
from modscale.latency.protocol import OnnxModel
from modscale.machine import describe_versions
from modscale.searching.bench import Bench, check_same_summary, failing
from modscale.searching.measures import time_models
from modscale.searching.steps import Timing
from modscale.searching.worker import DataSummary, Tasks
from modscale.settings import LatencySettings, ProxySettings
from modscale.specs.spec import ModelSpec

SAME = ("modscale", "torch", "numpy")
"""Packages of which a score could come out otherwise in another version."""
TIMERS = ("modscale", "onnxruntime", "onnxruntime-gpu")
"""The same of a latency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a process on another machine must know to work for a search."""

    source: str
    """Where the data are."""
    proxy: ProxySettings
    """How a network is scored on them."""
    latency: LatencySettings
    """How one is timed."""
    seed: int
    """Of the search."""
    cores: int
    """That a training may have at once."""
    summary: DataSummary
    """The data as the search has them."""
    versions: tuple[tuple[str, str], ...]
    """Of Python and of the packages where the search runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of a task: a value, or an error that was raised on purpose."""

    value: Any = None
    """What it returned."""
    error: ModscaleError | None = None
    """What it raised instead; a WorkerFault where nobody foresaw it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FarTimings:
    """What was measured on another machine."""

    results: list[dict[str, float]]
    """Of each model."""
    lines: list[Any]
    """What was kept of every run, as lines of `timings.jsonl`."""
    facts: dict[str, dict[str, Any]]
    """What each device says of itself."""
    notes: list[str]
    """What is to be told."""


def work(place: Place, function: str, arguments: Sequence[Any]) -> Answer:
    """What a function of `worker.Tasks` answers to these arguments."""

    def ask() -> Any:
        tasks = _tasks(place)
        try:
            return getattr(tasks, function)(*arguments)
        finally:
            tasks.after_answer()

    return _answer(function, ask)


def export(place: Place, spec: ModelSpec) -> tuple[Answer, bytes]:
    """Whether a network could be exported, and the ONNX file's content."""
    with scratch_folder() as folder:
        answer = work(place, "export", (spec, folder / "model.onnx"))
        return answer, b"" if answer.error else (folder / "model.onnx").read_bytes()


def check_devices(place: Place) -> Answer:
    """What each device says of itself, once it has answered; no data are needed for that."""

    def check() -> dict[str, dict[str, Any]]:
        check_versions(dict(place.versions), TIMERS)
        bench = Bench(place.source, place.proxy, place.latency, seed=place.seed)
        for device in bench.devices.values():
            device.check()
        return {name: device.facts for name, device in bench.devices.items()}

    return _answer("asking the device", check)


def time_contents(
    place: Place,
    timing: Timing,
    shapes: Sequence[tuple[int, ...] | None],
    facts: Mapping[str, Mapping[str, Any]],
    *contents: Any,
) -> Answer:
    """The latencies of ONNX files, given by their contents, on devices that are still the same.

    What is asked of them is the `timing`'s, whose own models are elsewhere. `shapes` has those of the inputs of files
    that are none of ours.
    """
    notes: list[str] = []

    def time_all() -> FarTimings:
        check_versions(dict(place.versions), TIMERS)
        with scratch_folder() as folder:
            kept = folder / "timings.jsonl"
            models: list[Path | OnnxModel] = []
            for i, (shape, content) in enumerate(zip(shapes, contents, strict=True)):
                file = folder / f"{i}.onnx"
                file.write_bytes(content)
                models.append(file if shape is None else OnnxModel(file=file, shape=shape))
            bench = Bench(place.source, place.proxy, place.latency, seed=place.seed, note=notes.append, timings=kept)
            for name, device in bench.devices.items():
                device.facts = dict(facts.get(name, {}))
            results = time_models(bench, replace(timing, models=tuple(models)))
            lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
            known = {name: device.facts for name, device in bench.devices.items()}
            return FarTimings(results=results, lines=lines, facts=known, notes=notes)

    return _answer("timing", time_all)


def check_versions(versions: Mapping[str, str], packages: Sequence[str]) -> None:
    """Raises InputError where one of the packages is of another version here."""
    here = describe_versions()
    for package in packages:
        if versions.get(package) != here.get(package):
            rule = f"a worker has {package} {here.get(package, 'not at all')}, and the search has"
            raise InputError(f"{rule} {versions.get(package, 'none')}", place="--workers")


def _answer(task: str, compute: Callable[[], Any]) -> Answer:
    """What came of it."""
    try:
        with failing(task):
            return Answer(value=compute())
    except ModscaleError as error:
        return Answer(error=error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the search must hear of it in a line
        return Answer(error=WorkerFault(f"{task}: {type(error).__name__}: {one_line(str(error))[:300]}"))


@functools.cache
def _tasks(place: Place) -> Tasks:
    """What works here for this search, its data loaded and looked at: once for all tasks of the process."""
    check_versions(dict(place.versions), SAME)
    tasks = Tasks(place.source, place.proxy, place.seed, place.cores)
    check_same_summary(tasks.load(), place.summary)
    return tasks
