"""`finals.json`: what the networks of a run's front and its picks were measured to have at the end, all in one session.

`trials.jsonl` keeps what each had when it was tried; a report shows the later figure where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modscale.document import Section
from modscale.errors import InputError, RunError
from modscale.files import read_plain, write_whole
from modscale.runs.metrics import Results, result_rules
from modscale.runs.trials import Trial

FINALS_FILE = "finals.json"


def write_finals(folder: Path, finals: Mapping[int, Results]) -> None:
    """Writes what was measured by trial number, whole. Raises InputError where it cannot be written."""
    document = {"finals": [{"number": number, **results} for number, results in finals.items()]}
    write_whole(folder / FINALS_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_finals(folder: Path) -> dict[int, Results]:
    """What was measured by trial number; nothing where there is no such file. Raises RunError where it is broken."""
    file = folder / FINALS_FILE
    try:
        document = json.loads(read_plain(file))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("cannot be read as JSON", file=file) from error
    try:
        found: dict[int, Results] = {}
        lines = Section(document, ["finals"], what="finals").raw("finals", [])
        if not isinstance(lines, list):
            raise InputError("must be a list", place="finals", value=lines)
        rules = result_rules(str(key) for line in lines if isinstance(line, Mapping) for key in line)
        for i, line in enumerate(lines):
            section = Section(line, ("number", *rules), place=f"finals[{i}]", what="a trial's results")
            results = {key: rules[key](section.values[key], section.at(key)) for key in section.values if key in rules}
            found[section.integer("number", None, low=0)] = results
        return found
    except InputError as error:
        raise RunError(error.rule, file=file, place=error.place, value=error.value) from error


def with_finals(trials: Sequence[Trial], finals: Mapping[int, Results]) -> tuple[Trial, ...]:
    """The trials with what was measured last."""
    return tuple(
        replace(trial, results={**trial.results, **finals[trial.number]})
        if trial.number in finals and trial.state == "complete"
        else trial
        for trial in trials
    )
