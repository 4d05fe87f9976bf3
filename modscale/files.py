"""Files that are written whole or not at all, so that no reader ever sees half of one; names that can be printed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from modscale.errors import InputError, printable


def write_whole(file: str | Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) beside `file`, and renames it there once it is on the disk.

    Raises:
        InputError: the folder is missing, read-only or full; what stood in `file` stands there still.
    """
    path = Path(file)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=file) from error


def user_path(text: str) -> Path:
    """A path as a person types it, `~` and `~user` expanded; a file whose own name begins so counts where it is there.

    Raises:
        InputError: it begins with `~` and no home folder is known for it.
    """
    return Path(user_text(text))


def user_text(text: str) -> str:
    """`user_path` of an argument that may also be a name: whatever does not begin with `~` is left as it is."""
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111  # pathlib's own raises a RuntimeError
    if expanded.startswith("~") and not os.path.lexists(text):
        home = text.partition("/")[0]
        raise InputError(f"no home folder is known for {home}; ./{home} is a file of that name", file=text)
    return expanded


def path_text(path: str | Path) -> str:
    """A path that can be printed and stored as text, whatever its bytes are."""
    return printable(os.fspath(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
