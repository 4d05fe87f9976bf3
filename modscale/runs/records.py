"""The YAML by which a command knows its own folder again: `run.yaml`, `fidelity.yaml`, `train.yaml`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modscale.document import read_yaml
from modscale.errors import InputError, RunError
from modscale.machine import describe_machine, describe_versions


def is_begun(folder: Path, record: str, *, what: str) -> bool:
    """Whether the folder holds such a record; False where it is not there, or empty.

    `what` is what the folder may be, as in `a run's folder`.

    Raises:
        RunError: it is a file, or holds something else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise RunError("must be a folder, and is a file", file=folder)
    if (folder / record).exists():
        return True
    # Hidden files are the lock, the system's, or what a killed command had half written.
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if others:
        raise RunError(f"must be empty or {what}: it has {others[0]} and no {record}", file=folder)
    return False


def read_record(file: Path, *parts: str, rule: str) -> dict[str, Any]:
    """The record, in which each of `parts` is a mapping; `rule` says what is wrong where it is not so.

    Raises:
        RunError: that, or the file is broken.
    """
    try:
        document = read_yaml(file)
    except InputError as error:
        raise RunError(error.rule, file=error.file, place=error.place, value=error.value) from error
    if not isinstance(document, dict) or not all(isinstance(document.get(part), dict) for part in parts):
        raise RunError(rule, file=file)
    return document


def made_here() -> dict[str, Any]:
    """What every record ends with: this machine, the versions of what it has, and when it began."""
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
