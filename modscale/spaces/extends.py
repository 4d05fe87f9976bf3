"""A space's file that extends another: `extends: mobile.yaml`, and both are one document.

| in the file | what comes of it |
|---|---|
| a mapping (`constraints`, a band, ...) | merged, key by key, with that of the extended file |
| a list (`stages`, ...) or a scalar | stands in place of what the extended file has there |
| `null`, where the extended file has something | takes that away, so that its default holds |
| `base: {layer_scale: null}` | stays: there null is a value, no LayerScale |

So `{a: {x: 1, y: 2}, b: [1, 2]}` extended by `{a: {y: null, z: 3}, b: [9]}` is `{a: {x: 1, z: 3}, b: [9]}`. The file
that is extended is named by its path from the folder of the one that extends it, or is a space that comes with modscale
(`library/`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.document import check_text, key_text, read_yaml
from modscale.errors import InputError, naming_file
from modscale.files import user_path
from modscale.rivals import moved_references

EXTENDS = "extends"
LIBRARY = Path(__file__).with_name("library")
"""The spaces that come with modscale; in a clone they lie at its top."""
MOST_FILES = 8
"""Files in one chain."""
MOST_MERGED = 10_000
"""Mappings merged of a chain; a few dozen are a large space, and aliases can make a million of a page."""
VALUES_OF_NULL = frozenset({"base.layer_scale"})
"""Where null is a value of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """A space's file and those that it extends."""

    files: tuple[Path, ...]
    """From the one that was asked for down to the one that extends nothing."""
    documents: tuple[Any, ...]
    """What stands in each; mappings all, where there are several."""

    def merged(self) -> Any:
        """One document of them all.

        Raises:
            InputError: they have more mappings than a space ever has.
        """
        merged: Any = self.documents[-1]
        left = [MOST_MERGED]
        for document in reversed(self.documents[:-1]):
            with naming_file(self.files[0]):
                merged = _merge(merged, document, "", left)
        return merged

    def file_of(self, place: str, value: object = None) -> Path:
        """The file in which what stands at `place` really stands.

        Of a mapping that several files make up it is the one with the key `value`, else the first of them.
        """
        layers = list(zip(self.files, self.documents, strict=True))
        while place:
            keys = {key_text(key): key for _, mapping in layers for key in mapping}
            ahead = [text for text in keys if place == text or place.startswith((f"{text}.", f"{text}["))]
            if not ahead:  # nothing stands there: what is missing is missing in the first file
                break
            text = max(ahead, key=len)
            place = place[len(text) :].removeprefix(".")
            values = [(file, mapping[keys[text]]) for file, mapping in layers if keys[text] in mapping]
            if not isinstance(values[0][1], Mapping):
                return values[0][0]
            whole = [i for i, (_, found) in enumerate(values) if not isinstance(found, Mapping)]
            layers = values[: whole[0]] if whole else values
        holders = [file for file, mapping in layers if isinstance(mapping, Mapping) and value in list(mapping)]
        return holders[0] if holders else layers[0][0]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Adds to any InputError that passes without one the file in which its value stands."""
        try:
            yield
        except InputError as error:
            error.file = error.file or str(self.file_of(error.place, error.value))
            raise


def read_layers(file: str | Path) -> Layers:
    """A space's file with all that it extends, each found from the folder of the one before.

    Raises:
        InputError: a file is missing, broken or no mapping; they go round in a circle, or are too many.
    """
    if file == "":  # which pathlib takes for the current folder
        raise InputError(f"must be a space's file, or one of modscale's ({', '.join(library_names())})", value=file)
    path = Path(file)
    files = [path if _is_there(path) else _in_library(path) or path]
    with suppress(ValueError, OSError):  # which `read_yaml` tells
        if not files[0].exists():
            raise InputError(f"no such file, nor a space of modscale's ({', '.join(library_names())})", file=path)
    documents = [read_yaml(files[0])]
    home = files[0].parent
    while isinstance(documents[-1], Mapping) and EXTENDS in documents[-1]:
        document = dict(documents[-1])
        with naming_file(files[-1]):
            name = check_text(document.pop(EXTENDS), EXTENDS)
            extended = _extended(name, files)
        documents[-1] = document
        found = read_yaml(extended)
        if not isinstance(found, Mapping):
            raise InputError("must be a mapping (a search space)", file=extended, value=found)
        files.append(extended)
        documents.append(_moved(found, extended.parent, home))
    return Layers(files=tuple(files), documents=tuple(documents))


def library_names() -> list[str]:
    """The names of the spaces that come with modscale."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def _is_there(path: Path) -> bool:
    """Whether there is something at `path` that might be a space's file."""
    return os.path.lexists(path) and not path.is_dir()


def _in_library(path: Path) -> Path | None:
    """The space of modscale's that `path` names, with its ending or without; None where it names none."""
    named = path.parent == Path() and path.suffix in ("", ".yaml") and path.stem in library_names()
    return LIBRARY / f"{path.stem}.yaml" if named else None


def _extended(name: str, files: list[Path]) -> Path:
    """The file that the last of `files` extends by this name. Raises InputError."""
    beside = user_path(name, files[-1].parent, place=EXTENDS)
    found = beside if _is_there(beside) else _in_library(Path(name))
    if found is None:
        ours = ", ".join(library_names())
        raise InputError(f"no such file at {beside}, nor a space of modscale's ({ours})", place=EXTENDS, value=name)
    chain = " -> ".join(str(file) for file in (*files, found))
    if found.resolve() in [file.resolve() for file in files]:
        raise InputError(f"must not go round in a circle ({chain})", place=EXTENDS, value=name)
    if len(files) == MOST_FILES:
        raise InputError(f"must be a chain of at most {MOST_FILES} files ({chain})", place=EXTENDS, value=name)
    return found


def _moved(document: Mapping[Any, Any], origin: Path, home: Path) -> Mapping[Any, Any]:
    """A document of the folder `origin`, its references' files as paths from `home`."""
    search = document.get("search")
    if not isinstance(search, Mapping) or "references" not in search:
        return document
    return {**document, "search": {**search, "references": moved_references(search["references"], origin, home)}}


def _merge(below: Mapping[Any, Any], above: Mapping[Any, Any], place: str, left: list[int]) -> dict[Any, Any]:
    """What `above` makes of `below`; both stay as they are. `left` counts the mappings down. Raises InputError."""
    left[0] -= 1
    if left[0] < 0:
        raise InputError(f"must come to at most {MOST_MERGED} mappings with what it extends", place=place)
    merged = dict(below)
    for key, value in above.items():
        at = f"{place}.{key_text(key)}" if place else key_text(key)
        if value is None and key in below and at not in VALUES_OF_NULL:
            del merged[key]
        elif isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            merged[key] = _merge(below[key], value, at, left)
        else:
            merged[key] = value
    return merged
