"""Who may write into a folder of results: one command at a time, into the folder itself and nowhere else."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from modscale.errors import RunError
from modscale.files import sweep_halves

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
LOOK_S = 0.3
"""Seconds that a lock is waited for: `is_locked` has it for less than one of them."""


@contextlib.contextmanager
def locked_folder(folder: Path, *, appended: Sequence[str], written: Collection[str], what: str) -> Iterator[None]:
    """Makes the folder and keeps others of `what` out of it while this one runs; a killed one leaves no lock.

    A folder that it made and that holds nothing else at the end is taken away again.

    What a killed one has half written of the files `written` whole is removed. Those `appended` to are no links.

    Raises:
        RunError: the folder cannot be made or written to, or another `what` is running in it.
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder, LOCK_FILE, *appended)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=LOOK_S)
    except Timeout as error:
        raise RunError(f"another {what} is running in this folder", file=folder) from error
    except OSError as error:
        raise RunError(f"cannot be written to: {error.strerror or error}", file=folder) from error
    try:
        sweep_halves(folder, lambda name: name in written)
        yield
    finally:
        if is_new:
            _take_away(folder)
        lock.release()


def _take_away(folder: Path) -> None:
    """Removes a folder that holds nothing but its lock; one that cannot be removed stays."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK_FILE]:
            (folder / LOCK_FILE).unlink()
            folder.rmdir()


def is_locked(folder: Path) -> bool | None:
    """Whether a command is running in the folder; None where that cannot be told, on another system or without rights.

    Writes nothing.
    """
    if fcntl is None:
        return None
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def refuse_links(folder: Path, *names: str) -> None:
    """Raises RunError where one of the names is a link: what a run writes stays in its folder."""
    for name in names:
        if (folder / name).is_symlink():
            raise RunError("is a link, and a run writes only into its own folder; remove it", file=folder / name)
