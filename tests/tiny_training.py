"""A training small enough for a test: 48 images of four classes by brightness, and a network of 8 channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modscale.specs.spec import ModelSpec, parse_spec
from modscale.training.job import TrainJob
from modscale.training.settings import TrainSettings

SPEC = parse_spec(
    {
        "name": "tiny", "resolution": 16, "drop_path_rate": 0.2,
        "stages": [{"dim": 8, "depth": 1, "mlp_ratios": [2]}, {"dim": 8, "depth": 1, "block": "mbconv"}],
    }
)  # fmt: skip


def write_data(file: Path, seed: int = 0, train: int = 48, val: int = 24) -> Path:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", train), ("val", val)):
        labels = np.arange(count) % 4
        noise = rng.integers(0, 60, (count, 16, 16, 3))
        arrays[f"x_{split}"] = (noise + labels[:, None, None, None] * 60).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(file, **arrays)
    return file


def make_job(place: Path, name: str = "out", *, spec: ModelSpec = SPEC, seed: int = 3, **settings: Any) -> TrainJob:
    """A training of 3 epochs of 4 steps, with all that is drawn, in a folder of its own."""
    folder = place / name
    folder.mkdir(exist_ok=True)
    data = place / "data.npz"
    if not data.exists():
        write_data(data)
    values: dict[str, Any] = {
        "epochs": 3, "batch_size": 12, "threads": 1, "strength": 1.0, "ema_decay": 0.5, "learning_rate": 3e-3,
        "start": "authors",
    }  # fmt: skip
    return TrainJob(
        spec=spec, source=str(data), settings=TrainSettings(**(values | settings)), seed=seed, folder=folder
    )
