"""The images of a full training: held in memory where they fit, else decoded as they are needed.

Those that are decoded lie in a folder; threads read some batches ahead, so that no step waits for the disk while the
decoding keeps up (Pillow decodes beside Python).

Shapes: N training and M validation images, S the side at which training images are held, R the network's resolution.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from modscale.datasets.dataset import ChosenImages, Dataset, choose_images, load_dataset
from modscale.datasets.images import Images, quiet_pillow
from modscale.datasets.labelled import Indices, Labels
from modscale.errors import DataError, naming_file
from modscale.files import path_text
from modscale.machine import available_cores, available_memory

HELD_SHARE = 0.4
"""Of this process's memory, at most so much is taken by images that are held."""
AHEAD = 4
"""Batches that are read before they are asked for."""

Item = TypeVar("Item")

Read = Callable[[Iterable[Indices]], Iterator[Images]]
"""The images [n, H, W, C] of each of some batches, by their numbers [n] from 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingImages:
    """What a classifier learns from, and is scored on."""

    name: str
    """`synthetic`, or the name of the folder or file."""
    class_names: tuple[str, ...]
    """Name of each label, K of them, in the order of the logits."""
    channels: int
    """1 or 3."""
    y_train: Labels
    """[N], 0 to K - 1."""
    y_val: Labels
    """[M], 0 to K - 1."""
    read_train: Read
    """At S pixels."""
    read_val: Read
    """At R pixels."""
    fingerprint: str
    """SHA-256 over the class names and all images; of those that are not held, over their names, sizes and times."""
    is_held: bool
    """Whether they lie in memory."""
    notes: tuple[str, ...]
    """What the user should know of these data, a line each."""


def open_images(
    source: str, *, resolution: int, side: int, seed: int, val_split: float | None, held_bytes: int | None = None
) -> TrainingImages:
    """The images of `source`: training images at `side` pixels, validation images at `resolution`.

    `held_bytes`: how many bytes of images may be held, where that is not a share of this process's memory.

    Raises:
        DataError: see `load_dataset`; or every class has but one training image.
    """
    if source == "synthetic":
        dataset = load_dataset(source, resolution=side, train_images=None, val_images=None, seed=seed)
        small = dataset if side == resolution else load_dataset(
            source, resolution=resolution, train_images=None, val_images=None, seed=seed
        )  # fmt: skip
        return _held(dataset, small.x_val)
    chosen = choose_images(source, seed=seed, val_split=val_split)
    labels = chosen.known.labels[chosen.train]
    if len(labels) == len(np.unique(labels)):
        rule = f"has one training image of each of its {len(labels)} classes: nothing general can be learnt from that"
        raise DataError(rule, file=path_text(source))
    held_bytes = holdable_bytes() if held_bytes is None else held_bytes
    if held_bytes is not None and chosen.known.read_one is not None and chosen.bytes_at(side) > held_bytes:
        return _read_as_needed(chosen, chosen.known.read_one, resolution, side)
    dataset = load_dataset(source, resolution=side, train_images=None, val_images=None, seed=seed, val_split=val_split)
    if side == resolution:
        return _held(dataset, dataset.x_val)
    with naming_file(path_text(source)):
        return _held(dataset, chosen.known.read(chosen.val, resolution)[0])


def holdable_bytes() -> int | None:
    """How many bytes of images may be held; None where the memory is not known."""
    memory = available_memory()
    return None if memory is None else int(HELD_SHARE * memory)


def _held(dataset: Dataset, x_val: Images) -> TrainingImages:
    return TrainingImages(
        name=dataset.name,
        class_names=dataset.class_names,
        channels=dataset.x_train.shape[3],
        y_train=dataset.y_train,
        y_val=dataset.y_val,
        read_train=lambda batches: (dataset.x_train[rows] for rows in batches),
        read_val=lambda batches: (x_val[rows] for rows in batches),
        fingerprint=dataset.fingerprint,
        is_held=True,
        notes=dataset.notes,
    )


def _read_as_needed(
    chosen: ChosenImages, read_one: Callable[[int, int], Images], resolution: int, side: int
) -> TrainingImages:
    known = chosen.known
    digest = hashlib.sha256("\0".join(known.class_names).encode())
    for index in (*chosen.train.tolist(), *chosen.val.tolist()):
        digest.update(f"{known.key(index)}\0{known.labels[index]}\0{known.describe(index)}\n".encode())
    number = len(chosen.train) + len(chosen.val)
    note = (
        f"{number} images at {side} px would take {chosen.bytes_at(side):,} bytes: they are decoded as they are needed,"
        " and not looked through for repetitions"
    )
    return TrainingImages(
        name=chosen.name,
        class_names=known.class_names,
        channels=3,
        y_train=known.labels[chosen.train],
        y_val=known.labels[chosen.val],
        read_train=lambda batches: read_ahead(read_one, (chosen.train[rows] for rows in batches), side),
        read_val=lambda batches: read_ahead(read_one, (chosen.val[rows] for rows in batches), resolution),
        fingerprint=digest.hexdigest(),
        is_held=False,
        notes=(*chosen.notes, note),
    )


def read_ahead(
    read_one: Callable[[int, int], Images], batches: Iterable[Sequence[int] | Indices], side: int
) -> Iterator[Images]:
    """The images [n, S, S, C] of each batch of indices; see `ahead`."""
    return (np.stack(images) for images in ahead(lambda index: read_one(index, side), batches))


def ahead(read_one: Callable[[int], Item], batches: Iterable[Sequence[int] | Indices]) -> Iterator[list[Item]]:
    """What `read_one` gives for each batch of indices, by threads that keep `AHEAD` batches before it.

    Raises:
        DataError: an image of the batch cannot be read.
    """
    pool = ThreadPoolExecutor(max_workers=max(2, available_cores()), thread_name_prefix="decode")
    waiting: deque[list[Future[Item]]] = deque()
    rest = iter(batches)

    def fill() -> None:
        while len(waiting) <= AHEAD and (batch := next(rest, None)) is not None:
            waiting.append([pool.submit(read_one, int(index)) for index in batch])

    try:
        with quiet_pillow():
            fill()
        while waiting:
            done = waiting.popleft()
            fill()
            yield [future.result() for future in done]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
