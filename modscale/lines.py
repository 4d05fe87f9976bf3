"""A file of one JSON object a line that is only ever appended to: `trials.jsonl`, `fidelity.jsonl`.

A line is written in one go and flushed to the disk before its writer goes on, so a process killed at any moment loses
at most the line it was writing. Such a cut-off last line is left out on reading and cut away by the next append.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modscale.errors import InputError, RunError
from modscale.files import read_plain


def append_line(path: str | Path, document: Mapping[str, Any]) -> None:
    """Adds `document` as the last line and returns once it is on the disk.

    Raises:
        RunError: the file cannot be written (full disk, read-only folder); it then stands as it was before.
    """
    line = json.dumps(document, allow_nan=False).encode() + b"\n"
    try:
        is_new = not Path(path).exists()
        with open(path, "ab+", buffering=0, opener=_open_no_link) as file:  # Path.open takes no opener
            end = _end_of_last_line(file)
            try:
                file.truncate(end)
                rest = line if end == 0 or _byte(file, end - 1) == b"\n" else b"\n" + line
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if is_new:
            _sync_folder(Path(path).parent)
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror or error}", file=path) from error


def read_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Every line's number, from 1, and what it holds; none where there is no file yet.

    Raises:
        RunError: with the line and the rule it breaks; a cut-off last line is left out instead.
    """
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror or error}", file=path) from error
    lines = data.split(b"\n")
    if not _is_json(lines[-1]):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with naming_line(path, number):
                yield number, _load_json(line)


@contextmanager
def naming_line(path: str | Path, number: int) -> Iterator[None]:
    """Makes what is wrong with a line a RunError that names the file and the line."""
    place = f"line {number}"
    try:
        yield
    except InputError as error:
        where = f"{place}, {error.place}" if error.place else place
        raise RunError(error.rule, file=path, place=where, value=error.value) from error
    except RecursionError as error:
        raise RunError("nested too deeply", file=path, place=place) from error
    except ValueError as error:
        raise RunError(f"not a JSON object: {error}", file=path, place=place) from error


def _load_json(line: bytes) -> Any:
    """JSON as its standard has it: no NaN, no key twice. Raises ValueError."""
    return json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        repeated = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {repeated!r} stands twice")
    return document


def _is_json(line: bytes) -> bool:
    """Whether `line` is whole: a prefix of a JSON object never is one."""
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _end_of_last_line(file: Any) -> int:
    """Where the next line may start: behind the last whole line, cut-off text after it not counted."""
    size: int = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        start = max(0, start - 65_536)
        file.seek(start)
        tail = file.read(size - start)
    cut = tail.rpartition(b"\n")[2]
    return size if _is_json(cut) else size - len(cut)


def _byte(file: Any, position: int) -> bytes:
    file.seek(position)
    return bytes(file.read(1))


def _sync_folder(folder: Path) -> None:
    """Puts a new file's name on the disk too, where the system lets a folder be synced."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
