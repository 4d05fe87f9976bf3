"""What the worker does, the one process that holds torch: it loads the data once, then exports and scores.

`bench.py` starts it and asks; a network that takes all the memory takes the worker with it, not the command.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modscale.errors import DataError, TrialFailed
from modscale.machine import memory_in_use
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec

if TYPE_CHECKING:  # the latter loads torch
    from modscale.datasets.dataset import Dataset
    from modscale.training.pace import Pace
    from modscale.training.proxies import ProxyScore


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


class Tasks:
    """What the worker can be asked; everything heavy is imported here."""

    def __init__(self, source: str, proxy: ProxySettings, seed: int) -> None:
        self.source, self.proxy, self.seed = source, proxy, seed
        self.prepared: Any = None
        self.has_trained = False
        self.scores: Iterator[ProxyScore] | None = None

    def load(self) -> DataSummary:
        from modscale.training.proxy import out_of_memory_as
        from modscale.training.proxy_data import describe_device, prepare

        rule = "the images do not fit into memory; lower proxy.train_images, val_images or resolution"
        with out_of_memory_as(DataError(rule, file=self.source)):
            dataset = self._dataset()
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

    def begin_score(self, spec: ModelSpec, seed: int, rungs: Sequence[float]) -> ProxyScore:
        """What the proxy says of a network at the first of its rungs, where it waits."""
        from modscale.training.proxies import score_to_rungs

        self.scores = score_to_rungs(spec, self.prepared, self.proxy, seed=seed, rungs=rungs)
        return self.next_score()

    def next_score(self) -> ProxyScore:
        """What it says of the same network at the next rung."""
        self.has_trained = True
        if self.scores is None:  # the process that had begun is gone
            raise TrialFailed("the training was lost between two rungs")
        try:
            return next(self.scores)
        except BaseException:
            self.scores = None
            raise

    def take_pace(self, spec: ModelSpec, seed: int) -> Pace:
        """How fast a network trains here, from a few steps."""
        from modscale.training.pace import take_pace

        self.has_trained = True
        return take_pace(spec, self.prepared, self.proxy, seed=seed)

    def memory(self) -> tuple[int, int] | None:
        """Bytes that this process has held at most, and holds now."""
        return memory_in_use()

    def drop_score(self) -> None:
        """The network that was begun does not go on."""
        self.scores, self.has_trained = None, True

    def after_answer(self) -> None:
        """Called when a task's answer, and an error's hold on its frames, are gone."""
        if self.has_trained:
            from modscale.training.proxy_data import release_memory

            release_memory(self.prepared)
            self.has_trained = False


def summary_to_dict(summary: DataSummary) -> dict[str, Any]:
    """The summary as it stands in `run.yaml`."""
    return {**asdict(summary), "notes": list(summary.notes)}
