"""What the worker does, the one process that holds torch: it loads the data once, then exports and scores.

`bench.py` starts it and asks; a network that takes all the memory takes the worker with it, not the command.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modscale.errors import DataError
from modscale.runs.metrics import Results
from modscale.runs.trials import Rung
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec

if TYPE_CHECKING:  # the latter loads torch
    from modscale.datasets.dataset import Dataset
    from modscale.training.pace import Pace
    from modscale.training.proxies import ProxyScore

Judge = Callable[[Results, Sequence[Rung]], str | None]
"""After a measure, or at a rung of the training, by all that is known: why the candidate ends here, or None.

Where there are rungs it is sent to the process that trains.
"""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of a candidate's training."""

    results: Results = field(default_factory=dict)
    """What the proxy says of it; nothing where it was stopped."""
    rungs: tuple[Rung, ...] = ()
    """What it had come to on its way; none where nobody asked."""
    stopped: str | None = None
    """Why it was ended at the last of them; None where it was not."""


class Tasks:
    """What the worker can be asked; everything heavy is imported here."""

    def __init__(self, source: str, proxy: ProxySettings, seed: int, cores: int | None = None) -> None:
        """A training has at most so many `cores` at once, whatever threads the proxy states; None: as it states."""
        self.source, self.proxy, self.seed, self.cores = source, proxy, seed, cores
        self.prepared: Any = None
        self.has_trained = False

    def load(self) -> DataSummary:
        from modscale.training.proxy import out_of_memory_as
        from modscale.training.proxy_data import describe_device, prepare

        device = describe_device(self.proxy)  # what cannot be had is told before a long load
        rule = "the images do not fit into memory; lower proxy.train_images, val_images or resolution"
        with out_of_memory_as(DataError(rule, file=self.source)):
            dataset = self._dataset()
            self.prepared = prepare(dataset, self.proxy, cores=self.cores)
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
            device=device,
            notes=dataset.notes,
        )

    def _dataset(self) -> Dataset:
        from modscale.datasets.dataset import load_dataset
        from modscale.datasets.dense import load_dense_dataset

        proxy = self.proxy
        sizes: dict[str, Any] = {
            "resolution": proxy.resolution,
            "train_images": proxy.train_images,
            "val_images": proxy.val_images,
            "seed": self.seed,
        }
        if proxy.task == "segmentation":
            return load_dense_dataset(self.source, **sizes, reduce_zero=proxy.reduce_zero_label)
        return load_dataset(self.source, **sizes, val_split=proxy.val_split)

    def export(self, spec: ModelSpec, file: Path) -> float:
        from modscale.deploy.export import export_onnx, fresh_network

        return export_onnx(fresh_network(spec, seed=self.seed), spec, file)

    def score(self, spec: ModelSpec, seed: int) -> tuple[ProxyScore, float]:
        """What the proxy says of a network, and the CPU seconds of all threads that it took."""
        from modscale.training.proxies import score_network

        self.has_trained = True
        start = time.process_time()
        score = score_network(spec, self.prepared, self.proxy, seed=seed)
        return score, time.process_time() - start

    def train_anchor(self, seed: int, rungs: tuple[float, ...]) -> bytes:
        """What the scores of all networks are put to, to be handed on to `train`, by whichever worker."""
        from modscale.training.proxies import train_anchor

        self.has_trained = True
        return pickle.dumps(train_anchor(self.prepared, self.proxy, seed, rungs))

    def take_pace(self, spec: ModelSpec, seed: int) -> Pace:
        """How fast a network trains here, from a few steps."""
        from modscale.training.pace import take_pace

        self.has_trained = True
        return take_pace(spec, self.prepared, self.proxy, seed=seed)

    def train(
        self,
        spec: ModelSpec,
        seed: int,
        rungs: tuple[float, ...],
        anchor: bytes,
        judge: Judge | None,
        results: Mapping[str, float],
    ) -> Trained:
        """Trains a network up to the last of the rungs, or to the one at which the judge ends it.

        `results` are what is known of it; without a judge nobody asks what it has come to on its way.
        """
        from modscale.training.proxies import know_anchor, score_to_rungs

        self.has_trained = True
        know_anchor(self.prepared, seed, rungs, pickle.loads(anchor))  # noqa: S301  # from a worker of ours
        start = time.perf_counter()
        reached: list[Rung] = []
        found: Mapping[str, float] = {}
        scores = score_to_rungs(spec, self.prepared, self.proxy, seed=seed, rungs=rungs)
        for share, score in zip(rungs, scores, strict=True):
            found = score.results
            if judge is None:
                continue
            reached.append(Rung(share=share, value=score.score, seconds=time.perf_counter() - start))
            if share < 1 and (reason := judge(results, reached)) is not None:
                return Trained(rungs=tuple(reached), stopped=reason)
        return Trained(results=dict(found), rungs=tuple(reached))

    def after_answer(self) -> None:
        """Called when a task's answer, and an error's hold on its frames, are gone."""
        if self.has_trained:
            from modscale.training.proxy_data import release_memory

            release_memory(self.prepared)
            self.has_trained = False


def summary_to_dict(summary: DataSummary) -> dict[str, Any]:
    """The summary as it stands in `run.yaml`."""
    return {**asdict(summary), "notes": list(summary.notes)}
