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


SCORES = {"miou": "mIoU", "accuracy": "accuracy"}
"""Keys of an epoch's line by which the best weights are known, and their names; the first one that it has counts."""


def best_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of an epoch, by key: all of the network, or all of its average, whichever is better."""
    keys = [key for key in SCORES if key in row]
    own, averaged = ({key: float(row[f"{of}{key}"]) for key in keys if f"{of}{key}" in row} for of in ("", "ema_"))
    return averaged if averaged and averaged[keys[0]] > own[keys[0]] else own


def best_score(row: Mapping[str, Any]) -> float:
    """The score of an epoch by which the best weights are known."""
    return next(iter(best_scores(row).values()))
