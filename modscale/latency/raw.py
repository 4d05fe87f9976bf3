"""The raw timings of a measurement in a file, a JSON line a process, from which every figure can be computed again.

A measurement begins with a line that has `begin`: what was timed, how, and what the device says of itself. Each further
line is a process: `model` (its place among those, null for the reference), `order`, `at_s`, `seconds`, and what
`timing_worker.Timings` has, `times_ns` of every timed run first of all. Measurements may follow each other in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from modscale.deploy.timing_worker import Timings
from modscale.document import Section, check_integer, check_number
from modscale.errors import InputError, RunError
from modscale.latency.device import Device
from modscale.latency.summary import Latency, Round, summarise
from modscale.lines import append_line, naming_line, read_lines
from modscale.settings import LatencySettings, latency_to_dict, parse_latency

FACTS = {"processor": str, "system": str, "runtime": str, "cores": int, "threads": int}
"""What of a device's facts the figures need."""
COUNTERS = tuple(field.name for field in fields(Timings) if field.type == "int" and field.name != "probe_threads")
ROUND_KEYS = ("model", "order", "at_s", "seconds", "times_ns", *COUNTERS, "probes_ns", "probe_threads")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A measurement as its lines have it."""

    models: tuple[Mapping[str, Any], ...]
    """What was timed: `name`, and what else was known of it."""
    device: Device
    """What timed it, and how."""
    rounds: tuple[tuple[Round, ...], ...]
    """Of each model."""
    references: tuple[Round, ...]
    """Of the reference."""

    def latencies(self) -> list[Latency]:
        """The figures, as they were computed when it was taken."""
        return [
            summarise(
                self.rounds[place],
                self.references,
                self.device,
                others=[one for i, rounds in enumerate(self.rounds) if i != place for one in rounds],
                precision=str(model.get("precision", "fp32")),
            )
            for place, model in enumerate(self.models)
        ]


def check_raw(file: str | Path) -> None:
    """Raises RunError where `file` is there, not empty, and something else than raw timings."""
    if Path(file).exists() and Path(file).stat().st_size:
        read_measurements(file)


def known_devices(file: str | Path) -> dict[str, dict[str, Any]]:
    """What each device of a run's file said of its processor when it was first timed on. Raises RunError."""
    known: dict[str, dict[str, Any]] = {}
    for number, document in read_lines(file):
        with naming_line(file, number):
            if isinstance(document, Mapping) and "begin" in document:
                _, device = _parse_begin(document["begin"])
                name = str(document["begin"].get("device", ""))
                known.setdefault(name, {key: device.facts[key] for key in ("processor", "system")})
    return known


def keep_in(
    file: str | Path, models: Sequence[Mapping[str, Any]], *, device: str = ""
) -> Callable[[int | None, Round, Device], None]:
    """What adds every round of a measurement of `models` to `file`, on the `device` of that name of `latency.targets`.

    What it gives raises RunError where the file cannot be written.
    """
    begun, name = False, device

    def keep(which: int | None, taken: Round, device: Device) -> None:
        nonlocal begun
        if not begun:
            begin = {"models": list(models), "latency": latency_to_dict(device.settings), "facts": device.facts}
            begin |= {"device": name} if name else {}
            append_line(file, {"begin": begin})
            begun = True
        line = {"model": which, "order": taken.order, "at_s": round(taken.at_s, 3), "seconds": round(taken.seconds, 3)}
        timings = asdict(taken.timings)
        if not timings["probe_threads"]:
            del timings["probes_ns"], timings["probe_threads"]
        append_line(file, {**line, **timings})

    return keep


def read_measurements(file: str | Path) -> list[Measurement]:
    """The measurements of a file, whose rounds may lack their end. Raises RunError with the line and the rule."""
    found: list[tuple[tuple[Mapping[str, Any], ...], Device, list[list[Round]], list[Round]]] = []
    for number, document in read_lines(file):
        with naming_line(file, number):
            if isinstance(document, Mapping) and "begin" in document:
                models, device = _parse_begin(document["begin"])
                found.append((models, device, [[] for _ in models], []))
                continue
            if not found:
                raise InputError("no measurement has begun before this line: begin is missing")
            which, taken = _parse_round(document, len(found[-1][0]))
            (found[-1][3] if which is None else found[-1][2][which]).append(taken)
    if not found:
        raise RunError("has no measurement", file=file)
    return [
        Measurement(models=models, device=device, rounds=tuple(map(tuple, rounds)), references=tuple(references))
        for models, device, rounds, references in found
        if all(rounds)
    ]


def _parse_begin(document: object) -> tuple[tuple[Mapping[str, Any], ...], Device]:
    section = Section(document, ("models", "latency", "facts", "device"), place="begin", what="a measurement")
    models, facts = section.raw("models"), section.raw("facts")
    if not isinstance(models, list) or not all(isinstance(model, Mapping) and "name" in model for model in models):
        raise InputError("must be a list of models, each with a name", place=section.at("models"))
    if not isinstance(facts, Mapping):
        raise InputError("must be a mapping", place=section.at("facts"))
    for key, kind in FACTS.items():
        if type(facts.get(key)) is not kind:
            raise InputError("is required", place=f"{section.at('facts')}.{key}")
    settings: LatencySettings = parse_latency(section.raw("latency"), section.at("latency"))
    return tuple(models), Device(settings, facts)


def _parse_round(document: object, models: int) -> tuple[int | None, Round]:
    section = Section(document, ROUND_KEYS, what="a round")
    which, probe_threads = section.raw("model"), section.integer("probe_threads", 0, low=0)
    place = None if which is None else check_integer(which, "model", low=0, high=models - 1)
    counters = {key: check_integer(section.raw(key, -1), key, low=-1, high=2**62) for key in COUNTERS}
    return place, Round(
        order=section.integer("order", None, low=0),
        at_s=check_number(section.raw("at_s", 0.0), "at_s", low=0),
        seconds=check_number(section.raw("seconds", 0.0), "seconds", low=0),
        timings=Timings(
            times_ns=_parse_times(section, "times_ns"),
            probes_ns=_parse_times(section, "probes_ns") if probe_threads else (),
            probe_threads=probe_threads,
            **counters,
        ),
    )


def _parse_times(section: Section, key: str) -> tuple[int, ...]:
    times = section.raw(key)
    if not isinstance(times, list) or len(times) < 2:
        raise InputError("must be a list of two times or more", place=key)
    return tuple(check_integer(time_ns, f"{key}[{i}]", high=2**53) for i, time_ns in enumerate(times))
