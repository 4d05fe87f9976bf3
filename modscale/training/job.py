"""What passes between a training and whoever asked for it; without torch, for that one need not load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.specs.spec import ModelSpec
from modscale.training.settings import TrainSettings

STATE_FILE = "state.pt"
BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """What is to be trained."""

    spec: ModelSpec
    """The network as it was asked for; its input and head follow the data."""
    source: str
    """The data."""
    settings: TrainSettings
    """As they were asked for, or resolved where the training goes on."""
    seed: int
    """Of the initial weights, the order of the images and all that is drawn."""
    folder: Path
    """Where weights and state are written."""
    teacher: str | None = None
    """`--teacher`."""
    start_from: str | None = None
    """`--from`: a file of weights."""
    goes_on: bool = False
    """Whether a training in the folder goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known once the data are loaded and the length of the training is fixed."""

    rank: int
    """0 for the process that writes."""
    processes: int
    spec: ModelSpec
    settings: TrainSettings
    """Resolved."""
    data: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    device: str
    """As in `cpu` or `cuda (NVIDIA H100)`."""
    steps: int
    """Of an epoch."""
    rows: tuple[Mapping[str, Any], ...]
    """Lines of `metrics.jsonl` of the epochs that are finished."""
    notes: tuple[str, ...]
    """What is to be told."""
    taken_over: str | None
    """What `--from` has given."""
    teacher: str | None
    """What the teacher is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a training is."""

    epoch: int
    """Finished epochs."""
    step: int
    """Finished steps of the one after them."""
    loss: float | None
    """Mean over that epoch's steps so far."""
    rate: float
    """Of the next step."""
    row: Mapping[str, Any] | None
    """The line of an epoch that has just ended."""
    is_over: bool


def best_score(row: Mapping[str, Any], score: str = "accuracy") -> float:
    """The score of an epoch: that of the network or of its average, whichever is better."""
    return max(float(row[score]), float(row.get(f"ema_{score}", -1.0)))
