"""What is measured of one candidate: a list of measures, cheapest first, taken on a bench (`bench.py`).

One more thing to measure is one more function here, named in `MEASURES`, and the rows of its metrics in
`runs/metrics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from modscale.files import scratch_folder
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import Results, learnt_of, target_metric
from modscale.runs.trials import Rung
from modscale.searching.bench import Bench
from modscale.searching.worker import DataSummary
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, spec_to_dict
from modscale.training.proxies import ProxyScore

if TYPE_CHECKING:  # it knows how a device is reached
    from modscale.latency.protocol import OnnxModel
    from modscale.latency.summary import Latency

FINAL_PERCENT = 1.0
"""Half-width of the 95 % interval, as a percentage of the median, to which the front is timed at the end."""
Announce = Callable[[str], None]
"""Hears what is being done to a candidate."""
Judge = Callable[[Results, Sequence[Rung]], str | None]
"""After a measure, or at a rung of the training, by all that is known: why the candidate ends here, or None."""
Reached = Callable[[Rung], None]
"""Hears which rung a candidate has reached. Raises Stopped where it ends there."""


class Stopped(Exception):  # a signal between the evaluator and its measures
    """The candidate ends here; its text is why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One thing that is done to a candidate to learn of it."""

    name: str
    """What it is called."""
    needs: Literal["nothing", "quiet device", "training slot"]
    """What it must have to itself while it runs."""
    run: Callable[[Bench, ModelSpec, Announce, Reached], Results]
    """Gives its metrics, and the further keys that belong to them. Raises TrialFailed, and lets Stopped pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured of one candidate."""

    results: Results
    """By the keys of `metrics.result_rules`."""
    seconds: float
    """Wall time of the evaluation."""
    stopped: str | None = None
    """Why it ended before the last measure was taken to its end; None where it did not."""
    rungs: tuple[Rung, ...] = ()
    """The rungs of its training that it has reached."""


def count(bench: Bench, spec: ModelSpec, announce: Announce, reached: Reached) -> Results:
    """Params and FLOPs in closed form."""
    counted = count_model(spec)
    return {"params": counted.params, "flops": counted.flops}


def time_latency(bench: Bench, spec: ModelSpec, announce: Announce, reached: Reached = lambda rung: None) -> Results:
    """ONNX Runtime latency of the exported and verified network at full resolution, on each device."""
    with scratch_folder() as folder:
        file = folder / "model.onnx"
        announce("export")
        bench.ask("export", spec, file)
        return time_file(bench, file, {"name": spec.name, "spec": spec_to_dict(spec)}, announce)


def time_file(bench: Bench, model: Path | OnnxModel, told: Mapping[str, Any], announce: Announce) -> Results:
    """ONNX Runtime latency of what is in a file, on each device; `told` is kept of it with the timings."""
    from modscale.latency.protocol import measure_files
    from modscale.latency.raw import keep_in

    found: dict[str, float] = {}
    for name, device in bench.devices.items():
        announce(f"latency on {name}" if name else "latency")
        keep = None if bench.timings is None else keep_in(bench.timings, [told], device=name)
        (latency,) = measure_files([model], device.settings, note=bench.note, device=device, keep=keep)
        found |= latency_results(name, latency)
    return found


def latency_results(device: str, latency: Latency) -> dict[str, float]:
    """The metric of a device, and the further keys that belong to it, as measured."""
    prefix = target_metric(device).name.removesuffix("_ms")
    found = {
        f"{prefix}_ms": latency.median_ms,
        f"{prefix}_ci95_ms": latency.ci95_ms,
        f"{prefix}_standard_error_ms": latency.standard_error_ms,
        f"{prefix}_wide": latency.wide,
        f"{prefix}_busy": latency.busy,
    }
    if latency.reference_ms is not None:
        found[f"{prefix}_reference_ms"] = latency.reference_ms
    return found


def score_proxy(bench: Bench, spec: ModelSpec, announce: Announce, reached: Reached) -> Results:
    """What the proxy gives: accuracy after a short training, say, which may end at the bench's rungs."""
    announce("training")
    start = time.perf_counter()
    shares = (*bench.rungs, 1.0)
    score: ProxyScore = bench.ask("begin_score", spec, bench.seed, shares)
    for share in shares:
        if share != shares[0]:
            score = bench.ask("next_score")
        if bench.rungs:
            try:
                reached(Rung(share=share, value=score.score, seconds=time.perf_counter() - start))
            except Stopped:
                bench.ask("drop_score")
                raise
    return dict(score.results)


