"""What a run measured of the networks that it is compared with: `references.jsonl`, one line each (`lines.py`).

A network with a spec has the line of a trial. A rival that has none, an ONNX file or a network of timm's, has `spec`
null, and beside the keys of a trial `rival` (as the space names it), `input` (the shape it was timed with), `sha256` of
an ONNX file and `flops_not_counted`: the operators for which its `flops` is null. It has no accuracy: what is stated of
it stands in the space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modscale.document import Section, check_integer
from modscale.errors import InputError
from modscale.lines import append_line, naming_line, read_lines
from modscale.rivals import Rival, parse_references, reference_to_plain
from modscale.runs.metrics import result_rules
from modscale.runs.trials import Trial, parse_line

STATES = ("complete", "failed")
OWN_KEYS = ("number", "state", "reason", "spec", "rival", "input", "sha256", "flops_not_counted", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRival:
    """A network without a spec, measured as far as it can be, or failed."""

    number: int
    """Its place among the run's references, from 0."""
    state: str
    """`complete` or `failed`."""
    reason: str | None = None
    """Why it failed; None where it did not."""
    rival: Rival
    """What it is."""
    results: Mapping[str, float]
    """As those of a trial; without an accuracy, and without FLOPs where they are not counted."""
    input: tuple[int, ...] = ()
    """Shape that it was timed with; empty where it failed before that was known."""
    sha256: str | None = None
    """Of an ONNX file's content; None for a network of timm's."""
    not_counted: tuple[str, ...] = ()
    """Operators that nobody counts, for which there are no FLOPs."""
    seconds: float
    """Wall time of the whole measurement."""

    def value(self, key: str) -> float | None:
        """What it has for a metric; None where that was not measured."""
        return self.results.get(key)


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """What stands in a file of references."""

    trials: list[Trial] = field(default_factory=list)
    """Networks with a spec."""
    rivals: list[MeasuredRival] = field(default_factory=list)
    """The others."""

    @property
    def numbers(self) -> set[int]:
        """Of all of them."""
        return {trial.number for trial in self.trials} | {rival.number for rival in self.rivals}


def append_rival(path: str | Path, measured: MeasuredRival) -> None:
    """Adds it as the last line and returns once it is on the disk. Raises RunError as `append_line` does."""
    append_line(path, _to_dict(measured))


def read_references(path: str | Path) -> References:
    """Everything in the file; nothing where there is none yet.

    Raises:
        RunError: with the line and the rule it breaks; a cut-off last line is left out instead.
    """
    found = References()
    for index, document in read_lines(path):
        with naming_line(path, index):
            is_rival = isinstance(document, Mapping) and document.get("spec") is None and "rival" in document
            one = _parse_rival(document) if is_rival else parse_line(document)
            if one.number in found.numbers:
                raise InputError("the number stands on a line before already", place="number", value=one.number)
        if isinstance(one, MeasuredRival):
            found.rivals.append(one)
        else:
            found.trials.append(one)
    return found


def _to_dict(measured: MeasuredRival) -> dict[str, Any]:
    return {
        "number": measured.number,
        "state": measured.state,
        "reason": measured.reason,
        "spec": None,
        "rival": reference_to_plain(replace(measured.rival, accuracy=None)),
        "input": list(measured.input),
        "sha256": measured.sha256,
        "flops_not_counted": list(measured.not_counted),
        **{key: measured.value(key) for key in result_rules(measured.results)},
        "seconds": measured.seconds,
    }


def _parse_rival(document: Mapping[str, object]) -> MeasuredRival:
    rules = result_rules(map(str, document))
    keys = (*OWN_KEYS, *rules)
    line = Section({key: value for key, value in document.items() if key in keys}, keys, what="a rival")
    (rival,) = parse_references([line.raw("rival")], "rival", ())
    if not isinstance(rival, Rival) or rival.kind == "spec":
        raise InputError("must be an ONNX file or a network of timm's", place="rival", value=line.raw("rival"))
    state, reason, sha256 = line.choice("state", None, STATES), line.raw("reason"), line.raw("sha256")
    if not (reason is None or isinstance(reason, str)) or (state == "failed" and reason is None):
        raise InputError("must be a text where the state is failed", place="reason", value=reason)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise InputError("must be 64 hexadecimal digits", place="sha256", value=sha256)
    return MeasuredRival(
        number=line.integer("number", None, low=0),
        state=state,
        reason=reason,
        rival=rival,
        results={key: rule(line.raw(key), key) for key, rule in rules.items() if line.raw(key) is not None},
        input=tuple(check_integer(side, "input") for side in _list(line, "input")),
        sha256=sha256,
        not_counted=tuple(str(name) for name in _list(line, "flops_not_counted")),
        seconds=line.number("seconds", None, low=0),
    )


def _list(line: Section, key: str) -> Sequence[object]:
    found = line.raw(key, [])
    if not isinstance(found, list):
        raise InputError("must be a list", place=key, value=found)
    return found
