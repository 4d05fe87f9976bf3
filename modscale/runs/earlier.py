"""What a run was begun with of earlier runs (`search --from RUN...`): `earlier.jsonl`, a line a network.

A network that was measured in the same way is *known*: the search learns from it and does not try it again. One of the
front of a run that measured otherwise is to be tried *first*. Neither is a trial of this run. The lines are copies, so
that a run goes on as it began whatever becomes of the others; `run.yaml` has under `from` what was taken of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modscale.document import Section, check_choice, check_integer, check_text, dump_yaml
from modscale.errors import InputError, RunError
from modscale.files import path_text, write_whole
from modscale.lines import naming_line, read_lines
from modscale.runs.folder import EARLIER_FILE, RUN_FILE, check_trial_choice, read_run
from modscale.runs.trials import Trial, parse_line, trial_to_dict
from modscale.spaces.space import Space

USES = ("known", "first")


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierTrial:
    """A network that an earlier run measured."""

    run: str
    """The folder of that run, as it was given."""
    use: str
    """`known`, or `first` where it is to be tried anew."""
    trial: Trial
    """Under its number there, with the choice that makes it in this run's space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What was taken of one earlier run."""

    run: str
    """Its folder, as it was given."""
    trials: int
    """That it had finished."""
    known: int
    """Networks that are known of it."""
    first: int
    """Networks of its front that are tried first."""
    differs: str | None
    """Why nothing is known of it, in words; None where it measured as this run does."""
    left: Mapping[str, int]
    """Why how many others were not taken: of its trials, or where it differs of its front."""

    def sentence(self) -> str:
        """What was taken of it, and what not and why."""
        if self.differs is None:
            what = f"known beforehand, from {self.run}: {self.known} of its {self.trials} trials"
        else:
            what = (
                f"nothing is known beforehand from {self.run} ({self.differs}); tried first: {self.first} of its front"
            )
        rest = ", ".join(f"{count} {reason}" for reason, count in self.left.items())
        return what + (f"; not taken: {rest}" if rest else "")


def write_earlier(folder: Path, taken: Sequence[EarlierTrial], origins: Sequence[Origin]) -> None:
    """Writes both records of a run that is begun; a run without the second has not been given anything yet.

    Raises:
        RunError: `run.yaml` cannot be read.
        InputError: something cannot be written.
    """
    lines = [{"run": one.run, "use": one.use, **trial_to_dict(one.trial)} for one in taken]
    write_whole(folder / EARLIER_FILE, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    record = [asdict(origin) | {"left": dict(origin.left)} for origin in origins]
    write_whole(folder / RUN_FILE, dump_yaml(read_run(folder) | {"from": record}))


def read_origins(document: Mapping[str, Any]) -> list[Origin] | None:
    """What the record of a run says of earlier ones; None where it was begun without any. Raises InputError."""
    record = document.get("from")
    if record is None:
        return None
    if not isinstance(record, list):
        raise InputError("must be a list of runs", place="from", value=record)
    origins = []
    for i, one in enumerate(record):
        section = Section(one, tuple(Origin.__dataclass_fields__), place=f"from[{i}]", what="an earlier run")
        left = section.raw("left", {})
        if not isinstance(left, Mapping):
            raise InputError("must be a mapping of reason to number", place=section.at("left"), value=left)
        differs = section.raw("differs")
        origins.append(
            Origin(
                run=check_text(section.raw("run"), section.at("run")),
                trials=section.integer("trials", None, low=0),
                known=section.integer("known", None, low=0),
                first=section.integer("first", None, low=0),
                differs=None if differs is None else str(differs),
                left={str(reason): check_integer(count, section.at("left"), low=0) for reason, count in left.items()},
            )
        )
    return origins


def read_begun(folder: Path) -> list[Origin] | None:
    """As `read_origins`, of a run's folder; None where none is begun there. Raises RunError."""
    if not (folder / RUN_FILE).exists():
        return None
    try:
        return read_origins(read_run(folder))
    except RunError:
        raise
    except InputError as error:
        raise RunError(error.rule, file=folder / RUN_FILE, place=error.place, value=error.value) from error


def read_earlier(folder: Path, space: Space) -> list[EarlierTrial]:
    """What a run was begun with, each network held to the space; nothing where it was begun without.

    Raises:
        RunError: a record is broken, or a line is missing.
    """
    file = folder / EARLIER_FILE
    origins = read_begun(folder)
    if origins is None:
        return []
    found = []
    for number, document in read_lines(file):
        with naming_line(file, number):
            trial = parse_line(document)
            check_trial_choice(trial, space)
            use = check_choice(document.get("use"), "use", USES)
            found.append(EarlierTrial(run=str(document.get("run")), use=use, trial=trial))
    wanted = sum(origin.known + origin.first for origin in origins)
    if len(found) != wanted:
        raise RunError(f"has {len(found)} of the {wanted} networks that the run was begun with", file=file)
    return found


def check_from(folder: Path, runs: Sequence[Path], *, done: int) -> None:
    """Raises RunError where a run that is begun is given other runs than it was begun with; none is as good as all."""
    if not runs:
        return
    origins = read_begun(folder)
    if origins is None:
        if done:
            raise RunError("was begun without --from; give another --out", file=folder)
        return
    if [run.resolve() for run in runs] != [Path(origin.run).expanduser().resolve() for origin in origins]:
        given = " ".join(path_text(origin.run) for origin in origins)
        raise RunError(f"was begun with --from {given}; give that, or another --out", file=folder)
