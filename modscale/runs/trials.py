"""A finished trial, and the file that keeps them: `trials.jsonl`, one line each (`lines.py`).

Every line is held to the rules below, and its counts to its spec: the file may have been edited by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from modscale.arrays import MAX_COUNT
from modscale.document import Section, check_integer, check_number
from modscale.errors import InputError
from modscale.lines import append_line, naming_line, read_lines
from modscale.runs.metrics import METRICS, result_rules
from modscale.specs.counts import COUNT_METRICS, count_model
from modscale.specs.spec import ModelSpec, parse_spec, spec_to_dict

STATES = ("complete", "failed", "stopped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """What a candidate had come to on the way through its training."""

    share: float
    """Of its training, above 0 and at most 1."""
    value: float
    """By which candidates are compared at this rung; higher is better, in a unit of the proxy's own."""
    seconds: float
    """Wall time of the training up to here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One candidate, measured or failed."""

    number: int
    """0 or more, unique in its file."""
    state: str
    """`complete`, `failed`, or `stopped` where a rung ended it."""
    reason: str | None = None
    """Why it failed or was stopped; None where it is complete."""
    spec: ModelSpec
    """The candidate."""
    results: Mapping[str, float]
    """What is known of it by the keys of `metrics.result_rules`; a key that was not measured is not in it."""
    seconds: float
    """Wall time of the whole evaluation."""
    choice: Mapping[str, int | float | str] = field(default_factory=dict)
    """Search parameter (`stages[2].depth`) to its option; empty for a network that no search chose."""
    rungs: tuple[Rung, ...] = ()
    """The rungs that it has reached, in their order; the last one of a complete trial is the end of its training."""

    def __getitem__(self, key: str) -> float:
        """What it has for a metric, or a key that belongs to one. Raises KeyError where that was not measured."""
        return self.results[key]

    def value(self, key: str) -> float | None:
        """As `trial[key]`; None where that was not measured."""
        return self.results.get(key)


OWN_KEYS = ("number", "state", "reason", "spec", "seconds", "choice", "rungs")
"""What a line has besides the results."""


def complete_trials(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that ran to the end."""
    return [trial for trial in trials if trial.state == "complete"]


def append_trial(path: str | Path, trial: Trial) -> None:
    """Adds `trial` as the last line and returns once it is on the disk. Raises RunError as `append_line` does."""
    append_line(path, trial_to_dict(trial))


def read_trials(path: str | Path) -> list[Trial]:
    """Every trial of the file, in its order; none where there is no file yet.

    Raises:
        RunError: with the line and the rule it breaks; a cut-off last line is left out instead.
    """
    trials = []
    line_of: dict[int, int] = {}
    for index, document in read_lines(path):
        with naming_line(path, index):
            trial = parse_line(document)
            if trial.number in line_of:
                rule = f"the number stands on line {line_of[trial.number]} already"
                raise InputError(rule, place="number", value=trial.number)
        line_of[trial.number] = index
        trials.append(trial)
    return trials


def parse_trial(document: object) -> Trial:
    """A trial from the plain values of its line; keys of later versions are passed over. Raises InputError."""
    rules = result_rules(map(str, document) if isinstance(document, Mapping) else ())
    keys = (*OWN_KEYS, *rules)
    known = {k: v for k, v in document.items() if k in keys} if isinstance(document, Mapping) else document
    line = Section(known, keys, what="a trial")
    for key in ("spec", "state", *(metric.name for metric in METRICS.values() if metric.is_count)):
        if not line.has(key):
            raise InputError("is required", place=key)
    state = line.choice("state", None, STATES)
    reason = _optional_text(line, "reason")
    if state == "failed" and reason is None:
        raise InputError("is required where the state is failed", place="reason")
    return Trial(
        number=line.integer("number", None, low=0),
        state=state,
        reason=reason,
        spec=parse_spec(line.raw("spec"), "spec"),
        results={
            key: rule(line.raw(key), key)
            for key, rule in rules.items()
            if line.raw(key) is not None or (key in METRICS and METRICS[key].is_count)
        },
        seconds=line.number("seconds", None, low=0),
        choice=_parse_choice(line.raw("choice")),
        rungs=_parse_rungs(line.raw("rungs")),
    )


def trial_to_dict(trial: Trial) -> dict[str, Any]:
    """The plain values of a trial's line."""
    return {
        "number": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "spec": spec_to_dict(trial.spec),
        **{key: trial.value(key) for key in result_rules(trial.results)},
        "seconds": trial.seconds,
        "choice": dict(trial.choice),
        **({"rungs": rungs_to_list(trial.rungs)} if trial.rungs else {}),
    }


def rungs_to_list(rungs: Sequence[Rung]) -> list[dict[str, float]]:
    """As they stand in a trial's line."""
    return [asdict(rung) for rung in rungs]


def parse_line(document: object) -> Trial:
    """As `parse_trial`, of a trial whose counts are those of its spec."""
    trial = parse_trial(document)
    for metric, counted in zip(COUNT_METRICS, _count(replace(trial.spec, name="")), strict=True):
        if trial.value(metric) != counted:
            rule = f"must be {counted}, as trial {trial.number}'s spec counts"
            raise InputError(rule, place=metric, value=trial.value(metric))
    return trial


@cache
def _count(spec: ModelSpec) -> tuple[int, int]:
    """Params and FLOPs; a run's file is read several times."""
    count = count_model(spec)
    return count.params, count.flops


def _parse_choice(document: object) -> dict[str, int | float | str]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise InputError("must be a mapping of parameter to option", place="choice", value=document)
    return {name: _check_option(option, f"choice.{name}") for name, option in document.items()}


def _parse_rungs(document: object) -> tuple[Rung, ...]:
    if document is None:
        return ()
    if not isinstance(document, list):
        raise InputError("must be a list of what was reached at each rung", place="rungs", value=document)
    rungs: list[Rung] = []
    for i, one in enumerate(document):
        line = Section(one, tuple(Rung.__dataclass_fields__), place=f"rungs[{i}]", what="a rung")
        rung = Rung(
            share=line.number("share", None, above=0, high=1),
            value=line.number("value", None),
            seconds=line.number("seconds", None, low=0),
        )
        if rungs and rung.share <= rungs[-1].share:
            raise InputError("must be more than that of the rung before it", place=line.at("share"), value=rung.share)
        rungs.append(rung)
    return tuple(rungs)


def _check_option(option: object, place: str) -> int | float | str:
    if isinstance(option, str):
        return option
    if isinstance(option, int) and not isinstance(option, bool):
        return check_integer(option, place, low=-MAX_COUNT, high=MAX_COUNT)
    return check_number(option, place)


def _optional_text(line: Section, key: str) -> str | None:
    value = line.raw(key)
    if value is not None and not isinstance(value, str):
        raise InputError("must be text", place=key, value=value)
    return value
