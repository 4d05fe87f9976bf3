"""Labelled images that are known and not yet decoded: what a folder and a `.npz` have in common, and its rules.

A class is known by its name in Unicode's composed form: the same name comes decomposed from other systems.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modscale.datasets.images import Images
from modscale.errors import DataError, printable

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]

TRAIN = ("train", "training", "train_set", "training_set")
VAL = ("val", "valid", "validation", "dev", "eval", "val_set", "valid_set", "validation_set")
TEST = ("test", "testing", "test_set", "testing_set")
"""Taken for validation where there is nothing else."""
MOST_NAMED = 8
"""A line names no more classes or files than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """The images of a data set in a fixed order: those for training first, then those for validation."""

    class_names: tuple[str, ...]
    """Name of each label, K of them."""
    labels: Labels
    """[N + M], 0 to K - 1."""
    num_train: int
    """N; equal to the length of `labels` where no image is set aside for validation."""
    key: Callable[[int], str]
    """What an image is called, the same wherever the data lie."""
    read: Callable[[Indices, int], tuple[Images, list[str]]]
    """The images of some indices [n] at R pixels, [n, R, R, C], and what is to be told of them."""
    notes: tuple[str, ...]
    """What the user should know of how the data were found."""
    read_one: Callable[[int, int], Images] | None = None
    """The image of an index at R pixels, [R, R, C], from any thread; None where images cannot be had one by one."""
    describe: Callable[[int], str] = str
    """A line that changes where an image does, without decoding it."""


def choose_name(names: Iterable[str], words: Sequence[str], *, what: str) -> str | None:
    """The one of `names` that is a word of `words` in any case, the first word as it stands before any other.

    Raises:
        DataError: several are.
    """
    found = sorted(name for name in names if name.casefold() in words)
    if words[0] in found:
        return words[0]
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(printable, found))} could both be the {what}; leave one of them")
    return found[0] if found else None


def composed(name: str) -> str:
    """The name in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)


def guess(name: str, known: Iterable[str]) -> str:
    """As in ` (did you mean cat?)`; empty where nothing known is near."""
    folded = {composed(other).casefold().strip(): other for other in known}
    near = difflib.get_close_matches(composed(name).casefold().strip(), folded, n=1, cutoff=0.6)
    return f" (did you mean {printable(folded[near[0]])}?)" if near else ""


def some(names: Sequence[str]) -> str:
    """As in `a, b and 3 more`."""
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(printable, names[:MOST_NAMED])) + rest


def note_missing(class_names: Sequence[str], y_val: Labels) -> list[str]:
    """A note on the classes that no validation image is of; empty where there is none."""
    absent = sorted(set(range(len(class_names))) - set(y_val.tolist()))
    if not absent:
        return []
    names = some([class_names[label] for label in absent])
    return [f"no validation image is of {len(absent)} of the {len(class_names)} classes: {names}"]


def note_counts(what: str, counts: Mapping[str, int]) -> list[str]:
    """A note on what was passed over, by name and number; empty where nothing was."""
    if not counts:
        return []
    each = some([f"{name} {count}" for name, count in sorted(counts.items())])
    return [f"passed over {what}, {sum(counts.values())} in all: {each}"]


def within(file: Path, root: Path) -> str:
    """A path as it stands below `root`."""
    return printable(str(file.relative_to(root)))