MEASURES = (
    Measure(name="counts", needs="nothing", run=count),
    Measure(name="latency", needs="quiet device", run=time_latency),
    Measure(name="training", needs="training slot", run=score_proxy),
)
"""What a search measures, cheapest first."""


class Evaluator:
    """Evaluates candidates of one experiment on one data set; a context manager that owns the bench.

    Entering it raises InputError where the data set, the device or the provider cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        source: str,
        *,
        measures: Sequence[Measure] = MEASURES,
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
        timings: Path | None = None,
    ) -> None:
        """Every timed run is kept in `timings`, where that is given; a device there must be what it was."""
        self.bench = Bench(
            source,
            experiment.proxy,
            experiment.latency,
            seed=experiment.search.seed,
            rungs=experiment.search.rungs if learnt_of(experiment.objectives) else (),
            debug=debug,
            note=note,
            timings=timings,
        )
        self.measures = measures

    @property
    def summary(self) -> DataSummary:
        """The data, as the worker has them."""
        return self.bench.summary

    def __enter__(self) -> Evaluator:
        for device in self.bench.devices.values():
            device.check()
        self.bench.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bench.__exit__(kind, error, trace)

    def time_again(self, specs: Sequence[ModelSpec]) -> list[Results]:
        """The latency of each network on each device, all taking turns, to an interval of `FINAL_PERCENT`.

        Raises:
            TrialFailed: one of them could not be exported or timed.
        """
        from modscale.latency.device import Device
        from modscale.latency.protocol import measure_files
        from modscale.latency.raw import keep_in

        with scratch_folder() as folder:
            files = [folder / f"{i}.onnx" for i in range(len(specs))]
            timed = [{"name": spec.name, "spec": spec_to_dict(spec)} for spec in specs]
            for spec, file in zip(specs, files, strict=True):
                self.bench.ask("export", spec, file)
            found: list[dict[str, float]] = [{} for _ in specs]
            for name, device in self.bench.devices.items():
                until = min(device.settings.until_percent, FINAL_PERCENT)
                again = Device(replace(device.settings, until_percent=until), device.facts)
                place = self.bench.timings
                keep = None if place is None else keep_in(place, timed, device=name)
                measured = measure_files(files, again.settings, note=self.bench.note, device=again, keep=keep)
                for results, latency in zip(found, measured, strict=True):
                    results |= latency_results(name, latency)
        return list(found)

    def __call__(
        self, spec: ModelSpec, announce: Announce = lambda stage: None, judge: Judge = lambda results, rungs: None
    ) -> Evaluation:
        """Takes the measures of one candidate, one after the other, until the judge ends it.

        The judge is asked after each measure, and at each rung of the training, where something is left to be done.

        Raises:
            TrialFailed: the candidate could not be exported, timed or trained; the reason is its text.
        """
        start = time.perf_counter()
        results: dict[str, float] = {}
        rungs: list[Rung] = []
        stopped = None

        def go_on() -> None:
            if (reason := judge(results, rungs)) is not None:
                raise Stopped(reason)

        def reached(rung: Rung) -> None:
            rungs.append(rung)
            if rung.share < 1:
                go_on()

        try:
            for measure in self.measures:
                if results:
                    go_on()
                results |= measure.run(self.bench, spec, announce, reached)
        except Stopped as stop:
            stopped = str(stop)
        seconds = time.perf_counter() - start
        return Evaluation(results=results, seconds=seconds, stopped=stopped, rungs=tuple(rungs))
