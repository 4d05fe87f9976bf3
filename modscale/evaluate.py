"""The evaluation of one candidate: counts, then latency at full resolution, then proxy training.

Torch lives in one worker process that loads the data once, exports and trains; ONNX Runtime is timed in a fresh
process of its own while the worker sleeps. The search itself never holds a thread pool, and a candidate that takes
all the memory takes the worker with it, not the search: the worker is started again for the next one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from modscale.counts import count_model
from modscale.errors import DataError, InputError, MismatchError, TooLargeError, TrialFailed, WorkerFault
from modscale.processes import Child
from modscale.settings import ProxySettings
from modscale.space import SearchSpace
from modscale.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured of one candidate."""

    params: int
    """Learned numbers."""
    flops: int
    """Multiply-adds of one image at the spec's resolution."""
    latency_ms: float
    """Mean latency of one image in ONNX Runtime."""
    latency_ci95_ms: float
    """Half-width of the 95 % confidence interval of the mean."""
    latency_standard_error_ms: float
    """Standard error of the mean."""
    accuracy: float
    """Share of validation images classified correctly after proxy training, 0 to 1."""
    val_images: int
    """Validation images behind `accuracy`."""
    seconds: float
    """Wall time of the evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """The data set as the worker loaded it, and the device that trains on it."""

    source: str
    name: str
    classes: int
    channels: int
    """Channels of its images: 1 or 3."""
    train_images: int
    val_images: int
    resolution: int
    """Side of the images as trained, pixels."""
    fingerprint: str
    """SHA-256 of images and labels."""
    leaked: int
    """Validation images that stand in the training set too, pixel for pixel."""
    device: str
    """Where the proxy trains, as in `cpu` or `cuda (NVIDIA H200)`."""
    notes: tuple[str, ...] = ()
    """What the user should know of the data, a line each: told at the start, in `run.yaml` and in the report."""


class Evaluator:
    """Evaluates candidates of one space on one data set; a context manager that owns the worker.

    Entering it raises InputError where the data set or the device cannot be used.
    """

    def __init__(self, space: SearchSpace, source: str, *, debug: bool = False) -> None:
        self.space = space
        self.source = source
        self.debug = debug
        self.worker: Child | None = None
        self.summary: DataSummary

    def __enter__(self) -> Evaluator:
        from modscale.latency import check_provider

        check_provider(self.space.latency.provider)
        self.worker = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def __call__(self, spec: ModelSpec, announce: Callable[[str], None] = lambda stage: None) -> Evaluation:
        """Measures one candidate.

        Raises:
            TrialFailed: the candidate could not be exported, timed or trained; the reason is its text.
        """
        from modscale.latency import measure_latency

        start = time.perf_counter()
        count = count_model(spec)
        with tempfile.TemporaryDirectory(prefix="modscale-") as folder:
            file = Path(folder) / "model.onnx"
            announce("export")
            self._ask("export", spec, file)
            announce("latency")
            latency = measure_latency(file, self.space.latency)
        announce("training")
        accuracy, val_images = self._ask("train", spec, self.space.search.seed)
        return Evaluation(
            params=count.params,
            flops=count.flops,
            latency_ms=latency.mean_ms,
            latency_ci95_ms=latency.ci95_ms,
            latency_standard_error_ms=latency.standard_error_ms,
            accuracy=accuracy,
            val_images=val_images,
            seconds=time.perf_counter() - start,
        )

    def _ask(self, task: str, *arguments: Any) -> Any:
        """The worker's answer. What ended it, or was not foreseen, is this candidate's reason to fail."""
        if self.worker is None or not self.worker.is_running:
            self.worker = self._start()
        try:
            return self.worker.ask(task, *arguments)
        except (MismatchError, TooLargeError, WorkerFault) as error:
            raise TrialFailed(f"{task}: {error}") from error

    def _start(self) -> Child:
        """A worker with the data loaded: the same data, on the same device, as the one before it had."""
        arguments = (self.source, self.space.proxy, self.space.search.seed)
        try:
            worker = Child(__name__, "Tasks", arguments, name="the worker process", debug=self.debug)
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


class Tasks:
    """What the worker can be asked; everything heavy is imported here."""

    def __init__(self, source: str, proxy: ProxySettings, seed: int) -> None:
        self.source, self.proxy, self.seed = source, proxy, seed
        self.prepared: Any = None
        self.has_trained = False

    def load(self) -> DataSummary:
        from modscale.data import load_dataset
        from modscale.proxy import describe_device, out_of_memory_as, prepare

        rule = "the images do not fit into memory; lower proxy.train_images, val_images or resolution"
        with out_of_memory_as(DataError(rule, file=self.source)):
            dataset = load_dataset(
                self.source,
                resolution=self.proxy.resolution,
                train_images=self.proxy.train_images,
                val_images=self.proxy.val_images,
                seed=self.seed,
                val_split=self.proxy.val_split,
            )
            self.prepared = prepare(dataset, self.proxy)
        return DataSummary(
            source=self.source,
            name=dataset.name,
            classes=dataset.num_classes,
            channels=dataset.x_train.shape[3],
            train_images=len(dataset.y_train),
            val_images=len(dataset.y_val),
            resolution=self.proxy.resolution,
            fingerprint=dataset.fingerprint,
            leaked=dataset.leaked,
            device=describe_device(self.proxy),
            notes=dataset.notes,
        )

    def export(self, spec: ModelSpec, file: Path) -> float:
        from modscale.export import export_onnx, fresh_network

        return export_onnx(fresh_network(spec, seed=self.seed), spec, file)

    def train(self, spec: ModelSpec, seed: int) -> tuple[float, int]:
        from modscale.proxy import train_proxy

        self.has_trained = True
        result = train_proxy(spec, self.prepared, self.proxy, seed=seed)
        return result.accuracy, result.val_images

    def after_answer(self) -> None:
        """Called when a task's answer, and an error's hold on its frames, are gone."""
        if self.has_trained:
            from modscale.proxy import release_memory

            release_memory(self.prepared)
            self.has_trained = False


def summary_to_dict(summary: DataSummary) -> dict[str, Any]:
    """The summary as it stands in `run.yaml`."""
    return {**asdict(summary), "notes": list(summary.notes)}
