"""Seeded runs that never trained anything: what the tests of the report and of the design reading read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modscale.document import dump_yaml
from modscale.runs.experiment import Experiment, experiment_to_dict, parse_experiment
from modscale.runs.trials import Trial, append_trial
from modscale.specs.counts import count_model
from modscale.specs.published import published

SPACE: dict[str, Any] = {
    "name": "fake",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [
        {"dim": [24, 32, 40, 48], "depth": [1, 2, 3], "expansion": [4, 6]},
        {"dim": {"low": 48, "high": 96, "step": 16}, "depth": {"low": 1, "high": 4}},
        {"dim": {"low": 96, "high": 192, "step": 16}, "depth": {"low": 2, "high": 8}, "fusion": ["mul", "sum"]},
        {"dim": [192, 256, 320], "depth": 2, "attention_depth": {"low": 0, "high": 3}},
    ],
    "bands": {"xxs": {"params": {"max": 2e6}}, "xs": {"params": {"max": 4e6}}, "s": {"params": {"max": 9e6}}},
}

Score = Callable[[Mapping[str, Any]], float]


def fake_trials(experiment: Experiment, count: int, *, seed: int = 0, score: Score | None = None) -> list[Trial]:
    """Complete trials at random: latency follows FLOPs, accuracy follows size or `score` (0 to 1), both noisy."""
    rng = np.random.default_rng(seed)
    trials, space = [], experiment.space
    for number in range(count):
        options = {p.name: p.options[rng.integers(len(p.options))] for p in space.searched}
        choice = {p.name: p.label(options[p.name]) for p in space.searched}
        spec = space.spec(options, name=f"{space.name}-{number}")
        counts = count_model(spec)
        size = np.log(counts.params / 5e5) / np.log(30)
        skill = size if score is None else score(choice)
        images = 1000
        accuracy = rng.binomial(images, float(np.clip(0.15 + 0.35 * skill, 0.01, 0.99))) / images
        latency = 1.0 + counts.flops / 1e7 * rng.uniform(0.85, 1.3)
        trials.append(
            Trial(
                number=number,
                state="complete",
                spec=spec,
                results={
                    "params": counts.params,
                    "flops": counts.flops,
                    "latency_ms": float(latency),
                    "latency_ci95_ms": float(0.03 * latency),
                    "accuracy": accuracy,
                    "val_images": images,
                },
                seconds=float(rng.uniform(8, 30)),
                choice=choice,
            )
        )
    return trials


def fake_references(experiment: Experiment) -> list[Trial]:
    """The published networks with made-up measurements."""
    references = []
    for number, (name, accuracy) in enumerate([("xxs", 0.33), ("xs", 0.36), ("s", 0.41), ("s_conv", 0.40)]):
        base = experiment.space.base
        spec = replace(published(name), resolution=base.resolution, num_classes=base.num_classes)
        counts = count_model(spec)
        references.append(
            Trial(
                number=number,
                state="complete",
                spec=spec,
                results={
                    "params": counts.params,
                    "flops": counts.flops,
                    "latency_ms": 1 + counts.flops / 1e7,
                    "latency_ci95_ms": 0.2,
                    "accuracy": accuracy,
                    "val_images": 1000,
                },
                seconds=20.0,
            )
        )
    return references


def write_run(
    folder: Path, trials: list[Trial], references: list[Trial], *, space: Mapping[str, Any] = SPACE, **changes: Any
) -> Path:
    """A run's folder as a search leaves it before the report."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "modscale": "0.1.0",
        "space_file": "spaces/fake.yaml",
        "data": {
            "source": "synthetic", "name": "synthetic", "classes": 10, "train_images": 4000, "val_images": 1000,
            "resolution": 64, "fingerprint": "0" * 64, "leaked": 0, "device": "cpu",
        },
        "seed": 0,
        "trials": len(trials),
        "space": experiment_to_dict(parse_experiment(space)),
        "machine": {"cpu": "Imaginary 9000", "cores": 2, "memory_gib": 15.6, "system": "Linux x86_64"},
        "versions": {"python": "3.11.9", "torch": "2.9.0", "onnxruntime": "1.23.2", "optuna": "5.0.0"},
        "started": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    (folder / "run.yaml").write_text(dump_yaml(run | changes))
    for file, content in (("trials.jsonl", trials), ("references.jsonl", references)):
        for trial in content:
            append_trial(folder / file, trial)
    return folder


def remeasured(trial: Trial, **results: float | None) -> Trial:
    """The trial with other results; what is None was not measured."""
    changed = {**trial.results, **results}
    return replace(trial, results={key: value for key, value in changed.items() if value is not None})


def read_json(file: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(file.read_text())
