"""Images for the proxy task, as plain uint8 arrays: generated, from folders (`folders.py`) or from a `.npz`.

Whatever they come from, one set of rules holds: a validation set may lack a class, one that is not there is set aside
from the training images of each class, and data from which nothing can be learnt are refused.

Shapes: N images, H x W pixels, C channels, R the asked side, K classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modscale.datasets.archives import open_archive
from modscale.datasets.folders import open_folder
from modscale.datasets.images import Images, reading
from modscale.datasets.labelled import Indices, Labelled, Labels, note_missing, some
from modscale.datasets.synthetic import CLASS_NAMES, FULL_TRAIN, FULL_VAL, make_synthetic
from modscale.errors import DataError, naming_file
from modscale.files import path_text
from modscale.kinds import naming_kind
from modscale.machine import available_memory

RULE = "must be `synthetic`, a folder with train/CLASS/* and val/CLASS/*, or a .npz"
VAL_SPLIT = 0.1
"""Share of each class's training images set aside where there is no validation set and nothing else is asked for."""
DARK_LEVEL = 16
"""Images that stay below it nearly everywhere are told to be dark, of 256."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Training and validation images of one task."""

    name: str
    """`synthetic`, or the name of the folder or file."""
    class_names: tuple[str, ...]
    """Name of each label, K of them."""
    x_train: Images
    """[N, R, R, C]."""
    y_train: npt.NDArray[Any]
    """[N], 0 to K - 1; where each pixel has a class [N, R, R], 0 to K - 1 or `scenes.IGNORED`."""
    x_val: Images
    """[M, R, R, C], held out."""
    y_val: npt.NDArray[Any]
    """[M] or [M, R, R], as `y_train`."""
    fingerprint: str
    """SHA-256 over the class names and the four arrays."""
    leaked: int
    """Validation images whose pixels are also those of a training image; more than 0 flatters every accuracy."""
    notes: tuple[str, ...] = ()
    """What the user should know of these data, a line each."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChosenImages:
    """The images of a task before any is decoded."""

    name: str
    """That of the folder or file."""
    known: Labelled
    """All images there are."""
    train: Indices
    """[N] indices of those to train on."""
    val: Indices
    """[M] indices of those held out."""
    notes: tuple[str, ...]
    """What the user should know of the choice, a line each."""

    def bytes_at(self, resolution: int) -> int:
        """Bytes that all of them take at so many pixels."""
        return (len(self.train) + len(self.val)) * resolution * resolution * 3

    def read_all(self, resolution: int) -> tuple[Images, list[str]]:
        """The images [N + M, R, R, C], and what is to be told of them. Raises DataError."""
        check_memory(len(self.train) + len(self.val), resolution)
        return self.known.read(np.concatenate([self.train, self.val]), resolution)


def load_dataset(
    source: str,
    *,
    resolution: int,
    train_images: int | None,
    val_images: int | None,
    seed: int,
    val_split: float | None = None,
) -> Dataset:
    """The data of `source` at `resolution` pixels; with a cap, a seeded subset with classes as equal as they can be.

    Where there is no validation set, a seeded share `val_split` of each class's training images becomes it. From a
    large folder only the chosen images are decoded. `seed` draws the subset, and the images of `synthetic`.

    Raises:
        DataError: with the file, the rule and the value.
    """
    caps = (train_images, val_images)
    if source == "synthetic":
        numbers = [
            full if cap is None else min(cap, full) for cap, full in zip(caps, (FULL_TRAIN, FULL_VAL), strict=True)
        ]
        if min(numbers) < len(CLASS_NAMES):
            rule = f"needs at least one image a class, {len(CLASS_NAMES)} in all, but the cap is {min(numbers)}"
            raise DataError(rule, file=source)
        *arrays, names = make_synthetic(num_train=numbers[0], num_val=numbers[1], resolution=resolution, seed=seed)
        return _dataset("synthetic", names, arrays, [])
    chosen = choose_images(source, caps=caps, seed=seed, val_split=val_split)
    with naming_file(path_text(source)):
        x, read_notes = chosen.read_all(resolution)
        sizes = [len(chosen.train), len(chosen.val)]
        y = [chosen.known.labels[part] for part in (chosen.train, chosen.val)]
        arrays = [x[: sizes[0]], y[0], x[sizes[0] :], y[1]]
        return _dataset(chosen.name, chosen.known.class_names, arrays, [*chosen.notes, *read_notes])


def choose_images(
    source: str, *, caps: tuple[int | None, int | None] = (None, None), seed: int, val_split: float | None
) -> ChosenImages:
    """The images of a folder or a `.npz` that train and that validate, known and not yet decoded; see `load_dataset`.

    Raises:
        DataError: with the file, the rule and the value.
    """
    path = Path(source)
    with naming_kind(path, "images", "arrays", "image"), reading(path):
        is_folder = path.is_dir()
        if not path.exists():
            raise DataError(f"no such file or folder; {RULE}", file=path_text(path))
        if not is_folder and (path.suffix.lower() != ".npz" or not path.is_file()):
            raise DataError(RULE, file=path_text(path))
        name = path_text(path.resolve().name)
        known = open_folder(path, may_split=val_split is not None) if is_folder else open_archive(path)
    with naming_file(path_text(path)):
        (train, val), notes = _choose(known, caps, seed, val_split)
    return ChosenImages(name=name, known=known, train=train, val=val, notes=(*known.notes, *notes))


def hold_out(known: Labelled, share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of the training images that stay, and of those set aside: of each class the share, rounded, 1 or more.

    A class of one image keeps it. Which images go is a matter of `seed` and of their names alone, so that one that is
    added or removed moves hardly another.
    """
    stay, aside = [], []
    for label in range(len(known.class_names)):
        members = np.flatnonzero(known.labels[: known.num_train] == label)
        number = min(len(members) - 1, max(1, round(share * len(members))))
        ranks = sorted(members.tolist(), key=lambda i: hashlib.sha256(f"{seed}/{known.key(i)}".encode()).digest())
        aside += ranks[:number]
        stay += ranks[number:]
    return np.sort(np.array(stay, dtype=np.intp)), np.sort(np.array(aside, dtype=np.intp))


