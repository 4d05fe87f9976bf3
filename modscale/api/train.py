"""A whole training, from a network and data to weights; begun, or gone on with where a kill or Ctrl-C left it.

Under torchrun each of its processes runs the whole command: the first one writes and tells, all of them train.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from modscale.document import read_yaml
from modscale.errors import InputError, naming_file
from modscale.interrupts import check_stop, hearing_stops
from modscale.kinds import SPEC_FILE, is_network_folder, weights_in
from modscale.processes import Child
from modscale.runs.train_folder import (
    REPORT_FILES,
    VALIDATION_FILE,
    add_row,
    best_row,
    check_asked,
    check_prepared,
    locked_training,
    read_rows,
    read_training,
    set_rows,
    write_training,
)
from modscale.training.job import BEST_FILE, LAST_FILE, STATE_FILE, Prepared, Progress, TrainJob, best_scores
from modscale.training.settings import TrainSettings, parse_train, set_length

ASKED_S = 1.0
"""Seconds of training between two looks at how far it is."""


class TrainObserver(Protocol):
    """Who watches the epochs."""

    def moved(self, progress: Progress) -> None:
        """So far it is now."""

    def finished(self, row: Mapping[str, Any]) -> None:
        """An epoch is over and on disk."""


class Watcher(Protocol):
    """Who is told of a training: the terminal, say."""

    def say(self, text: str) -> None:
        """A line of what is going on."""

    def training(self, *, epochs: int, steps: int, done: int) -> AbstractContextManager[TrainObserver]:
        """So many epochs of so many steps, of which so many are done; gives who watches the others."""


class Silence:
    """Keeps everything to itself."""

    def say(self, text: str) -> None: ...

    def training(self, *, epochs: int, steps: int, done: int) -> AbstractContextManager[TrainObserver]:
        return nullcontext(self)

    def moved(self, progress: Progress) -> None: ...

    def finished(self, row: Mapping[str, Any]) -> None: ...


def choose_settings(
    file: Path | None, *, epochs: int | None, hours: float | None, head: str = "classifier"
) -> TrainSettings:
    """The settings of a YAML file, or the defaults, with the length that was typed. Raises InputError.

    Where no task is stated, it is that of the network's `head`.
    """
    stated: dict[str, Any] = {"task": "segmentation"} if head == "semantic_fpn" else {}
    if file is None:
        return set_length(parse_train(stated), epochs, hours)
    with naming_file(file):
        document = read_yaml(file)
        if isinstance(document, Mapping):
            document = {**stated, **document}
        return set_length(parse_train(stated if document is None else document), epochs, hours)


def choose_start(start_from: Path | None) -> str | None:
    """The file of weights that `--from` means: itself, or the one in a folder of `train` or `export`."""
    if start_from is None:
        return None
    found = weights_in(start_from) if is_network_folder(start_from) else start_from
    return str(found or start_from)


def train_network(job: TrainJob, *, watcher: Watcher | None = None, debug: bool = False) -> dict[str, Any]:
    """Trains, or goes on with it, in the job's folder; returns the best scores, and where weights and report are.

    Raises:
        InputError: the data, the teacher, the weights or the folder cannot be used, or it is that of another training.
        TrialFailed: the training diverged or ran out of memory; what was written before stands.
        KeyboardInterrupt: the same call goes on from the last finished epoch, or later.
    """
    writes = os.environ.get("RANK", "0") == "0"
    told: Watcher = (watcher or Silence()) if writes else Silence()
    if not writes:
        with hearing_stops():
            _train(job, None, told, debug, writes=False)
        return {}
    document = read_training(job.folder)
    with locked_training(job.folder), hearing_stops():
        going_on = job
        if document is not None:
            settings = check_asked(document, job, job.folder)
            rows = read_rows(job.folder)
            told.say(f"resuming {job.folder}: {len(rows)} of {settings.epochs} epochs done")
            examined = (job.folder / VALIDATION_FILE).is_file() or not (job.folder / STATE_FILE).is_file()
            if len(rows) == settings.epochs and (job.folder / BEST_FILE).is_file() and examined:
                return _result(job.folder, anew=False)
            going_on = replace(job, settings=settings, goes_on=True)
        try:
            _train(going_on, document, told, debug, writes=True, asked=job)
        except KeyboardInterrupt:
            told.say(f"stopped: {len(read_rows(job.folder))} epochs done; the same command goes on")
            raise
        (job.folder / STATE_FILE).unlink(missing_ok=True)
        return _result(job.folder, anew=True)


def _train(
    job: TrainJob,
    document: Mapping[str, Any] | None,
    watcher: Watcher,
    debug: bool,
    *,
    writes: bool,
    asked: TrainJob | None = None,
) -> None:
    watcher.say(f"loading the data ({job.source})")
    name = "the training process"
    with Child("modscale.training.full", "FullTraining", (job,), name=name, debug=debug) as child:
        prepared: Prepared = child.ask("prepare")
        if writes:
            if document is None:
                write_training(asked or job, prepared)
            else:
                for change in check_prepared(document, prepared, job.folder):
                    watcher.say(f"note: {change} since this began; the weights may differ for it")
            set_rows(job.folder, prepared.rows)
        for note in (*prepared.data["notes"], *prepared.notes):
            watcher.say(f"note: {note}")
        if prepared.taken_over is not None:
            watcher.say(f"from {job.start_from}: {prepared.taken_over}")
        if prepared.teacher is not None:
            watcher.say(f"teacher: {prepared.teacher}")
        epochs = prepared.settings.epochs or 0
        with watcher.training(epochs=epochs, steps=prepared.steps, done=len(prepared.rows)) as observer:
            while True:
                progress: Progress = child.ask("advance", ASKED_S)
                observer.moved(progress)
                if progress.row is not None:
                    if writes:
                        add_row(job.folder, progress.row)
                    observer.finished(progress.row)
                if progress.is_over:
                    break
                check_stop()
        if writes:
            from modscale.api.train_report import write_examination

            write_examination(job.folder, prepared.spec, child.ask("examine"))


def _result(folder: Path, *, anew: bool) -> dict[str, Any]:
    """What a training came to; `anew`: with a new report, else where there is none."""
    from modscale.api.train_report import report_training

    rows = read_rows(folder)
    best = best_row(rows)
    weights, report = folder / BEST_FILE, folder / REPORT_FILES["html"]
    if not weights.is_file():
        raise InputError("is gone; the training is over, and its best weights are not there", file=weights)
    if anew or not report.is_file():
        report_training(folder)
    return {
        **best_scores(best),
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "spec": str(folder / SPEC_FILE),
        "weights": str(weights),
        "last": str(folder / LAST_FILE),
        "report": str(report),
    }
