"""A calibration: networks of a space that were timed, under the conditions of their timing; one JSON file.

It holds what was measured and not what follows from it, but for the deviations that a fit had to search for, so that
every figure can be computed again. Conditions are what a latency depends on beside the network; a calibration says
nothing of other ones, and is refused there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from modscale import __version__
from modscale.deploy.facts import GRAPH_VERSION
from modscale.deploy.timing_worker import processors
from modscale.document import Section, check_flag, check_integer, check_number
from modscale.errors import InputError, naming_file, shorten
from modscale.files import read_plain, write_whole
from modscale.latency.device import Device
from modscale.latency.predictor import Deviations, Observation, Prediction, Predictor
from modscale.latency.steady import Take, steady_ms
from modscale.machine import describe_versions
from modscale.providers import PROVIDERS
from modscale.settings import LatencySettings
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import ModelSpec, parse_spec, spec_to_dict

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
"""Packages that bring ONNX Runtime."""
MAX_BYTES = 64_000_000
MOST_NETWORKS = 100_000
MOST_RUNS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What a latency depends on beside the network."""

    target: str
    """Name of the device; empty for the machine that timed."""
    processor: str
    """As the device names it."""
    provider: str
    """ONNX Runtime's, as in the settings."""
    threads: int
    """Intra-op threads."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    runtime: str
    """Version of ONNX Runtime."""
    graph_level: str
    """How far ONNX Runtime optimises."""
    graph: int = GRAPH_VERSION
    """Version of what `deploy/export.py` makes of a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One network of a calibration."""

    spec: ModelSpec
    """What was timed, put together from pieces."""
    takes: tuple[Take, ...]
    """What was seen, process by process."""
    at_s: float
    """When, in seconds from the begin."""
    left_out: bool = False
    """Whether others had the cores meanwhile, or the fit takes it for disturbed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The content of a calibration's file."""

    space: str
    """Name of the space whose networks were timed."""
    conditions: Conditions
    """Under which all of them were."""
    networks: tuple[Timed, ...]
    """In the order in which they were timed."""
    deviations: Deviations
    """What the fit found."""

    def predictor(self) -> Predictor:
        """The predictor fitted to the networks. Raises InputError where they are too few."""
        return Predictor(observations(self.networks), deviations=self.deviations)


def observations(networks: Sequence[Timed]) -> list[Observation]:
    """What a predictor is fitted to: the networks that are not left out, as they are at the machine's usual speed."""
    kept = [one for one in networks if not one.left_out]
    found = iter(steady_ms([take for one in kept for take in one.takes]) if kept else ())
    return [
        Observation(
            pieces=tuple(network_pieces(one.spec)), latency_ms=fmean(next(found) for _ in one.takes), at_s=one.at_s
        )
        for one in kept
    ]


def write_calibration(file: str | Path, calibration: Calibration, *, seconds: float) -> None:
    """Writes the file. Raises InputError where it cannot be written."""
    document = {
        "modscale": __version__,
        "space": calibration.space,
        "conditions": asdict(calibration.conditions),
        "seconds": round(seconds, 1),
        "deviations": asdict(calibration.deviations),
        "networks": [
            {
                "spec": spec_to_dict(one.spec),
                "times_ns": [list(take.times_ns) for take in one.takes],
                "probes_ns": [list(take.probes_ns) for take in one.takes],
                "at_s": round(one.at_s, 3),
                "left_out": one.left_out,
            }
            for one in calibration.networks
        ],
    }
    lines = json.dumps(document, allow_nan=False).replace('{"spec":', '\n{"spec":')
    write_whole(file, lines + "\n")


