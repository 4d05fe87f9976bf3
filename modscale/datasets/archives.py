"""Images and labels in a `.npz`: the common names and layouts, read a block at a time.

What an archive holds is read from the headers of its arrays before any of their bytes is: a few megabytes can claim
gigabytes. The images then pass in blocks, and only those that were chosen are kept, at the size that was asked for.

Images are [N, H, W, C] with C of 1 or 3, or grey [N, H, W]: uint8, bool, whole numbers of more bits (`images.Levels`),
floats from 0 to 1, or floats that are whole numbers from 0 to 255. Labels are [N] or [N, 1]: whole numbers, bool, text;
or [N, K], a one in the column of the class and zeros beside it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modscale.datasets.images import MAX_PIXELS, Images, Levels, reading, resize_all
from modscale.datasets.labelled import (
    TEST,
    TRAIN,
    VAL,
    Indices,
    Labelled,
    Labels,
    choose_name,
    composed,
    guess,
    note_missing,
    some,
)
from modscale.errors import DataError, printable

FORMS = (
    ("x_{}", "y_{}"),
    ("{}_images", "{}_labels"),
    ("{}_x", "{}_y"),
    ("images_{}", "labels_{}"),
    ("{}_data", "{}_labels"),
)
"""How images and labels of a split are called, in any case."""
UNSPLIT = (("x", "y"), ("images", "labels"), ("data", "labels"), ("images", "target"), ("data", "target"))
"""How they are called where there is one split."""
NEEDED = "a .npz needs x_train, y_train, x_val, y_val"
SHAPE = "must be [N, H, W, C], N of 1 or more and C of 1 or 3, or grey [N, H, W]"
BLOCK_BYTES = 16_000_000
"""Images pass in blocks of about this size."""
WHOLE_BYTES = 1_000_000_000
"""At most this is taken into memory whole: labels, and images that are not stored one after the other."""
MOST_BYTES = 64_000_000_000
"""An archive that unpacks to more is refused."""
MOST_RATIO = 400
"""An archive of more than `BOMB_BYTES` that unpacks to this many times its size holds no images."""
BOMB_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """One array of an archive, as its header describes it."""

    key: str
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    in_columns: bool
    """Stored with the first index running fastest (Fortran's order)."""
    offset: int
    """Bytes of the header."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """How the values of all images become 0 to 255."""

    factor: int = 1
    """255 for floats from 0 to 1 and for bool."""
    levels: Levels | None = None
    """Of whole numbers of more than 8 bits."""

    def apply(self, values: npt.NDArray[Any]) -> Images:
        if self.levels is not None:
            return self.levels.to_8_bits(values)
        if values.dtype == np.uint8:
            return values
        return np.rint(values * np.float64(self.factor)).astype(np.uint8)


def open_archive(path: Path) -> Labelled:
    """The labelled images of a `.npz`: labels read, images described and not yet unpacked.

    Raises:
        DataError: with the array, the rule and the value.
    """
    with _opened(path) as archive:
        members = _wanted_members(archive)
        for x, y in members:
            _check_images(x)
            if y.shape[:1] != x.shape[:1] or len(y.shape) > 2 or 0 in y.shape:
                rule = f"must be one label an image, [{x.shape[0]}], or one-hot, [{x.shape[0]}, K]"
                raise DataError(rule, place=y.key, value=y.shape)
        images = [x for x, _ in members]
        if len({_channels(x) for x in images}) > 1:
            raise DataError("must have as many channels as x_train", place=images[1].key, value=images[1].shape)
        if len({x.dtype for x in images}) > 1:
            rule = f"must be of the type of {images[0].key}, {images[0].dtype}"
            raise DataError(rule, place=images[1].key, value=str(images[1].dtype))
        class_names, labels = _read_labels(archive, [y for _, y in members])
        left = sorted(_keys(archive) - {member.key for pair in members for member in pair})
    notes = [f"{images[1].key} is the validation set"] if len(images) > 1 and _is_test(images[1].key) else []
    notes += [f"left alone, for no name of theirs is known: {some(left)}"] if left and len(images) == 1 else []
    num_train = images[0].shape[0]
    if len(images) > 1:
        notes += note_missing(class_names, labels[num_train:])
    return Labelled(
        class_names=class_names,
        labels=labels,
        num_train=num_train,
        key=str,
        read=lambda chosen, resolution: _read_images(path, images, chosen, resolution),
        notes=tuple(notes),
    )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is wrong with it names the file."""
    with reading(path, "not a readable .npz"), path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise DataError("not a readable .npz archive of named arrays")
        with zipfile.ZipFile(stream) as archive:
            yield archive


def _keys(archive: zipfile.ZipFile) -> set[str]:
    return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


def _is_test(key: str) -> bool:
    return any(key.casefold() == form[0].format(word) for form in FORMS for word in TEST)


def _wanted_members(archive: zipfile.ZipFile) -> list[tuple[_Member, _Member]]:
    """Images and labels of the training set, then of the validation set where there is one."""
    keys = _keys(archive)
    train = _find_pair(keys, TRAIN, "training set")
    val = _find_pair(keys, VAL, "validation set") or _find_pair(keys, TEST, "validation set")
    if train is None and val is None:
        pairs = [(x, y) for x, y in UNSPLIT if {x, y} <= keys]
        train = pairs[0] if len(pairs) == 1 else None
    if train is None:
        raise DataError(f"is missing; {NEEDED}; this one holds {some(sorted(keys)) or 'no array'}", place="x_train")
    members = [
        (_read_header(archive, x), _read_header(archive, y)) for x, y in ((train,) if val is None else (train, val))
    ]
    total = sum(x.bytes + y.bytes for x, y in members)
    packed = sum(x.info.compress_size + y.info.compress_size for x, y in members)
    if total > MOST_BYTES:
        raise DataError(f"unpacks to {total} bytes; at most {MOST_BYTES} are read")
    if total > BOMB_BYTES and total > MOST_RATIO * packed:
        rule = f"a decompression bomb: {packed} bytes unpack to {total}, more than {MOST_RATIO} times as many"
        raise DataError(rule)
    return members


def _find_pair(keys: set[str], words: Sequence[str], what: str) -> tuple[str, str] | None:
    """The names of a split's images and labels."""
    named = {form[0].format(word): form[1].format(word) for form in FORMS for word in words}
    images = choose_name(keys, tuple(named), what=f"images of the {what}")
    if images is None:
        return None
    label = named[images.casefold()]
    labels = choose_name(keys, (label,), what=f"labels of the {what}")
    if labels is None:
        raise DataError(f"is missing; {NEEDED}", place=label)
    return images, labels


def _read_header(archive: zipfile.ZipFile, key: str) -> _Member:
    infos = [info for info in archive.infolist() if info.filename == f"{key}.npy"]
    if len(infos) != 1:
        raise DataError(f"stands {len(infos)} times in the archive", place=key)
    with reading(None, "cannot be read", place=key), archive.open(infos[0]) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError("cannot be read: a version of .npy for arrays of records", place=key, value=version)
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise DataError("cannot be read: it holds Python objects, and reading those runs code", place=key)
    if min(shape, default=0) < 0:
        raise DataError("cannot be read: a negative length", place=key, value=shape)
    member = _Member(key=key, info=infos[0], shape=shape, dtype=dtype, in_columns=in_columns, offset=offset)
    if offset + member.bytes != infos[0].file_size:
        rule = f"cannot be read: its header promises {member.bytes} bytes, the archive {infos[0].file_size - offset}"
        raise DataError(rule, place=key)
    return member


def _check_images(x: _Member) -> None:
    if x.dtype.kind not in "biuf":
        rule = "must be uint8, whole numbers of more bits, or floats from 0 to 1"
        raise DataError(rule, place=x.key, value=str(x.dtype))
    if len(x.shape) == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        rule = "must be [N, H, W, C], and seems to be [N, C, H, W]: `x.transpose(0, 2, 3, 1)` turns it"
        raise DataError(rule, place=x.key, value=x.shape)
    if len(x.shape) not in (3, 4) or _channels(x) not in (1, 3) or 0 in x.shape:
        raise DataError(SHAPE, place=x.key, value=x.shape)
    if x.shape[1] * x.shape[2] > MAX_PIXELS:
        raise DataError(f"must have at most {MAX_PIXELS} pixels an image", place=x.key, value=x.shape)
    if x.in_columns and x.bytes > WHOLE_BYTES:
        rule = "stored in Fortran's order, which is read whole and up to 1 GB; save `numpy.ascontiguousarray(x)`"
        raise DataError(rule, place=x.key, value=x.shape)


def _channels(x: _Member) -> int:
    return x.shape[3] if len(x.shape) == 4 else 1


def _read_labels(archive: zipfile.ZipFile, members: Sequence[_Member]) -> tuple[tuple[str, ...], Labels]:
    """The names of the classes, and the labels of all members one after the other, 0 to K - 1."""
    values = [_label_values(archive, member) for member in members]
    if len({array.dtype.kind == "U" for array in values}) > 1:
        rule = f"must be text or numbers as {members[0].key} is"
        raise DataError(rule, place=members[1].key, value=str(members[1].dtype))
    known = np.unique(values[0])
    names = tuple(printable(str(label)) for label in known.tolist())
    if len(known) < 2:
        raise DataError("needs at least two classes", place=members[0].key, value=known.tolist())
    for array, member in zip(values[1:], members[1:], strict=True):
        strangers = np.setdiff1d(array, known)
        if len(strangers):
            near = guess(str(strangers[0]), names) if array.dtype.kind == "U" else ""
            rule = f"has a label that y_train has not{near}"
            raise DataError(rule, place=member.key, value=strangers[0].item())
    return names, np.concatenate([np.searchsorted(known, array) for array in values]).astype(np.int64)


def _label_values(archive: zipfile.ZipFile, member: _Member) -> npt.NDArray[Any]:
    """[N] whole numbers, bool, or text in Unicode's composed form."""
    kind = member.dtype.kind
    if kind not in "biufSU":
        raise DataError("must be whole numbers or text", place=member.key, value=str(member.dtype))
    if member.bytes > WHOLE_BYTES:
        raise DataError(f"takes {member.bytes} bytes; labels may take {WHOLE_BYTES}", place=member.key)
    values = np.concatenate([block for _, block in _blocks(archive, member)])
    if member.shape[1:] not in ((), (1,)):
        return _from_one_hot(values, member)
    values = values.reshape(-1)
    if kind == "f":
        if not np.array_equal(values, np.rint(values)) or not np.isfinite(values).all():
            raise DataError("must be whole numbers or text", place=member.key, value=str(member.dtype))
        return values.astype(np.int64)
    if kind in "SU":
        known, inverse = np.unique(values, return_inverse=True)
        with reading(None, "must be text in UTF-8", place=member.key):
            texts = [text.decode() if isinstance(text, bytes) else text for text in known.tolist()]
        return np.array([composed(text) for text in texts])[inverse]
    return values


def _from_one_hot(values: npt.NDArray[Any], member: _Member) -> Labels:
    """[N] the column of the one in each row of `values` [N, K]."""
    is_hot = member.dtype.kind in "biuf" and ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
    if not is_hot:
        rule = "of several columns must be one-hot: in each row a single 1, and zeros"
        raise DataError(rule, place=member.key, value=member.shape)
    return values.argmax(axis=1).astype(np.int64)


def _read_images(path: Path, members: Sequence[_Member], chosen: Indices, resolution: int) -> tuple[Images, list[str]]:
    """The chosen images [n, R, R, C], of all members one after the other, and what is to be told of their values."""
    x = np.empty((len(chosen), resolution, resolution, _channels(members[0])), dtype=np.uint8)
    order = np.argsort(chosen)
    rows = chosen[order]
    with _opened(path) as archive:
        scale, notes = _find_scale(archive, members)
        offset = 0
        for member in members:
            for first, block in _blocks(archive, member):
                ends = (offset + first, offset + first + len(block))
                low, high = np.searchsorted(rows, ends)
                if low < high:
                    kept = scale.apply(block[rows[low:high] - ends[0]])
                    x[order[low:high]] = resize_all(kept.reshape(*kept.shape[:3], x.shape[3]), resolution)
            offset += member.shape[0]
    return x, notes


def _find_scale(archive: zipfile.ZipFile, members: Sequence[_Member]) -> tuple[_Scale, list[str]]:
    """How values become 0 to 255, from those of all images, and a note on it."""
    dtype = members[0].dtype
    if dtype == np.uint8:
        return _Scale(), []
    if dtype.kind == "b":
        return _Scale(factor=255), []
    lows, highs, all_whole = [], [], True
    for member in members:
        for _, block in _blocks(archive, member):
            lows.append(block.min())
            highs.append(block.max())
            all_whole = all_whole and (dtype.kind != "f" or bool((block == np.rint(block)).all()))
    low, high = min(lows), max(highs)
    if dtype.kind != "f":
        levels = Levels(low=int(low), high=int(high))
        return _Scale(levels=levels), [f"the images are {dtype}: {levels.describe()}"]
    if not np.isnan([*lows, *highs]).any() and low >= 0:
        if high <= 1:
            return _Scale(factor=255), [f"the images are {dtype} from 0 to 1, taken times 255"]
        if high <= 255 and all_whole:
            return _Scale(), []
    rule = "floats must lie from 0 to 1, or be whole numbers from 0 to 255"
    raise DataError(rule, place=members[0].key, value=f"{low:g} to {high:g}")


def _blocks(archive: zipfile.ZipFile, member: _Member) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The rows of an array in blocks, each with the number of its first row."""
    with reading(None, "cannot be read", place=member.key), archive.open(member.info) as stream:
        _read_exactly(stream, member.offset)
        count = member.shape[0]
        if member.in_columns:
            raw = _read_exactly(stream, member.bytes)
            yield 0, np.frombuffer(raw, dtype=member.dtype).reshape(member.shape, order="F")
            return
        row_bytes = max(1, prod(member.shape[1:]) * member.dtype.itemsize)
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, count, step):
            number = min(step, count - first)
            raw = _read_exactly(stream, number * prod(member.shape[1:]) * member.dtype.itemsize)
            yield first, np.frombuffer(raw, dtype=member.dtype).reshape(number, *member.shape[1:])


def _read_exactly(stream: Any, number: int) -> bytes:
    data: bytes = stream.read(number)
    if len(data) < number:
        raise EOFError("it ends early")
    return data
