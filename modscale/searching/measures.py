"""What is measured of one candidate: a list of measures, cheapest first, as steps that an engine takes (`steps.py`).

One more thing to measure is one more function here, named in `MEASURES`, and the rows of its metrics in
`runs/metrics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from modscale.files import scratch_folder
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import Results, learnt_of, target_metric
from modscale.runs.trials import Rung
from modscale.searching.bench import Bench
from modscale.searching.engine import Announce, Engine, run_all
from modscale.searching.exports import Exports
from modscale.searching.steps import Request, Steps, Timing, Work, take_steps
from modscale.searching.worker import DataSummary, Judge, Trained
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, spec_to_dict

if TYPE_CHECKING:  # it knows how a device is reached
    from modscale.latency.summary import Latency

FINAL_PERCENT = 1.0
"""Half-width of the 95 % interval, as a percentage of the median, to which the front is timed at the end."""


class Stopped(Exception):  # a signal between the evaluator and its measures
    """The candidate ends here; its text is why."""


def go_on(results: Results, rungs: Sequence[Rung]) -> str | None:
    """A judge that ends nothing."""


@dataclass(kw_only=True, slots=True)
class Subject:
    """A candidate that is being measured, and what is known of it so far."""

    spec: ModelSpec
    """Its network."""
    seed: int = 0
    """Of the search."""
    rungs: tuple[float, ...] = ()
    """Shares of a training at which it may end."""
    judge: Judge = go_on
    """Who is asked there, and after each measure; it may be asked in another process."""
    exports: Exports | None = None
    """Where its exported file is kept; None: it is not."""
    results: dict[str, float] = field(default_factory=dict)
    """By the keys of `metrics.result_rules`."""
    reached: list[Rung] = field(default_factory=list)
    """The rungs of its training that it has reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One thing that is done to a candidate to learn of it."""

    name: str
    """What it is called."""
    needs: Literal["nothing", "quiet device", "training slot"]
    """What it must have to itself while it runs."""
    take: Callable[[Subject], Steps[Results]]
    """Gives its metrics, and the further keys that belong to them. Raises TrialFailed, and Stopped where it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured of one candidate."""

    results: Results
    """By the keys of `metrics.result_rules`."""
    stopped: str | None = None
    """Why it ended before the last measure was taken to its end; None where it did not."""
    rungs: tuple[Rung, ...] = ()
    """The rungs of its training that it has reached."""


def count(subject: Subject) -> Steps[Results]:
    """Params and FLOPs in closed form."""
    counted = count_model(subject.spec)
    return {"params": counted.params, "flops": counted.flops}
    yield  # it asks for nothing


def time_latency(subject: Subject) -> Steps[Results]:
    """ONNX Runtime latency of the exported and verified network at full resolution, on each device."""
    spec = subject.spec
    with scratch_folder() as folder:
        file = folder / "model.onnx"
        yield Work(stage="export", function="export", arguments=(spec, file))
        (found,) = yield Timing(models=(file,), told=(told_of(spec),))
        if subject.exports is not None:
            subject.exports.keep(spec, file)
        return found


def told_of(spec: ModelSpec) -> dict[str, Any]:
    """What is kept of a network with its timings."""
    return {"name": spec.name, "spec": spec_to_dict(spec)}


def score_proxy(subject: Subject) -> Steps[Results]:
    """What the proxy gives: accuracy after a short training, say, which may end at a rung."""
    shares = (*subject.rungs, 1.0)
    anchor = yield begin_anchor(subject.seed, shares)
    judge = subject.judge if subject.rungs else None  # it may hold many trials
    arguments = (subject.spec, subject.seed, shares, anchor, judge, dict(subject.results))
    found: Trained = yield Work(stage="training", function="train", arguments=arguments)
    subject.reached += found.rungs
    if found.stopped is not None:
        raise Stopped(found.stopped)
    return found.results


def begin_anchor(seed: int, shares: tuple[float, ...]) -> Work:
    """What the scores of all candidates are put to: it is trained once."""
    return Work(stage="anchor", function="train_anchor", arguments=(seed, shares), is_shared=True)


MEASURES = (
    Measure(name="counts", needs="nothing", take=count),
    Measure(name="latency", needs="quiet device", take=time_latency),
    Measure(name="training", needs="training slot", take=score_proxy),
)
"""What a search measures, cheapest first."""


def answer_request(bench: Bench, request: Request, announce: Announce = lambda stage: None) -> Any:
    """What a bench with one worker answers to a request. Raises TrialFailed."""
    if isinstance(request, Work):
        if not (request.is_shared and request in bench.shared):
            announce(request.stage)
        return bench.answer(request)
    return time_models(bench, request, announce)


def time_models(bench: Bench, request: Timing, announce: Announce = lambda stage: None) -> list[dict[str, float]]:
    """ONNX Runtime latency of each model on each device, all taking turns.

    Raises:
        TrialFailed: one of them could not be timed.
    """
    from modscale.latency.protocol import measure_files
    from modscale.latency.raw import keep_in

    found: list[dict[str, float]] = [{} for _ in request.models]
    for name, device in bench.devices.items():
        announce(f"latency on {name}" if name else "latency")
        if request.until_percent is not None:
            until = min(device.settings.until_percent, request.until_percent)
            device = device.with_settings(replace(device.settings, until_percent=until))
        keep = None if bench.timings is None else keep_in(bench.timings, request.told, device=name)
        measured = measure_files(
            request.models,
            device.settings,
            note=bench.note,
            device=device,
            keep=keep,
            only_in_doubt=request.until_percent is not None,
            beside=_relatives(request.beside, name),
        )
        for results, latency in zip(found, measured, strict=True):
            results |= latency_results(name, latency)
    return found


def _relatives(measured: Sequence[Results], device: str) -> list[tuple[float, float]]:
    """Of some results the latency on a device in units of the reference, and its half-width, where they have them."""
    prefix = target_metric(device).name.removesuffix("_ms")
    keys = f"{prefix}_relative", f"{prefix}_relative_ci95"
    return [(one[keys[0]], one[keys[1]]) for one in measured if all(key in one for key in keys)]


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
    beside = {
        "reference_ms": latency.reference_quiet_ms,
        "relative": latency.relative,
        "relative_ci95": latency.relative_ci95,
        "relative_standard_error": latency.relative_standard_error,
    }
    return found | {f"{prefix}_{key}": value for key, value in beside.items() if value is not None}


def time_again(
    engine: Engine, specs: Sequence[ModelSpec], exports: Exports | None = None, *, beside: Sequence[Results] = ()
) -> list[Results]:
    """The latency of each network on each device, all taking turns, to an interval of `FINAL_PERCENT`.

    In the time beyond the first rounds those are timed that are not told apart, from each other or from those `beside`,
    which were timed before. What is not among the `exports` is exported again.

    Raises:
        TrialFailed: one of them could not be exported or timed.
    """
    with scratch_folder() as folder:
        kept = [None if exports is None else exports.find(spec) for spec in specs]
        files = tuple(file or folder / f"{i}.onnx" for i, file in enumerate(kept))
        missing = [(spec, file) for spec, file in zip(specs, files, strict=True) if file.parent == folder]
        run_all(engine, [_only(Work(stage="export", function="export", arguments=each)) for each in missing])
        timing = Timing(
            models=files, told=tuple(map(told_of, specs)), until_percent=FINAL_PERCENT, beside=tuple(beside)
        )
        (found,) = run_all(engine, [_only(timing)])
        return list(found)


def _only(request: Request) -> Steps[Any]:
    return (yield request)


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
        workers: int = 1,
        cores: int | None = None,
        checks_devices: bool = True,
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
        timings: Path | None = None,
        exports: Exports | None = None,
    ) -> None:
        """Every timed run is kept in `timings`, where that is given; a device there must be what it was. Exported files
        are kept in `exports`.

        So many `workers` load the data, and each trains on so many `cores` at once at most. `checks_devices`: they are
        tried on entering.
        """
        self.bench = Bench(
            source,
            experiment.proxy,
            experiment.latency,
            seed=experiment.search.seed,
            workers=workers,
            cores=cores,
            debug=debug,
            note=note,
            timings=timings,
        )
        self.measures, self.exports = measures, exports
        self.checks_devices = checks_devices
        self.latency = experiment.latency
        self.seed = experiment.search.seed
        self.rungs = experiment.search.rungs if learnt_of(experiment.objectives) else ()

    @property
    def summary(self) -> DataSummary:
        """The data, as the worker has them."""
        return self.bench.summary

    def __enter__(self) -> Evaluator:
        for device in self.bench.devices.values() if self.checks_devices else ():
            device.check()
        self.bench.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bench.__exit__(kind, error, trace)

    def steps(self, spec: ModelSpec, judge: Judge = go_on) -> Steps[Evaluation]:
        """Takes the measures of one candidate, one after the other, until the judge ends it.

        The judge is asked after each measure, and at each rung of the training, where something is left to be done.

        Raises:
            TrialFailed: the candidate could not be exported, timed or trained; the reason is its text.
        """
        subject = Subject(spec=spec, seed=self.seed, rungs=self.rungs, judge=judge, exports=self.exports)
        stopped = None
        for measure in self.measures:
            stopped = judge(subject.results, ()) if subject.results else None
            if stopped is not None:
                break
            try:
                subject.results |= yield from measure.take(subject)
            except Stopped as stop:
                stopped = str(stop)
                break
        return Evaluation(results=subject.results, stopped=stopped, rungs=tuple(subject.reached))

    def answer(self, request: Request, announce: Announce) -> Any:
        """As `answer_request` on its bench."""
        return answer_request(self.bench, request, announce)

    def __call__(self, spec: ModelSpec, announce: Announce = lambda stage: None, judge: Judge = go_on) -> Evaluation:
        """Takes the steps of one candidate, here and now. Raises as they do."""
        return take_steps(self.steps(spec, judge), lambda request: self.answer(request, announce))
