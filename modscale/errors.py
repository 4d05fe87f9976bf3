"""Every exception modscale raises on purpose.

`InputError` and its children are what the user can mend (exit code 2); the rest is ours (exit code 1).
The command line turns them into one line in one place; nothing below it prints.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSET = object()
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class ModscaleError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class InputError(ModscaleError):
    """Something the user gave breaks a rule: says the file, the place in it, the rule and the value."""

    exit_code = 2

    def __init__(self, rule: str, *, file: str | Path = "", place: str = "", value: object = _UNSET) -> None:
        super().__init__(rule)
        self.rule = rule
        self.file = str(file)
        self.place = place
        self.value = value

    def __str__(self) -> str:
        where = [part for part in (self.file, self.place) if part]
        got = "" if self.value is _UNSET else f", got {_SHORT.repr(self.value)}"
        return " ".join((": ".join([*where, self.rule]) + got).split())


class DataError(InputError):
    """A data set is missing, unreadable or unfit for the task."""


class CheckpointError(InputError):
    """Weights do not belong to the network, or the file cannot be read."""


class RunError(InputError):
    """A run's folder cannot be used as asked."""


class ProviderError(InputError):
    """An ONNX Runtime provider is not there, or would silently fall back to another."""


class MismatchError(ModscaleError):
    """Two ways to compute the same thing disagree: no number is given out."""


class TrialFailed(ModscaleError):
    """One candidate could not be evaluated; the search records why and goes on."""


class AllTrialsFailed(ModscaleError):
    """A search in which no candidate could be evaluated."""


@contextmanager
def naming_file(file: str | Path) -> Iterator[None]:
    """Adds the file's name to any `InputError` that passes without one."""
    try:
        yield
    except InputError as error:
        error.file = error.file or str(file)
        raise