def read_calibration(file: str | Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InputError: it is none, with the place in it and the rule that it breaks.
    """
    with naming_file(file):
        try:
            if Path(file).stat().st_size > MAX_BYTES:
                raise InputError(f"must be of at most {MAX_BYTES} bytes")
            document = json.loads(read_plain(file))
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError("is no calibration of `modscale calibrate`: not JSON") from error
        return _parse(document)


def device_conditions(device: Device) -> Conditions:
    """Those of what a device times that has answered."""
    settings = device.settings
    return Conditions(
        target=settings.target.name or "target" if settings.target else "",
        processor=str(device.facts["processor"]),
        provider=settings.provider,
        threads=device.threads,
        precision=settings.precision,
        runtime=str(device.facts["runtime"]),
        graph_level=settings.graph_level,
    )


def expected_conditions(settings: LatencySettings) -> dict[str, Any]:
    """What is known of them before anything is timed: of a target, not which processor it has."""
    known: dict[str, Any] = {
        "target": "",
        "provider": settings.provider,
        "precision": settings.precision,
        "graph_level": settings.graph_level,
        "graph": GRAPH_VERSION,
    }
    if settings.threads:
        known["threads"] = settings.threads
    if settings.target:
        return {**known, "target": settings.target.name or "target"}
    versions = (describe_versions().get(name) for name in RUNTIMES)
    runtime = next((version for version in versions if version), "absent")
    return {**known, "processor": processors(asdict(PROVIDERS[settings.provider])), "runtime": runtime}


def load_predictor(file: str | Path, settings: LatencySettings) -> tuple[Predictor, Conditions]:
    """The predictor of a calibration that was made under the conditions of `settings`, and those conditions.

    Where the settings leave the threads open, those of the calibration are taken. Of a target, which is not asked, it
    is held to its name.

    Raises:
        InputError: the file is no calibration, or it was made under other conditions.
    """
    calibration = read_calibration(file)
    check_conditions(calibration, expected_conditions(settings), file)
    with naming_file(file):
        return calibration.predictor(), calibration.conditions


def check_conditions(calibration: Calibration, now: Mapping[str, Any], file: str | Path) -> None:
    """Raises InputError where a calibration was made under other conditions than `now` has.

    `now` has some or all of the fields of `Conditions`; those it lacks are not compared.
    """
    for key, word in WORDS.items():
        before = getattr(calibration.conditions, key)
        if key in now and before != now[key]:
            there, here = (shorten(value) if value != "" else "this machine" for value in (before, now[key]))
            rule = f"was calibrated for another {word}: {there} there, and {here} here"
            raise InputError(f"{rule}; make one with `modscale calibrate`", file=str(file))


WORDS = {
    "target": "target",
    "processor": "processor",
    "provider": "provider",
    "threads": "number of threads",
    "precision": "precision",
    "runtime": "version of ONNX Runtime",
    "graph_level": "graph level",
    "graph": "version of modscale's graphs",
}
"""Each condition in a sentence."""


def prediction_to_json(spec: ModelSpec, prediction: Prediction, conditions: Conditions) -> dict[str, Any]:
    """One entry of `models` in the JSON of `modscale latency` where nothing is timed."""
    return {
        "name": spec.name,
        "resolution": spec.resolution,
        **{key: value for key, value in asdict(conditions).items() if key != "graph"},
        "predicted_ms": prediction.latency_ms,
        "predicted_ci90_ms": list(prediction.ci90_ms),
        "unseen_pieces": prediction.unseen,
    }


def _parse(document: object) -> Calibration:
    keys = ("modscale", "space", "conditions", "seconds", "deviations", "networks")
    what = "a calibration of `modscale calibrate`"
    if not isinstance(document, Mapping) or not {"conditions", "networks", "deviations"} <= document.keys():
        raise InputError(f"is no calibration of `modscale calibrate`: {', '.join(keys[2:])} must be there")
    top = Section({key: document[key] for key in keys if key in document}, keys, what=what)
    networks = top.sequence("networks", most=MOST_NETWORKS)
    return Calibration(
        space=top.text("space", "space"),
        conditions=_parse_conditions(top.raw("conditions")),
        networks=_parse_networks(networks),
        deviations=_parse_deviations(top.raw("deviations")),
    )


def _parse_networks(documents: Sequence[object]) -> tuple[Timed, ...]:
    networks = tuple(_parse_timed(one, f"networks[{i}]") for i, one in enumerate(documents))
    probed = {bool(take.probes_ns) for one in networks for take in one.takes}
    if len(probed) > 1:
        raise InputError("must be there for all processes, or for none", place="networks: probes_ns")
    return networks


def _parse_conditions(document: object) -> Conditions:
    section = Section(document, [field.name for field in fields(Conditions)], place="conditions", what="conditions")
    texts = {key: section.text(key, "") for key in ("processor", "provider", "precision", "runtime", "graph_level")}
    target = section.raw("target", "")
    return Conditions(
        target=target if target == "" else section.text("target", ""),
        threads=section.integer("threads", None),
        graph=section.integer("graph", None, low=0),
        **texts,
    )


def _parse_deviations(document: object) -> Deviations:
    names = [field.name for field in fields(Deviations)]
    section = Section(document, names, place="deviations", what="standard deviations")
    return Deviations(**{name: section.number(name, None, low=0, high=10) for name in names})


def _parse_timed(document: object, place: str) -> Timed:
    keys = ("spec", "times_ns", "probes_ns", "at_s", "left_out")
    section = Section(document, keys, place=place, what="a timed network")
    times = _parse_processes(section, "times_ns")
    probes = _parse_processes(section, "probes_ns") if section.has("probes_ns") else [()] * len(times)
    if len(times) != len(probes):
        raise InputError("must have a process for each of times_ns", place=section.at("probes_ns"))
    return Timed(
        spec=parse_spec(section.raw("spec"), section.at("spec")),
        takes=tuple(Take(times_ns=one, probes_ns=other) for one, other in zip(times, probes, strict=True)),
        at_s=check_number(section.raw("at_s", 0.0), section.at("at_s"), low=0),
        left_out=check_flag(section.raw("left_out", False), section.at("left_out")),
    )


def _parse_processes(section: Section, key: str) -> list[tuple[int, ...]]:
    """Times, process by process."""
    found = []
    for i, runs in enumerate(section.sequence(key, most=MOST_RUNS)):
        at = f"{section.at(key)}[{i}]"
        if not isinstance(runs, list) or not (key == "probes_ns" or runs) or len(runs) > MOST_RUNS:
            raise InputError("must be a list of times", place=at, value=runs)
        found.append(tuple(check_integer(ns, at, high=10**15) for ns in runs))
    return found
