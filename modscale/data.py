"""Images for the proxy task, as plain uint8 arrays: generated, from a folder in ImageNet's layout, or from a `.npz`.

Folder: `train/CLASS/*` and `val/CLASS/*`, any image Pillow reads (`images.py`). Names that start with a dot are passed
over; any other file that is no readable image is an error, because silently fewer images is a different task.

`.npz`: `x_train`, `x_val` uint8 [N, H, W, C] with C of 1 or 3, `y_train`, `y_val` whole numbers [N].

Shapes: N images, H x W pixels, C channels, R the asked side, K classes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modscale.errors import DataError
from modscale.files import path_text
from modscale.images import Images, quiet_pillow, read_image, reading, resize_all
from modscale.machine import available_cores
from modscale.synthetic import CLASS_NAMES, FULL_TRAIN, FULL_VAL, make_synthetic

Labels = npt.NDArray[np.int64]

RULE = "must be `synthetic`, a folder with train/CLASS/* and val/CLASS/*, or a .npz"
DECODE_ALL_BYTES = 128_000_000
"""A folder up to this size is decoded whole, so that a broken file is found even where a subset leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Training and validation images of one task."""

    name: str
    """`synthetic`, or the name of the folder or file."""
    class_names: tuple[str, ...]
    """Name of each label, K of them."""
    x_train: Images
    """[N, R, R, C]."""
    y_train: Labels
    """[N], 0 to K - 1."""
    x_val: Images
    """[M, R, R, C], held out."""
    y_val: Labels
    """[M], 0 to K - 1."""
    fingerprint: str
    """SHA-256 over the class names and the four arrays."""
    leaked: int
    """Validation images whose pixels are also those of a training image; more than 0 flatters every accuracy."""
    notes: tuple[str, ...] = ()
    """What the user should know of these data, a line each."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load_dataset(
    source: str, *, resolution: int, train_images: int | None, val_images: int | None, seed: int
) -> Dataset:
    """The data of `source` at `resolution` pixels; with a cap, a seeded subset with classes as equal as they can be.

    From a large folder only the chosen images are decoded. `seed` draws the subset, and the images of `synthetic`.

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
        return _dataset("synthetic", names, *arrays)
    path = Path(source).expanduser()
    with reading(path):
        is_folder = path.is_dir()
        if not path.exists():
            raise DataError(f"no such file or folder; {RULE}", file=path_text(path))
        if not is_folder and (path.suffix.lower() != ".npz" or not path.is_file()):
            raise DataError(RULE, file=path_text(path))
    load = _load_folder if is_folder else _load_npz
    names, arrays = load(path, resolution, caps, seed)
    return _dataset(path_text(path.resolve().name), names, *arrays)


def balanced_subset(
    labels: Labels, limit: int | None, num_classes: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
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


def count_leaked(x_train: Images, x_val: Images) -> int:
    """How many of the images [M, ...] in `x_val` are, pixel for pixel, among those of `x_train`."""
    seen = {hashlib.sha256(image).digest() for image in x_train}
    return sum(hashlib.sha256(image).digest() in seen for image in x_val)


def _load_folder(
    root: Path, resolution: int, caps: tuple[int | None, int | None], seed: int
) -> tuple[tuple[str, ...], list[Any]]:
    classes = {split: _class_folders(root, split) for split in ("train", "val")}
    names = sorted(classes["train"])
    if len(names) < 2:
        raise DataError("needs at least two classes", file=path_text(root / "train"), value=names)
    for one, other, split in ((classes["val"], classes["train"], "val"), (classes["train"], classes["val"], "train")):
        unknown = sorted(set(one) - set(other))
        if unknown:
            twin = "train" if split == "val" else "val"
            raise DataError(f"has no folder of that name in {twin}/", file=path_text(one[unknown[0]]))
    arrays: list[Any] = []
    for number, split in enumerate(("train", "val")):
        files, labels = [], []
        for label, name in enumerate(names):
            images = _image_files(classes[split][name])
            files += images
            labels += [label] * len(images)
        y = np.array(labels, dtype=np.int64)
        with _naming(root / split):
            chosen = balanced_subset(y, caps[number], len(names), np.random.default_rng([seed, number]))
        arrays += [_decode(files, chosen, resolution), y[chosen]]
    return tuple(path_text(name) for name in names), arrays


def _class_folders(root: Path, split: str) -> dict[str, Path]:
    folder = root / split
    with reading(folder):
        if not folder.is_dir():
            raise DataError(f"has no folder {split}/; {RULE}", file=path_text(root))
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        classes = {entry.name: entry for entry in entries if entry.is_dir()}
    if not classes:
        raise DataError("holds no class: each class is a folder of its own", file=path_text(folder))
    return classes


def _image_files(folder: Path) -> list[Path]:
    with reading(folder):
        files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        for file in files:
            name = path_text(file)
            if file.is_dir():
                raise DataError("a folder inside a class; its images must lie in the class's folder", file=name)
            if file.exists() and not file.is_file():  # a pipe might never end
                raise DataError("must be a plain file", file=name)
    if not files:
        raise DataError("a class without images", file=path_text(folder))
    return files


def _decode(files: Sequence[Path], chosen: npt.NDArray[np.intp], resolution: int) -> Images:
    """The chosen images [N, R, R, 3], the others only looked at where the whole set is small."""
    x = np.empty((len(chosen), resolution, resolution, 3), dtype=np.uint8)
    row = {int(index): i for i, index in enumerate(chosen)}

    def fill(index: int) -> None:
        image = read_image(files[index], resolution)
        if index in row:
            x[row[index]] = image

    wanted = range(len(files)) if _is_small(files) else [int(index) for index in chosen]
    with quiet_pillow(), ThreadPoolExecutor(max_workers=min(8, available_cores())) as pool:
        for _ in pool.map(fill, wanted, chunksize=1):
            pass
    return x


def _is_small(files: Sequence[Path]) -> bool:
    total = 0
    for file in files:
        with reading(file):
            total += file.stat().st_size
        if total > DECODE_ALL_BYTES:
            return False
    return True


def _load_npz(
    path: Path, resolution: int, caps: tuple[int | None, int | None], seed: int
) -> tuple[tuple[str, ...], list[Any]]:
    with _naming(path):
        raw = _read_npz(path)
        known, y_train = np.unique(raw["y_train"], return_inverse=True)
        if len(known) < 2:
            raise DataError("needs at least two classes", place="y_train", value=known.tolist())
        strangers = np.setdiff1d(raw["y_val"], known)
        if len(strangers):
            raise DataError("has a label that y_train has not", place="y_val", value=strangers[0].item())
        labels = {"train": y_train.astype(np.int64), "val": np.searchsorted(known, raw["y_val"]).astype(np.int64)}
        arrays: list[Any] = []
        for number, split in enumerate(("train", "val")):
            y = labels[split]
            num_classes = len(np.unique(y))
            chosen = balanced_subset(_compact(y), caps[number], num_classes, np.random.default_rng([seed, number]))
            arrays += [resize_all(raw[f"x_{split}"][chosen], resolution), y[chosen]]
        if arrays[0].shape[1:] != arrays[2].shape[1:]:
            raise DataError("must have as many channels as x_train", place="x_val", value=raw["x_val"].shape)
    return tuple(str(label) for label in known.tolist()), arrays


def _read_npz(path: Path) -> dict[str, Any]:
    keys = ("x_train", "y_train", "x_val", "y_val")
    with reading(path, "not a readable .npz"), ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        if not zipfile.is_zipfile(stream):
            raise DataError("not a readable .npz archive of named arrays")
        stream.seek(0)
        archive = np.load(stream, allow_pickle=False)
        stack.enter_context(archive)
        for key in keys:
            if key not in archive.files:
                raise DataError(f"is missing; a .npz needs {', '.join(keys)}", place=key)
        raw = {}
        for key in keys:
            with reading(path, "cannot be read", place=key):
                raw[key] = archive[key]
    for split in ("train", "val"):
        x, y = raw[f"x_{split}"], raw[f"y_{split}"]
        if x.dtype != np.uint8:
            raise DataError("must be uint8", place=f"x_{split}", value=str(x.dtype))
        if x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape:
            raise DataError("must be [N, H, W, C], N of 1 or more and C of 1 or 3", place=f"x_{split}", value=x.shape)
        if y.dtype.kind not in "iu":
            raise DataError("must be whole numbers", place=f"y_{split}", value=str(y.dtype))
        if y.shape != x.shape[:1]:
            raise DataError(f"must be one label an image, [{len(x)}]", place=f"y_{split}", value=y.shape)
    return raw


def _compact(labels: Labels) -> Labels:
    """The labels renumbered without gaps: a validation set may lack a class."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        error.file = error.file or path_text(file)
        raise


def _dataset(name: str, class_names: Sequence[str], *arrays: Any) -> Dataset:
    x_train, y_train, x_val, y_val = (np.ascontiguousarray(array) for array in arrays)
    digest = hashlib.sha256("\0".join(class_names).encode())
    for array in (x_train, y_train, x_val, y_val):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    leaked = count_leaked(x_train, x_val)
    return Dataset(
        name=name,
        class_names=tuple(class_names),
        x_train=x_train,
        y_train=y_train,
        x_val=x_val,
        y_val=y_val,
        fingerprint=digest.hexdigest(),
        leaked=leaked,
        notes=(_leak_note(leaked, len(x_val)),) if leaked else (),
    )


def _leak_note(leaked: int, total: int) -> str:
    return (
        f"{leaked} of {total} validation images stand in the training set too, pixel for pixel: the accuracies are"
        " flattered by what was seen in training"
    )
