"""Every exception modscale raises on purpose.

`InputError` and its children are what the user can mend (exit code 2), as is what one network asks too much of; the
rest is ours (exit code 1).
The command line turns them into one line in one place; nothing below it prints.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path


class _Unset(Enum):
    """Says that no value was given; an enum, so that it is the same object in every process an error travels to."""

    UNSET = 0


MAX_VALUE_CHARS = 120
"""A message is one line: a value that takes more is cut."""


class _ShortRepr(reprlib.Repr):
    """`repr` of a bounded length, for values of any size and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out whole numbers of more than 4300 digits.
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a whole number of {x.bit_length()} bits"


_SHORT = _ShortRepr()


class ModscaleError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class InputError(ModscaleError):
    """Something the user gave breaks a rule: says the file, the place in it, the rule and the value."""

    exit_code = 2

    def __init__(self, rule: str, *, file: str | Path = "", place: str = "", value: object = _Unset.UNSET) -> None:
        super().__init__(rule)
        self.rule = rule
        self.file = str(file)
        self.place = place
        self.value = value

    def __str__(self) -> str:
        where = [part for part in (self.file, self.place) if part]
        got = "" if self.value is _Unset.UNSET else f", got {shorten(self.value)}"
        return one_line(": ".join([*where, self.rule]) + got)


class UsageError(ModscaleError):
    """What was typed is no command, or none that can be parsed: says which command it was taken for."""

    exit_code = 2

    def __init__(self, rule: str, *, command: str = "modscale") -> None:
        super().__init__(rule)
        self.command = command


class DataError(InputError):
    """A data set is missing, unreadable or unfit for the task."""


class CheckpointError(InputError):
    """Weights do not belong to the network, or the file cannot be read."""


class RunError(InputError):
    """A run's folder cannot be used as asked."""


class ProviderError(InputError):
    """An ONNX Runtime provider is not there, or would silently fall back to another."""


class TargetError(InputError):
    """A device that is to time cannot be reached or cannot do it: its command ended, its runtime is old, it changed."""


class TooLargeError(InputError):
    """A network exceeds what a file format holds."""


class OpenSidesError(InputError):
    """A model leaves the height and width of its image open, and nothing says what they are to be."""


class MismatchError(ModscaleError):
    """Two ways to compute the same thing disagree: no number is given out."""


class TrialFailed(ModscaleError):
    """One network could not be measured. A search records why and goes on; a command that asked for it ends with 2."""

    exit_code = 2


class WorkerFault(TrialFailed):
    """A process of ours ended without an answer: the trial's failure in a search, ours anywhere else."""

    exit_code = 1


class WorkerKilled(WorkerFault):
    """It was ended from outside, for want of memory say, or because it took too long: not a fault of ours."""

    exit_code = 2


class AllTrialsFailed(ModscaleError):
    """A search in which no candidate could be evaluated."""


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal or hide in a page as a visible escape, as in `\\x1b]0;`.

    Escaped are control characters (line breaks among them), invisible format characters such as those that turn the
    direction of writing, line separators, and half characters, which stand for bytes of a path that are no Unicode.
    The two joiners that Persian, Indic scripts and emoji are written with stay.
    """
    if text.isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if _is_unseen(sign) else sign for sign in text)


def one_line(text: str) -> str:
    """`text` in one printable line; line breaks and runs of blanks become one blank."""
    return printable(" ".join(text.split()))


def shorten(value: object) -> str:
    """`repr(value)` in at most `MAX_VALUE_CHARS` characters, all printable."""
    text = printable(_SHORT.repr(value))
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 3] + "..."


@contextmanager
def naming_file(file: str | Path) -> Iterator[None]:
    """Adds the file's name to any `InputError` that passes without one."""
    try:
        yield
    except InputError as error:
        error.file = error.file or str(file)
        raise


def _is_unseen(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") and sign not in "\u200c\u200d"
