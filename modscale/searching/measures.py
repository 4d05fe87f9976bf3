"""What is measured of one candidate: a list of measures, cheapest first, taken on a bench (`bench.py`).

One more thing to measure is one more function here, named in `MEASURES`, and the rows of its metrics in
`runs/metrics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from modscale.files import scratch_folder
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import Results
from modscale.searching.bench import Bench
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
    run: Callable[[Bench, ModelSpec, Announce], Results]
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


def count(bench: Bench, spec: ModelSpec, announce: Announce) -> Results:
    """Params and FLOPs in closed form."""
    counted = count_model(spec)
    return {"params": counted.params, "flops": counted.flops}


def time_latency(bench: Bench, spec: ModelSpec, announce: Announce) -> Results:
    """ONNX Runtime latency of the exported and verified network at full resolution."""
    from modscale.latency.protocol import measure_latency

    with scratch_folder() as folder:
        file = folder / "model.onnx"
        announce("export")
        bench.ask("export", spec, file)
        announce("latency")
        latency = measure_latency(file, bench.latency, note=bench.note)
    return {
        "latency_ms": latency.mean_ms,
        "latency_ci95_ms": latency.ci95_ms,
        "latency_standard_error_ms": latency.standard_error_ms,
        "latency_wide": latency.wide,
        "latency_busy": latency.busy,
    }


def score_proxy(bench: Bench, spec: ModelSpec, announce: Announce) -> Results:
    """What the proxy gives: accuracy on held-out images after a short training, say."""
    announce("training")
    score, _ = bench.ask("score", spec, bench.seed)
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
        judge: Judge = lambda measure, results: None,
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.bench = Bench(
            source, experiment.proxy, experiment.latency, seed=experiment.search.seed, debug=debug, note=note
        )
        self.measures = measures
        self.judge = judge

    @property
    def summary(self) -> DataSummary:
        """The data, as the worker has them."""
        return self.bench.summary

    def __enter__(self) -> Evaluator:
        from modscale.latency.protocol import check_provider

        check_provider(self.bench.latency.provider)
        self.bench.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bench.__exit__(kind, error, trace)

    def __call__(self, spec: ModelSpec, announce: Announce = lambda stage: None) -> Evaluation:
        """Takes the measures of one candidate, one after the other, until the judge ends it.

        Raises:
            TrialFailed: the candidate could not be exported, timed or trained; the reason is its text.
        """
        start = time.perf_counter()
        results: dict[str, float] = {}
        stopped = None
        for measure in self.measures:
            results |= measure.run(self.bench, spec, announce)
            if measure is not self.measures[-1] and (stopped := self.judge(measure.name, results)) is not None:
                break
        return Evaluation(results=results, seconds=time.perf_counter() - start, stopped=stopped)
