"""Networks that a run is compared with, as its space names them: published ones, and any others.

    references:
      - xxs                                                  # a published network
      - {onnx: rival.onnx, accuracy: 0.752, name: Rival}     # any ONNX file with one input, from the space's own folder
      - {timm: mobilenetv2_100, accuracy: 0.72}              # a network of timm's, where that is installed
      - {spec: mine.yaml, accuracy: 0.78}                    # a model spec: measured as the candidates are
      - timm:efficientnet_b0                                 # the same without a stated accuracy

`accuracy` is the ImageNet-1K top-1 that somebody states of the network after full training; it is shown as stated, and
nothing here has measured it. What cannot be trained as the candidates are, and states none, is compared by the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.document import Section, check_integer, check_number
from modscale.errors import InputError
from modscale.files import user_path

TIMM = "timm:"
"""What stands before a name of timm's."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")
KINDS = ("onnx", "timm", "spec")
MOST_REFERENCES = 100
MAX_RESOLUTION = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A network of anybody's that a run is compared with."""

    name: str
    """By which it is told; unique among the run's references."""
    kind: str
    """What `source` is: `onnx`, `timm` or `spec`."""
    source: str
    """A path as the space has it, or a name of timm's."""
    accuracy: float | None = None
    """Top-1 as stated, a fraction above 0 and at most 1; None where nothing is."""
    resolution: int | None = None
    """Side of its input where `source` leaves that open, pixels; None: timm's own, or that of the candidates."""

    def file(self, folder: Path) -> Path:
        """Where its source lies, for a space of this folder."""
        return user_path(self.source, folder)


def parse_references(document: object, place: str, published: Sequence[str]) -> tuple[str | Rival, ...]:
    """The references of a search: published names as they are, and rivals. Raises InputError."""
    if not isinstance(document, (list, tuple)) or len(document) > MOST_REFERENCES:
        rule = f"must be a list of at most {MOST_REFERENCES} networks"
        raise InputError(rule, place=place, value=document)
    references = tuple(_parse(entry, f"{place}[{i}]", published) for i, entry in enumerate(document))
    names = [reference_name(one) for one in references]
    for i, name in enumerate(names):
        if name in names[:i]:
            rule = "must not repeat a network, nor a name"
            raise InputError(rule, place=f"{place}[{i}]", value=name)
    return references


def reference_name(reference: str | Rival) -> str:
    """By which a reference is told."""
    return reference.name if isinstance(reference, Rival) else reference


def reference_to_plain(reference: str | Rival) -> str | dict[str, Any]:
    """A reference as plain values, which `parse_references` reads unchanged."""
    if isinstance(reference, str):
        return reference
    stated = {"accuracy": reference.accuracy, "resolution": reference.resolution}
    known = {key: value for key, value in stated.items() if value is not None}
    return {reference.kind: reference.source, "name": reference.name, **known}


def moved_references(document: object, origin: Path, home: Path) -> object:
    """References that stand in a file of the folder `origin`, their own files as paths from `home`.

    What is no reference is left as it is, for `parse_references` to refuse.
    """
    if not isinstance(document, list):
        return document
    return [_moved(entry, lambda file: os.path.relpath(origin / file, home)) for entry in document]


def _moved(entry: object, move: Callable[[Path], str]) -> object:
    if isinstance(entry, str):
        is_file = not entry.startswith(TIMM) and entry.lower().endswith((".onnx", *SPEC_SUFFIXES))
        return move(Path(entry)) if is_file and _is_relative(entry) else entry
    if not isinstance(entry, dict):
        return entry
    files = {key: entry[key] for key in ("onnx", "spec") if isinstance(entry.get(key), str)}
    return entry | {key: move(Path(file)) for key, file in files.items() if _is_relative(file)}


def _is_relative(file: str) -> bool:
    return bool(file) and not file.startswith(("~", "/"))


def _parse(entry: object, place: str, published: Sequence[str]) -> str | Rival:
    if isinstance(entry, str):
        if entry in published:
            return entry
        entry = _in_full(entry, place, published)
    section = Section(entry, (*KINDS, "name", "accuracy", "resolution"), place=place, what="a network")
    given = [kind for kind in KINDS if section.has(kind)]
    if len(given) != 1:
        rule = f"must say what the network is by one of {', '.join(KINDS)}"
        raise InputError(rule, place=place, value=given or dict(section.values))
    kind = given[0]
    source = section.text(kind, "")
    if kind == "timm":
        source = source.removeprefix(TIMM)
    name = section.text("name", f"{TIMM}{source}" if kind == "timm" else Path(source).stem)
    if len(name) > 60 or name in published:
        rule = "must be of at most 60 characters, and no published network's"
        raise InputError(rule, place=section.at("name"), value=name)
    resolution = section.raw("resolution")
    if resolution is not None:
        if kind == "spec":
            raise InputError(
                "must not be said of a spec: it has that of the candidates", place=section.at("resolution")
            )
        resolution = check_integer(resolution, section.at("resolution"), high=MAX_RESOLUTION)
    return Rival(
        name=name,
        kind=kind,
        source=source,
        accuracy=_parse_accuracy(section.raw("accuracy"), section.at("accuracy")),
        resolution=resolution,
    )


def _in_full(text: str, place: str, published: Sequence[str]) -> dict[str, str]:
    """A reference that is given by a name alone."""
    if text.startswith(TIMM):
        return {"timm": text}
    for kind, suffixes in (("onnx", (".onnx",)), ("spec", SPEC_SUFFIXES)):
        if text.lower().endswith(suffixes):
            return {kind: text}
    rule = f"must be one of {', '.join(published)}, an .onnx, timm:NAME or a spec's file"
    raise InputError(rule, place=place, value=text)


def _parse_accuracy(value: object, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value <= 100:
        raise InputError(f"must be a fraction, as in {value / 100:g} for {value:g} %", place=place, value=value)
    return check_number(value, place, above=0, high=1)
