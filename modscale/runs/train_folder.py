"""The folder of `modscale train`: `train.yaml`, what a training is held to, and `metrics.jsonl`, a line an epoch.

`train.yaml` has what was asked for and the settings that came of it, so that the same command goes on with the same
schedule on whatever machine; the weights and `state.pt` are written by `training/full.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from modscale import __version__
from modscale.document import dump_yaml
from modscale.errors import RunError, naming_file
from modscale.files import path_text, read_plain, write_whole
from modscale.kinds import SPEC_FILE, TRAIN_FILE
from modscale.lines import append_line, read_lines
from modscale.machine import describe_machine, describe_versions
from modscale.runs.conditions import differences, told
from modscale.runs.locking import locked_folder
from modscale.runs.records import is_begun, made_here, read_record
from modscale.specs.spec import spec_to_dict, spec_to_yaml
from modscale.training.job import BEST_FILE, LAST_FILE, STATE_FILE, Prepared, TrainJob, best_score
from modscale.training.settings import TrainSettings, parse_train, train_to_dict

METRICS_FILE = "metrics.jsonl"
VALIDATION_FILE = "validation.json"
"""What the best weights answered to the validation images."""
CONTEXT_FILE = "context.png"
"""What the context branch sees in some of them."""
DARK_CONTEXT_FILE = "context.dark.png"
"""The same for a dark page."""
REPORT_FILES = {"markdown": "report.md", "html": "report.html", "curves": "training.png"}
OUTPUTS = frozenset({
    TRAIN_FILE, SPEC_FILE, METRICS_FILE, BEST_FILE, LAST_FILE, STATE_FILE, VALIDATION_FILE, CONTEXT_FILE,
    DARK_CONTEXT_FILE, *REPORT_FILES.values(),
})  # fmt: skip
"""What is written whole into the folder."""
FREE = frozenset({"checkpoint_minutes", "log"})
"""Settings that may be others when a training goes on: no weight depends on them."""


def read_training(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's `train.yaml`; None where the folder is not there, or empty.

    Raises:
        RunError: it holds something else, or the file is broken.
    """
    if not is_begun(folder, TRAIN_FILE, what="a folder of `modscale train`"):
        return None
    rule = "is not what `modscale train` writes: it lacks what was asked, the settings or the data"
    return read_record(folder / TRAIN_FILE, "asked", "settings", "data", rule=rule)


def asked_to_dict(job: TrainJob) -> dict[str, Any]:
    """What was asked for as plain values."""
    return {
        "spec": spec_to_dict(job.spec),
        "settings": train_to_dict(job.settings),
        "seed": job.seed,
        "teacher": job.teacher,
        "from": job.start_from,
    }


def check_asked(document: Mapping[str, Any], job: TrainJob, folder: Path) -> TrainSettings:
    """The settings by which the training of the folder goes on.

    Raises:
        RunError: something else was asked for when it began.
    """
    for place, before, now in differences(document["asked"], asked_to_dict(job)):
        if place.removeprefix("settings.") not in FREE:
            rule = f"was asked for otherwise: its {place} is {told(before)}, and {told(now)} here; give another --out"
            raise RunError(rule, file=folder)
    with naming_file(folder / TRAIN_FILE):
        return parse_train(document["settings"], "settings")


def check_prepared(document: Mapping[str, Any], prepared: Prepared, folder: Path) -> list[str]:
    """What is not as it was and may move the numbers, a line each.

    Raises:
        RunError: the data, the kind of device or the number of processes are others.
    """
    file = folder / TRAIN_FILE
    kind, now = (str(text).partition(" ")[0] for text in (document.get("device"), prepared.device))
    for place, old, new in (
        ("data.fingerprint", document["data"].get("fingerprint"), prepared.data["fingerprint"]),
        ("device", kind, now),
        ("processes", document.get("processes"), prepared.processes),
    ):
        if old != new:
            rule = f"belongs to another training: {told(old)} there, and {told(new)} here; give another --out"
            raise RunError(rule, file=file, place=place)
    here = {"cpu": describe_machine()["cpu"], "torch": describe_versions().get("torch")}
    there = {key: (document.get(part) or {}).get(key) for key, part in (("cpu", "machine"), ("torch", "versions"))}
    return [f"{key} was {told(there[key])} and is {told(here[key])}" for key in here if here[key] != there[key]]


def write_training(job: TrainJob, prepared: Prepared) -> None:
    """Records what is trained, by which settings and on what, and the network itself. Raises InputError."""
    document = {
        "modscale": __version__,
        "asked": asked_to_dict(job),
        "settings": train_to_dict(prepared.settings),
        "data": {"source": path_text(job.source), **prepared.data},
        "classes": list(prepared.class_names),
        "preprocessing": dict(prepared.preprocessing),
        "teacher": prepared.teacher,
        "taken_over": prepared.taken_over,
        "device": prepared.device,
        "processes": prepared.processes,
        **made_here(),
    }
    write_whole(job.folder / SPEC_FILE, spec_to_yaml(prepared.spec))
    write_whole(job.folder / TRAIN_FILE, dump_yaml(document))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`. Raises RunError."""
    rows: list[dict[str, Any]] = []
    for number, row in read_lines(folder / METRICS_FILE):
        if not isinstance(row, dict) or row.get("epoch") != len(rows) + 1:
            rule = f"must be an object with `epoch: {len(rows) + 1}`"
            raise RunError(rule, file=folder / METRICS_FILE, place=f"line {number}", value=row)
        rows.append(row)
    return rows


def set_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Makes `metrics.jsonl` that of the state a training goes on from: a kill may have come before its last line."""
    here = read_rows(folder)
    if here == list(rows[: len(here)]):
        for row in rows[len(here) :]:
            add_row(folder, row)
        return
    (folder / METRICS_FILE).unlink()
    for row in rows:
        add_row(folder, row)


def add_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Adds the line of an epoch. Raises RunError where it cannot be written."""
    append_line(folder / METRICS_FILE, row)


def write_validation(folder: Path, confusion: Sequence[tuple[int, int, int]]) -> None:
    """Records how many images (of masks: pixels) of each class had each answer, where any had. Raises InputError."""
    content = {"confusion": [list(found) for found in confusion]}
    write_whole(folder / VALIDATION_FILE, json.dumps(content) + "\n")


def read_validation(folder: Path, classes: int) -> list[tuple[int, int, int]] | None:
    """Class, answer and number, as `write_validation` has them; None where the file is not there. Raises RunError."""
    file = folder / VALIDATION_FILE
    try:
        found = json.loads(read_plain(file))["confusion"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError("is not what `modscale train` writes", file=file) from error
    if isinstance(found, list) and all(_is_count(one, classes) for one in found):
        return [(row, column, number) for row, column, number in found]
    raise RunError(f"must have a list of [class, answer, number] of {classes} classes", file=file, place="confusion")


def _is_count(value: object, classes: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(part) is int and part >= 0 for part in value)
        and max(value[:2]) < classes
    )


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The line of the epoch whose weights are kept as the best: the first with the highest accuracy."""
    return max(rows, key=best_score)


def locked_training(folder: Path) -> AbstractContextManager[None]:
    """As `locked_folder`, of a training."""
    return locked_folder(folder, appended=(METRICS_FILE,), written=OUTPUTS, what="training")
