"""The report of a training: drawn when it is over, rebuilt from its folder whenever asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modscale.api.context import seen_image
from modscale.errors import RunError, naming_file
from modscale.files import write_whole
from modscale.kinds import SPEC_FILE, TRAIN_FILE
from modscale.report.context import draw_contexts_together
from modscale.report.training import TrainingRecord, build_training_report
from modscale.runs.train_folder import (
    CONTEXT_FILE,
    DARK_CONTEXT_FILE,
    METRICS_FILE,
    best_row,
    read_rows,
    read_training,
    read_validation,
    write_validation,
)
from modscale.specs.spec import ModelSpec, load_spec
from modscale.training.examination import Examination
from modscale.training.job import SCORES, best_scores

NEEDED = ("train_loss", "val_loss", "learning_rate", "seconds")
"""Keys of an epoch's line that a report tells of, beside its scores."""


def report_training(folder: Path) -> dict[str, Any]:
    """Rebuilds the report of a training, over or not; returns what it came to so far and the files.

    Raises:
        RunError: no epoch is over, or a file of the training is broken.
        InputError: the report cannot be written.
    """
    document = read_training(folder)
    rows = read_rows(folder)
    if document is None or not rows:
        raise RunError("no epoch of this training is over yet: there is nothing to report", file=folder)
    for number, row in enumerate(rows, 1):
        lacking = [key for key in NEEDED if not isinstance(row.get(key), (int, float))]
        if lacking or not any(isinstance(row.get(key), float) for key in SCORES):
            rule = f"lacks what a training writes: {lacking[0] if lacking else ' or '.join(SCORES)}"
            raise RunError(rule, file=folder / METRICS_FILE, place=f"line {number}")
    with naming_file(folder / TRAIN_FILE):
        spec = load_spec(folder / SPEC_FILE)
        confusion = read_validation(folder, spec.num_classes)
    record = TrainingRecord(folder=folder, spec=spec, document=document, rows=rows, confusion=confusion)
    files = build_training_report(record)
    best = best_row(rows)
    return {
        "training": str(folder),
        **best_scores(best),
        "best_epoch": best["epoch"],
        "epochs": len(rows),
        "files": {kind: str(file) for kind, file in files.items()},
    }


def write_examination(folder: Path, spec: ModelSpec, found: Examination) -> None:
    """What was found of the best weights, for a report. Raises InputError where it cannot be written."""
    if found.examples:
        images = [seen_image(spec, one.pixels, one.maps, one.name) for one in found.examples]
        for name, dark in ((CONTEXT_FILE, False), (DARK_CONTEXT_FILE, True)):
            write_whole(folder / name, draw_contexts_together(images, dark=dark))
    write_validation(folder, found.confusion)
