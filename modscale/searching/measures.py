"""What is measured of one candidate: a list of measures, cheapest first, and the bench on which they run.

Torch lives in one worker process (`worker.py`) that loads the data once, exports and trains; ONNX Runtime is timed in
a fresh process of its own while the worker sleeps. The search itself never holds a thread pool, and a candidate that
takes all the memory takes the worker with it, not the search: the worker is started again for the next one.

One more thing to measure is one more function here, named in `MEASURES`, and the rows of its metrics in
`runs/metrics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from modscale.errors import InputError, MismatchError, TooLargeError, TrialFailed, WorkerFault
from modscale.files import scratch_folder
from modscale.processes import Child
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import Results
from modscale.searching.worker import DataSummary
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

Announce = Callable[[str], None]
"""Hears what is being done to a candidate."""
Judge = Callable[[str, Results], str | None]
"""After a measure, by its name and all results so far: why the candidate ends here, or None where it goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One thing that is done to a candidate to learn of it."""

    name: str
    """What it is called."""
    needs: Literal["nothing", "quiet device", "training slot"]
    """What it must have to itself while it runs."""
    run: Callable[[Evaluator, ModelSpec, Announce], Results]
    """Gives its metrics, and the further keys that belong to them. Raises TrialFailed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured of one candidate."""

    results: Results
    """By the keys of `metrics.result_rules`."""
    seconds: float
    """Wall time of the evaluation."""
    stopped: str | None = None
    """Why it ended before the last measure; None where it did not."""


def count(bench: Evaluator, spec: ModelSpec, announce: Announce) -> Results:
    """Params and FLOPs in closed form."""
    counted = count_model(spec)
    return {"params": counted.params, "flops": counted.flops}


def time_latency(bench: Evaluator, spec: ModelSpec, announce: Announce) -> Results:
    """ONNX Runtime latency of the exported and verified network at full resolution."""
    from modscale.latency.protocol import measure_latency

    with scratch_folder() as folder:
        file = folder / "model.onnx"
        announce("export")
        bench.ask("export", spec, file)
        announce("latency")
        latency = measure_latency(file, bench.experiment.latency, note=bench.note)
    return {
        "latency_ms": latency.mean_ms,
        "latency_ci95_ms": latency.ci95_ms,
        "latency_standard_error_ms": latency.standard_error_ms,
        "latency_wide": latency.wide,
        "latency_busy": latency.busy,
    }


def train_proxy(bench: Evaluator, spec: ModelSpec, announce: Announce) -> Results:
    """Accuracy on held-out images after the proxy training."""
    announce("training")
    accuracy, val_images = bench.ask("train", spec, bench.experiment.search.seed)
    return {"accuracy": accuracy, "val_images": val_images}


MEASURES = (
    Measure(name="counts", needs="nothing", run=count),
    Measure(name="latency", needs="quiet device", run=time_latency),
    Measure(name="training", needs="training slot", run=train_proxy),
)
"""What a search measures, cheapest first."""


class Evaluator:
    """Evaluates candidates of one experiment on one data set; a context manager that owns the worker.

    Entering it raises InputError where the data set or the device cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        source: str,
        *,
        measures: Sequence[Measure] = MEASURES,
        judge: Judge = lambda measure, results: None,
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.experiment = experiment
        self.source = source
        self.measures = measures
        self.judge = judge
        self.debug = debug
        self.note = note
        self.worker: Child | None = None
        self.summary: DataSummary

    def __enter__(self) -> Evaluator:
        from modscale.latency.protocol import check_provider

        check_provider(self.experiment.latency.provider)
        self.worker = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def __call__(self, spec: ModelSpec, announce: Announce = lambda stage: None) -> Evaluation:
        """Takes the measures of one candidate, one after the other, until the judge ends it.

        Raises:
            TrialFailed: the candidate could not be exported, timed or trained; the reason is its text.
        """
        start = time.perf_counter()
        results: dict[str, float] = {}
        stopped = None
        for measure in self.measures:
            results |= measure.run(self, spec, announce)
            if measure is not self.measures[-1] and (stopped := self.judge(measure.name, results)) is not None:
                break
        return Evaluation(results=results, seconds=time.perf_counter() - start, stopped=stopped)

    def ask(self, task: str, *arguments: Any) -> Any:
        """The worker's answer. What ended it, or was not foreseen, is this candidate's reason to fail."""
        if self.worker is None or not self.worker.is_running:
            self.worker = self._start()
        try:
            return self.worker.ask(task, *arguments)
        except (MismatchError, TooLargeError, WorkerFault) as error:
            raise TrialFailed(f"{task}: {error}") from error

    def _start(self) -> Child:
        """A worker with the data loaded: the same data, on the same device, as the one before it had."""
        arguments = (self.source, self.experiment.proxy, self.experiment.search.seed)
        try:
            worker = Child("modscale.searching.worker", "Tasks", arguments, name="the worker process", debug=self.debug)
            try:
                summary: DataSummary = worker.ask("load")
                if self.worker is not None and summary != self.summary:
                    raise InputError("the data or the device changed during the search", file=self.source)
            except BaseException:
                worker.stop()
                raise
        except TrialFailed as error:
            raise InputError(f"loading the data: {error}", file=self.source) from error
        self.summary = summary
        return worker
