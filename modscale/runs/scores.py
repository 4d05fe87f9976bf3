"""What was measured of one network of known accuracy: a line of `fidelity.jsonl`, or of `latency.jsonl`.

`fidelity.jsonl` has one line for each network and seed that a proxy has scored, `latency.jsonl` one for each network
that was timed (without a seed and a score). A line holds the whole spec, by which it is found again: a network may get
another name or accuracy, and nothing is measured again for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from modscale.document import Section, check_integer, check_number
from modscale.errors import InputError
from modscale.lines import append_line, naming_line, read_lines
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec, parse_spec, spec_to_dict

STATES = ("complete", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One finished measurement of one network."""

    name: str
    """What the network was called."""
    spec: ModelSpec
    """The network, as it was measured."""
    seed: int | None
    """Of the training; None for a timing."""
    state: str
    """`complete`, or `failed` with its reason."""
    reason: str | None = None
    """Why it failed."""
    score: float | None = None
    """The proxy's; higher is better. None for a timing, or where it failed."""
    standard_error: float | None = None
    """Of the score, as far as this one scoring knows it."""
    results: Mapping[str, float] = field(default_factory=dict)
    """What else came of it: accuracy, latency_ms, ..."""
    seconds: float
    """Wall time."""
    cpu_seconds: float | None = None
    """CPU time of all threads of the scoring process."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two measurements of the same network with the same seed."""
        return (network_key(self.spec), self.seed)


def append_scored(path: str | Path, row: Scored) -> None:
    """Adds `row` as the last line and returns once it is on the disk. Raises RunError as `append_line` does."""
    append_line(
        path,
        {
            "name": row.name,
            "seed": row.seed,
            "state": row.state,
            "reason": row.reason,
            "score": row.score,
            "standard_error": row.standard_error,
            "results": dict(row.results),
            "seconds": row.seconds,
            "cpu_seconds": row.cpu_seconds,
            "spec": spec_to_dict(row.spec),
        },
    )


def read_scored(path: str | Path) -> list[Scored]:
    """Every line of the file, in its order; none where there is no file yet.

    Raises:
        RunError: with the line and the rule it breaks; a cut-off last line is left out instead.
    """
    rows = []
    line_of: dict[tuple[Any, ...], int] = {}
    for number, document in read_lines(path):
        with naming_line(path, number):
            row = parse_scored(document)
            if row.key in line_of:
                raise InputError(f"the same network and seed stand on line {line_of[row.key]} already", place="spec")
        line_of[row.key] = number
        rows.append(row)
    return rows


def parse_scored(document: object) -> Scored:
    """A measurement from the plain values of its line; keys of later versions are passed over. Raises InputError."""
    keys = tuple(Scored.__dataclass_fields__)
    known = {k: v for k, v in document.items() if k in keys} if isinstance(document, Mapping) else document
    line = Section(known, keys, what="a measurement")
    for key in ("spec", "state", "seconds"):
        if not line.has(key):
            raise InputError("is required", place=key)
    state = line.choice("state", None, STATES)
    reason = line.raw("reason")
    if reason is not None and not isinstance(reason, str):
        raise InputError("must be text", place="reason", value=reason)
    if state == "failed" and reason is None:
        raise InputError("is required where the state is failed", place="reason")
    seed = _optional(line, "seed", partial(check_integer, low=0))
    score = _optional(line, "score", check_number)
    if state == "complete" and seed is not None and score is None:
        raise InputError("is required where the state is complete", place="score")
    return Scored(
        name=line.text("name", "network"),
        spec=parse_spec(line.raw("spec"), "spec"),
        seed=seed,
        state=state,
        reason=reason,
        score=score,
        standard_error=_optional(line, "standard_error", partial(check_number, low=0)),
        results=_parse_results(line.raw("results")),
        seconds=line.number("seconds", None, low=0),
        cpu_seconds=_optional(line, "cpu_seconds", partial(check_number, low=0)),
    )


def _optional(line: Section, key: str, check: Any) -> Any:
    value = line.raw(key)
    return None if value is None else check(value, key)


def _parse_results(document: object) -> dict[str, float]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise InputError("must be a mapping of names to numbers", place="results", value=document)
    return {
        name: value if isinstance(value, bool) else check_number(value, f"results.{name}")
        for name, value in document.items()
    }