def balanced_subset(labels: Labels, limit: int | None, num_classes: int, rng: np.random.Generator) -> Indices:
    """Sorted indices of at most `limit` items, each class as near to an equal share as its size allows.

    Raises:
        DataError: `limit` is below the number of classes.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    if limit < num_classes:
        raise DataError(f"needs at least one image a class, {num_classes} in all, but the cap is {limit}")
    order = rng.permutation(len(labels))
    classes = rng.permutation(num_classes)  # which classes get the remainder must not follow the alphabet
    members = [order[labels[order] == k] for k in classes]
    members.sort(key=len)  # a small class gives all it has, and leaves its share to the larger ones
    chosen, left = [], limit
    for position, member in enumerate(members):
        take = min(len(member), left // (len(members) - position))
        chosen.append(member[:take])
        left -= take
    return np.sort(np.concatenate(chosen))


def count_leaked(train: Sequence[bytes], val: Sequence[bytes]) -> int:
    """How many of the validation images are, pixel for pixel, among the training images, by their `digests`."""
    seen = set(train)
    return sum(image in seen for image in val)


def digests(x: Images) -> list[bytes]:
    """SHA-256 of each of the images [N, ...]."""
    return [hashlib.sha256(image).digest() for image in x]


def _choose(
    known: Labelled, caps: tuple[int | None, int | None], seed: int, val_split: float | None
) -> tuple[list[Indices], list[str]]:
    """The indices of the training and of the validation images, and what is to be told of the choice."""
    train, val = np.arange(known.num_train), np.arange(known.num_train, len(known.labels))
    notes = []
    if not len(val):
        share = VAL_SPLIT if val_split is None else val_split
        train, val = hold_out(known, share, seed)
        if not len(val):
            raise DataError("has no validation set, and no class has two images of which one could be set aside")
        notes.append(
            f"no validation set: {len(val)} of {known.num_train} training images, {share:g} of each class drawn by"
            f" seed {seed}, are set aside as one; `proxy: {{val_split: SHARE}}` sets another share"
        )
        notes += note_missing(known.class_names, known.labels[val])
    elif val_split is not None:
        notes.append("there is a validation set: proxy.val_split is not used")
    chosen = []
    for number, (part, indices) in enumerate((("train", train), ("val", val))):
        labels = np.unique(known.labels[indices], return_inverse=True)[1].astype(np.int64)  # it may lack a class
        with _naming(part):
            subset = balanced_subset(labels, caps[number], int(labels.max()) + 1, np.random.default_rng([seed, number]))
        chosen.append(indices[subset])
    more = _left_over(known, np.setdiff1d(train, chosen[0]), caps[1], len(chosen[1]), seed)
    if len(more):
        chosen[1] = np.concatenate([chosen[1], more])
        notes.append(
            f"{len(more)} training images that are not trained on are held out too: {len(chosen[1])} validation images"
        )
    return chosen, notes


def _left_over(known: Labelled, unused: Indices, cap: int | None, there: int, seed: int) -> Indices:
    """Of the training images that are not trained on, those that bring the validation images up to their cap."""
    classes = np.unique(known.labels[unused], return_inverse=True)[1].astype(np.int64)
    missing = 0 if cap is None else cap - there
    if not len(unused) or missing <= classes.max():
        return unused[:0]
    return unused[balanced_subset(classes, missing, int(classes.max()) + 1, np.random.default_rng([seed, 2]))]


def check_memory(number: int, resolution: int, bytes_a_pixel: int = 3) -> None:
    """Refuses what this machine, or the container on it, cannot hold before anything is allocated."""
    needed = number * resolution * resolution * bytes_a_pixel
    memory = available_memory()
    if memory is not None and needed > memory:
        rule = f"{number} images at {resolution} px take {needed} bytes, and {memory} are there for this process"
        raise DataError(f"{rule}; lower proxy.train_images, val_images or resolution")


def fingerprint(class_names: Sequence[str], arrays: Sequence[Any]) -> str:
    """SHA-256 of the classes and of all images and labels, by which a run knows its data again."""
    digest = hashlib.sha256("\0".join(class_names).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _dataset(name: str, class_names: Sequence[str], arrays: Sequence[Any], notes: Sequence[str]) -> Dataset:
    x_train, y_train, x_val, y_val = (np.ascontiguousarray(array) for array in arrays)
    train, val = digests(x_train), digests(x_val)
    _check_learnable(train, y_train, val)
    leaked = count_leaked(train, val)
    return Dataset(
        name=name,
        class_names=tuple(class_names),
        x_train=x_train,
        y_train=y_train,
        x_val=x_val,
        y_val=y_val,
        fingerprint=fingerprint(class_names, (x_train, y_train, x_val, y_val)),
        leaked=leaked,
        notes=(
            *notes,
            *leak_notes(leaked, len(val)),
            *_repeat_notes(train, y_train, class_names),
            *_dark_notes(x_train),
        ),
    )


def _check_learnable(train: Sequence[bytes], y_train: Labels, val: Sequence[bytes]) -> None:
    """Refuses images that do not tell the classes apart, by their digests.

    Knowing every training image by heart, one gets right the most frequent class of each that is repeated. Where that
    is no more than always naming the most frequent class of all, there is nothing in the images to learn.
    """
    labels = y_train.tolist()
    by_image: dict[bytes, Counter[int]] = {}
    for image, label in zip(train, labels, strict=True):
        by_image.setdefault(image, Counter())[label] += 1
    by_heart = sum(max(counts.values()) for counts in by_image.values())
    if by_heart <= max(Counter(labels).values()):
        what = "are all the same image" if len(by_image) == 1 else "are the same ones in every class"
        raise DataError(f"the {len(train)} training images {what}: nothing can be learnt from them")
    if len(val) > 1 and len(set(val)) == 1:
        raise DataError(f"the {len(val)} validation images are all the same image: no accuracy can be told from them")


def leak_notes(leaked: int, total: int, scores: str = "accuracies") -> list[str]:
    """That so many of all validation images were seen in training; nothing where none was."""
    if not leaked:
        return []
    rest = f"pixel for pixel: the {scores} are flattered by what was seen in training"
    return [f"{leaked} of {total} validation images stand in the training set too, {rest}"]


def _repeat_notes(images: Sequence[bytes], labels: Labels, class_names: Sequence[str]) -> list[str]:
    """Notes on training images, by their digests, that stand there more than once."""
    classes_of: dict[bytes, set[int]] = {}
    images_of: dict[int, set[bytes]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        classes_of.setdefault(image, set()).add(label)
        images_of.setdefault(label, set()).add(image)
    sizes = Counter(labels.tolist())
    notes = []
    repeated = len(images) - len(classes_of)
    if repeated:
        notes.append(f"{repeated} of {len(images)} training images are repetitions of others, pixel for pixel")
    in_several = sum(len(classes) > 1 for classes in classes_of.values())
    if in_several:
        several = "1 training image stands" if in_several == 1 else f"{in_several} training images stand"
        notes.append(f"{several} in more than one class")
    flat = [class_names[label] for label, kinds in sorted(images_of.items()) if len(kinds) == 1 and sizes[label] > 1]
    if flat:
        notes.append(f"all training images of a class are the same image in {len(flat)} classes: {some(flat)}")
    return notes


def _dark_notes(x: Images) -> list[str]:
    """A note on images that are nearly black throughout, as when their values do not use their type's range."""
    bright = sum(int(np.count_nonzero(image >= DARK_LEVEL)) for image in x)
    if bright >= x.size / 1000:
        return []
    return [f"the training images are nearly black: {bright} of {x.size} values reach {DARK_LEVEL} of 255"]


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """An error in choosing from a split names it."""
    try:
        yield
    except DataError as error:
        error.place = part
        raise
