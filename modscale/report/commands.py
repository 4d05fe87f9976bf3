"""The commands that a report shows for copying, in parts that are kept together where a line breaks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modscale.analysis.results import Run
from modscale.runs.folder import data_source


def search_command(run: Run) -> list[str]:
    """What makes a run like this one, wherever the run's folder has been moved to."""
    search = run.experiment.search
    words = ["modscale", "search", portable(str(run.document.get("space_file", "SPACE.yaml")))]
    options = {"--data": source_of(run), "--trials": search.trials, "--seed": search.seed}
    return [*map(shlex.quote, words), *_options({**options, "--out": run.folder.resolve().name})]


def train_command(run: Run, band: str) -> list[str]:
    """What trains a band's pick on the run's data."""
    options = {"--pick": band, "--data": source_of(run), "--hours": 2, "--out": f"{band}-trained"}
    return ["modscale", "train", _folder(run), *_options(options)]


def export_command(run: Run, band: str) -> list[str]:
    """What writes a band's pick as it is, not trained."""
    return ["modscale", "export", _folder(run), *_options({"--pick": band, "--out": band})]


def source_of(run: Run) -> str:
    """The data as the search was given them."""
    return portable(data_source(run.document))


def portable(path: str) -> str:
    """A path as it was given, and of one that holds on this machine alone its last part."""
    return Path(path).name if Path(path).is_absolute() or path.startswith("~") else path


def _folder(run: Run) -> str:
    return shlex.quote(portable(str(run.folder)))


def _options(options: Mapping[str, Any]) -> list[str]:
    return [f"{name} {shlex.quote(str(value))}" for name, value in options.items()]
