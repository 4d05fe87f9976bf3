"""A data set of images and masks, all of it decoded to squares of one side: what a proxy learns to segment.

Shapes: N training and M validation images, R side in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from modscale.datasets.dataset import Dataset, check_memory, count_leaked, digests, fingerprint, leak_notes
from modscale.datasets.images import Images, quiet_pillow
from modscale.datasets.labelled import Indices
from modscale.datasets.masks import MaskedImages, Pair, open_masks
from modscale.datasets.scenes import FULL_TRAIN, FULL_VAL, IGNORED, SCENE_CLASSES, Masks, make_scenes
from modscale.errors import DataError, naming_file
from modscale.files import path_text
from modscale.machine import available_cores

BYTES_A_PIXEL = 5
"""Of an image of three channels and its mask."""


def load_dense_dataset(
    source: str,
    *,
    resolution: int,
    train_images: int | None,
    val_images: int | None,
    seed: int,
    reduce_zero: bool,
) -> Dataset:
    """The centre squares of a folder in ADE20K's layout, or generated scenes; with a cap, a seeded subset.

    Labels are masks, [N, R, R] and [M, R, R], 0 to K - 1 or `IGNORED`.

    Raises:
        DataError: see `open_masks`; or there is nothing to learn in them, or to be scored on.
    """
    if source == "synthetic":
        arrays = make_scenes(
            num_train=train_images or FULL_TRAIN, num_val=val_images or FULL_VAL, resolution=resolution, seed=seed
        )
        return _dataset("synthetic", SCENE_CLASSES, arrays, ())
    found = open_masks(source, reduce_zero=reduce_zero)
    chosen = [
        _subset(len(pairs), cap, np.random.default_rng([seed, number]))
        for number, (pairs, cap) in enumerate(((found.train, train_images), (found.val, val_images)))
    ]
    with naming_file(path_text(source)):
        check_memory(sum(map(len, chosen)), resolution, BYTES_A_PIXEL)
        train, val = (
            _read(found, [pairs[i] for i in indices], resolution)
            for pairs, indices in zip((found.train, found.val), chosen, strict=True)
        )
        return _dataset(found.name, found.class_names, (*train, *val), found.notes)


def _subset(number: int, cap: int | None, rng: np.random.Generator) -> Indices:
    """Of so many images at most `cap`, in their order."""
    if cap is None or cap >= number:
        return np.arange(number)
    return np.sort(rng.permutation(number)[:cap])


def _read(found: MaskedImages, pairs: Sequence[Pair], resolution: int) -> tuple[Images, Masks]:
    read = partial(found.read_square, resolution=resolution)
    with quiet_pillow(), ThreadPoolExecutor(max_workers=min(8, available_cores())) as pool:
        images, masks = zip(*pool.map(read, pairs), strict=True)
    return np.stack(images), np.stack(masks)


def _dataset(
    name: str, class_names: tuple[str, ...], arrays: tuple[Images, Masks, Images, Masks], notes: Sequence[str]
) -> Dataset:
    x_train, y_train, x_val, y_val = arrays
    _check_scored(x_val, y_val)
    _check_learnable(y_train)
    leaked = count_leaked(digests(x_train), digests(x_val))
    return Dataset(
        name=name,
        class_names=class_names,
        x_train=x_train,
        y_train=y_train,
        x_val=x_val,
        y_val=y_val,
        fingerprint=fingerprint(class_names, arrays),
        leaked=leaked,
        notes=(*notes, *leak_notes(leaked, len(x_val), "mIoUs")),
    )


def _check_scored(images: Images, masks: Masks) -> None:
    """Raises DataError where validation images do not tell a mIoU with its error."""
    if len(images) < 2:
        rule = "needs two validation images or more: the noise of a mIoU is told by how they differ"
        raise DataError(rule, value=len(images))
    if len(set(digests(images))) == 1:
        raise DataError(f"the {len(images)} validation images are all the same image: no mIoU can be told from them")
    if (masks == IGNORED).all():
        raise DataError(f"the centre squares of the {len(masks)} validation images have no labelled pixel")


def _check_learnable(masks: Masks) -> None:
    """Raises DataError where the training images have fewer than two classes."""
    classes = np.unique(masks[masks != IGNORED])
    if len(classes) < 2:
        what = "have no labelled pixel" if not len(classes) else "have one class"
        raise DataError(f"the centre squares of the {len(masks)} training images {what}: nothing can be learnt there")
