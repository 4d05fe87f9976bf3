"""Files that are written whole or not at all, so that no reader ever sees half of one; names that can be printed.

What is half written has a name of its own, and is locked by the process that writes it. A killed process leaves it
behind without its lock, by which the next one knows it and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from modscale.errors import InputError, printable

SCRATCH = "modscale-scratch-"
"""How the name of a temporary folder of ours begins."""
HERE = Path()
"""The current folder."""
RANDOM = "[a-z0-9_]{8}"
"""What `tempfile` ends its names with."""


def write_whole(file: str | Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) beside `file`, and renames it there once it is on the disk.

    A link that lies at `file` is replaced, not followed.

    Raises:
        InputError: the folder is missing, read-only or full; what stood in `file` stands there still.
    """
    path = Path(file)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                _lock(handle)
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


def file_digest(file: str | Path) -> str:
    """The SHA-256 of a file's content. Raises InputError where it cannot be read."""
    try:
        return hashlib.sha256(read_plain(file)).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=file) from error


def read_plain(file: str | Path) -> bytes:
    """The content of a file. Raises OSError, also for a pipe or a device, which might never end."""
    path = Path(file)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "Is a pipe or a device", str(file))
    return path.read_bytes()


def sweep_halves(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Removes what killed processes have half written in `folder`, for those names of files that are ours."""
    for entry in _entries(folder, rf"\.(.+)\.{RANDOM}", stat.S_ISREG):
        name = entry.name[1:-9]
        if is_ours(name) and _is_abandoned(entry):
            with contextlib.suppress(OSError):
                entry.unlink()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, gone at the end; those that killed processes have left are swept first, once a process."""
    sweep_scratch(tempfile.gettempdir())
    unlocked = Path(tempfile.mkdtemp(prefix=f"new-{SCRATCH}"))
    try:
        handle = os.open(unlocked, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None
        try:
            if handle is not None:
                _lock(handle)
            folder = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix("new-")))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            if handle is not None:
                os.close(handle)
    finally:
        shutil.rmtree(unlocked, ignore_errors=True)


@functools.cache
def sweep_scratch(place: str) -> None:
    """Removes the scratch folders in `place` whose processes are gone."""
    for entry in _entries(Path(place), SCRATCH + RANDOM, stat.S_ISDIR):
        if _is_abandoned(entry):
            shutil.rmtree(entry, ignore_errors=True)


def require_current_folder() -> None:
    """Raises InputError where the current folder was removed: torch's libraries end a process that loads them there."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError("the current folder is gone; change to one that is there") from error


def user_path(text: str | Path, folder: Path = HERE, *, place: str = "") -> Path:
    """A path as a person types it, or as a file in `folder` has it at a place, `~` and `~user` expanded.

    A file whose own name begins so counts where it is there.

    Raises:
        InputError: it begins with `~` and no home folder is known for it, or see `check_path`.
    """
    try:
        path = folder / _expanded(str(text))
        check_path(path)
    except InputError as error:
        if place:
            raise InputError(error.rule, place=place, value=str(text)) from error
        raise
    return path


def user_text(text: str) -> str:
    """`user_path` of an argument that may also be a name: whatever does not begin with `~` is left as it is."""
    expanded = _expanded(text)
    if expanded:  # which pathlib takes for the current folder
        check_path(Path(expanded))
    return expanded


def check_path(path: Path) -> None:
    """Raises InputError where nothing can lie at a path, or where it cannot be told what does.

    Its name is too long for the file system, or has a null byte; a folder on the way, or the folder itself, may not be
    looked into; links lead round in a circle; a file stands where a folder is needed.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            (path / os.pardir).stat()  # not without the right to look into it
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot be used: {reason}", file=path_text(path)) from error


def _expanded(text: str) -> str:
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


def _entries(folder: Path, pattern: str, is_kind: Callable[[int], bool]) -> list[Path]:
    """What in `folder` is of this kind, bears such a name and belongs to this user; links are none of it."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if re.fullmatch(pattern, entry.name):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if is_kind(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid()):
                        found.append(Path(entry.path))
    return found


def _lock(handle: int) -> bool:
    """Locks an open file or folder until it is closed; False where another process has."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether no process holds it: it can be locked."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return _lock(handle)
    finally:
        os.close(handle)
