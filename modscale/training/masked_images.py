"""The images and masks of a segmentation's training: held in memory where they fit, else decoded as they are needed.

Shapes: N training and M validation images, H x W pixels of one, S the shorter side at which training images are held,
R the network's resolution, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from modscale.datasets.images import Images
from modscale.datasets.labelled import Indices
from modscale.datasets.masks import MaskedImages, Pair, open_masks
from modscale.datasets.scenes import FULL_TRAIN, FULL_VAL, SCENE_CLASSES, Masks, make_scenes
from modscale.errors import DataError
from modscale.files import path_text
from modscale.training.images import ahead, holdable_bytes

Scene = tuple[Images, Masks]
"""An image [H, W, C] and its mask [H, W]."""
Read = Callable[[Iterable[Indices]], Iterator[list[Scene]]]
"""The scenes of each of some batches, by their numbers [n] from 0."""
BYTES_A_PIXEL = 5
"""Of an image of three channels and its mask."""
USUAL_ASPECT = 4 / 3
"""Longer by shorter side, by which the memory of whole images is estimated."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingScenes:
    """What a network learns to segment, and is scored on."""

    name: str
    """`synthetic`, or the name of the folder."""
    class_names: tuple[str, ...]
    """K of them, in the order of the logits."""
    num_train: int
    """N."""
    num_val: int
    """M."""
    read_train: Read
    """Whole, at S pixels."""
    read_val: Read
    """Centre squares at R pixels."""
    fingerprint: str
    """SHA-256 over the class names and all pixels; of those not held, over the files' names, sizes and times."""
    is_held: bool
    """Whether they lie in memory."""
    notes: tuple[str, ...]
    """What the user should know of these data, a line each."""


def open_scenes(
    source: str, *, resolution: int, side: int, seed: int, reduce_zero: bool, held_bytes: int | None = None
) -> TrainingScenes:
    """The scenes of `source`, generated or of a folder.

    `held_bytes`: how many bytes may be held, where that is not a share of this process's memory.

    Raises:
        DataError: see `open_masks`.
    """
    if source == "synthetic":
        x, y, *_ = make_scenes(num_train=FULL_TRAIN, num_val=FULL_VAL, resolution=side, seed=seed)
        *_, x_val, y_val = make_scenes(num_train=FULL_TRAIN, num_val=FULL_VAL, resolution=resolution, seed=seed)
        train, val = list(zip(x, y, strict=True)), list(zip(x_val, y_val, strict=True))
        return _held("synthetic", SCENE_CLASSES, train, val, ())
    found = open_masks(source, reduce_zero=reduce_zero)
    held_bytes = holdable_bytes() if held_bytes is None else held_bytes
    needed = round(len(found.train) * side**2 * USUAL_ASPECT + len(found.val) * resolution**2) * BYTES_A_PIXEL
    if held_bytes is not None and needed > held_bytes:
        return _read_as_needed(found, resolution, side, needed)
    everything = (range(len(pairs)) for pairs in (found.train, found.val))
    train, val = (
        [scene for scenes in read([np.array(numbers)]) for scene in scenes]
        for read, numbers in zip(_reads(found, resolution, side), everything, strict=True)
    )
    return _held(found.name, found.class_names, train, val, found.notes)


def _held(
    name: str, class_names: tuple[str, ...], train: list[Scene], val: list[Scene], notes: tuple[str, ...]
) -> TrainingScenes:
    digest = hashlib.sha256("\0".join(class_names).encode())
    for image, mask in (*train, *val):
        for array in (image, mask):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return TrainingScenes(
        name=name,
        class_names=class_names,
        num_train=len(train),
        num_val=len(val),
        read_train=lambda batches: ([train[int(i)] for i in rows] for rows in batches),
        read_val=lambda batches: ([val[int(i)] for i in rows] for rows in batches),
        fingerprint=digest.hexdigest(),
        is_held=True,
        notes=notes,
    )


def _read_as_needed(found: MaskedImages, resolution: int, side: int, needed: int) -> TrainingScenes:
    digest = hashlib.sha256("\0".join(found.class_names).encode())
    for pair in (*found.train, *found.val):
        for file in (pair.image, pair.mask):
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(f"cannot be read: {error.strerror or error}", file=path_text(file)) from error
            digest.update(f"{path_text(file.name)}\0{status.st_size} {status.st_mtime_ns}\n".encode())
    read_train, read_val = _reads(found, resolution, side)
    return TrainingScenes(
        name=found.name,
        class_names=found.class_names,
        num_train=len(found.train),
        num_val=len(found.val),
        read_train=read_train,
        read_val=read_val,
        fingerprint=digest.hexdigest(),
        is_held=False,
        notes=(*found.notes, f"the images would take about {needed:,} bytes: they are decoded as they are needed"),
    )


def _reads(found: MaskedImages, resolution: int, side: int) -> tuple[Read, Read]:
    """How training and validation images are decoded, some batches ahead."""

    def reader(pairs: tuple[Pair, ...], read: Callable[[Pair, int], Scene], at: int) -> Read:
        return lambda batches: ahead(lambda index: read(pairs[index], at), batches)

    return reader(found.train, found.read, side), reader(found.val, found.read_square, resolution)
