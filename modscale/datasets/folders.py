"""Images in folders: ImageNet's layout and its near relatives, found without a guess or refused with what is there.

`train/CLASS/*` and `val/CLASS/*`, or `valid/`, `validation/`, and `test/` where there is neither; the whole one or two
folders deeper; `train/` alone or class folders alone, from which `dataset.py` sets images aside for validation.

Files that systems leave (`LITTER`) and names that start with a dot are passed over and counted. Any other file in a
class that is no readable image is an error, because silently fewer images is a different task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modscale.datasets.images import Images, Levels, is_image, quiet_pillow, read_image, reading
from modscale.datasets.labelled import (
    TEST,
    TRAIN,
    VAL,
    Indices,
    Labelled,
    choose_name,
    composed,
    guess,
    note_counts,
    note_missing,
    some,
    within,
)
from modscale.errors import DataError
from modscale.files import path_text
from modscale.kinds import IMAGE_SUFFIXES
from modscale.machine import available_cores

LAYOUT = "a folder holds train/CLASS/* and val/CLASS/*, or CLASS/* alone"
LITTER = frozenset({
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.ini", "$recycle.bin",
    "system volume information", "icon\r", "icon\uf00d", "__macosx", "network trash folder", "temporary items",
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found", "zbthumbnail.info",
    "picasa.ini", "__pycache__", "lost.dir", "found.000", "recycler", "sync.ffs_db",
})  # fmt: skip
"""Names, in small letters, that Windows, macOS, Android, file servers and viewers leave in folders of images."""
LITTER_ENDS = (":zone.identifier", ":encryptable", "@synoresource", "@synoeastream")
"""How the names of streams end that were beside a file elsewhere and became files of their own on a copy."""
EMPTY_VAL = "without this folder, a seeded share of the training images is set aside for validation"
DECODE_ALL_BYTES = 128_000_000
"""A folder up to this size is decoded whole, so that a broken file is found even where a subset leaves it out."""
DEEPEST = 2
"""Folders that may lie around the data."""


@dataclass(kw_only=True, slots=True)
class _Found:
    """What is learnt on the way through the folders."""

    root: Path
    train: Path | None = None
    val: Path | None = None
    notes: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    loose: Counter[str] = field(default_factory=Counter)


def open_folder(root: Path, *, may_split: bool) -> Labelled:
    """The labelled images of a folder, known by name and not yet decoded.

    `may_split`: the user said that training images may be set aside, so `train/` alone is enough whatever is beside it.

    Raises:
        DataError: with the file or folder, the rule and what is there instead.
    """
    found = _find_splits(root, may_split=may_split)
    assert found.train is not None  # noqa: S101  # or it would have been refused
    train = _class_folders(found, found.train)
    if found.val is not None and not entries_of(None, found.val):
        raise DataError(f"is empty; {EMPTY_VAL}", file=path_text(found.val))
    val = {} if found.val is None else _class_folders(found, found.val)
    if len(train) < 2:
        names = sorted(folder.name for folder in train.values())
        raise DataError("needs at least two classes", file=path_text(found.train), value=names)
    for name in sorted(set(val) - set(train)):
        near = guess(name, (folder.name for folder in train.values()))
        raise DataError(f"has no folder of that name in {found.train.name}/{near}", file=path_text(val[name]))
    files: list[Path] = []
    labels: list[int] = []
    order = sorted(train.values(), key=lambda folder: folder.name)
    for split in (train, val):
        for label, folder in enumerate(order):
            here = split.get(composed(folder.name))
            images = [] if here is None else _image_files(found, here)
            if split is train and not images:
                raise DataError("a class without images", file=path_text(folder))
            files += images
            labels += [label] * len(images)
        if split is train:
            num_train = len(files)
    if found.val is not None and len(files) == num_train:
        raise DataError(f"holds no image; {EMPTY_VAL}", file=path_text(found.val))
    y = np.array(labels, dtype=np.int64)
    class_names = tuple(path_text(folder.name) for folder in order)
    notes = [*found.notes, *note_counts("what systems leave in folders", found.passed)]
    notes += note_counts("what lies outside of the class folders and is no image", found.loose)
    if found.val is not None:
        notes += note_missing(class_names, y[num_train:])
    return Labelled(
        class_names=class_names,
        labels=y,
        num_train=num_train,
        key=lambda index: f"{class_names[y[index]]}/{composed(files[index].name)}",
        read=lambda chosen, resolution: _decode(files, num_train, chosen, resolution),
        notes=tuple(notes),
        read_one=lambda index, resolution: _read_one(files[index], resolution),
        describe=lambda index: _describe(files[index]),
    )


def _find_splits(root: Path, *, may_split: bool) -> _Found:
    """Where the training and the validation images lie below `root`."""
    _refuse_masks(root)
    found = _Found(root=_unwrap(root))
    if found.root != root:
        found.notes.append(f"the data lie in {within(found.root, root)}/")
    kids = {kid.name: kid for kid in _folders(found, found.root)}
    shown = path_text(found.root)
    with reading(found.root):
        train = choose_name(kids, TRAIN, what="training set")
        val = choose_name(kids, VAL, what="validation set") or choose_name(kids, TEST, what="validation set")
    if train is None:
        odd = _odd_class(list(kids.values()))
        if val is not None or odd is not None:
            reason = f", and {odd}" if odd and val is None else ""
            raise DataError(
                f"has no folder train/{reason}; {LAYOUT}; this one holds {_contents(found.root)}", file=shown
            )
        found.train = found.root
        found.notes.append(f"no train/ and no val/: the {len(kids)} folders of {shown} are the classes")
        return found
    found.train = kids[train]
    beside = sum(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries_of(None, found.root) if entry.is_file())
    if beside:
        number = "1 image that lies" if beside == 1 else f"{beside} images that lie"
        found.notes.append(f"passed over {number} beside {train}/, in no class")
    if val is not None:
        found.val = kids[val]
        if val != VAL[0]:
            found.notes.append(f"no val/: {val}/ is the validation set")
    elif len(kids) > 1 and not may_split:
        rule = f"has no folder val/; {LAYOUT}; this one holds {_contents(found.root)}"
        raise DataError(f"{rule}; `proxy: {{val_split: 0.1}}` sets a tenth of train/ aside instead", file=shown)
    return found


def _refuse_masks(root: Path) -> None:
    """Raises DataError for ADE20K's layout, in which no folder is a class."""
    kids = _folders(None, root)
    for folder in (root, kids[0]) if len(kids) == 1 else (root,):
        if all((folder / kind / "training").is_dir() for kind in ("images", "annotations")):
            rule = "holds images and a mask for each, as task: segmentation takes them, and no folders of classes"
            raise DataError(rule, file=path_text(folder))


def _unwrap(root: Path) -> Path:
    """The folder that holds the data, `root` itself or the only one below it that could."""
    for _ in range(DEEPEST):
        kids = _folders(None, root)
        if any(kid.name.casefold() in (*TRAIN, *VAL, *TEST) for kid in kids):
            return root
        data = [kid for kid in kids if any(inner.name.casefold() in TRAIN for inner in _folders(None, kid))]
        if len(data) > 1:
            names = some([f"{kid.name}/" for kid in data])
            raise DataError(f"holds {len(data)} data sets ({names}); give one of them", file=path_text(root))
        if data:
            return data[0]
        if len(kids) != 1 or _odd_class(kids) is None:
            return root
        root = kids[0]
    return root


def _folders(found: _Found | None, folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names."""
    with reading(folder):
        return [entry for entry in entries_of(found, folder) if entry.is_dir()]


def entries_of(found: _Found | None, folder: Path) -> list[Path]:
    """What a folder holds, in the order of the names, without what systems leave there; that is counted in `found`."""
    kept = []
    with reading(folder):
        for entry in sorted(folder.iterdir()):
            name = entry.name.casefold()
            if not (name.startswith(".") or name in LITTER or name.endswith(LITTER_ENDS)):
                kept.append(entry)
            elif found is not None:
                found.passed[path_text(entry.name)] += 1
    return kept


def _odd_class(folders: Sequence[Path]) -> str | None:
    """Which of the folders is no class, and why; None where each, at least one, holds images and no folder."""
    for folder in folders:
        entries = entries_of(None, folder)
        inner = next((entry for entry in entries if not entry.is_file()), None)
        name = path_text(folder.name)
        if not entries:
            return f"{name}/ holds no image"
        if inner is not None:
            return f"{name}/ holds {path_text(inner.name)}/, where images of one class would lie"
        if not is_image(entries[0]):
            return f"{name}/{path_text(entries[0].name)} is no image that is read here"
    return None if folders else ""


def _contents(folder: Path) -> str:
    """As in `a/, b/ and 3 files`."""
    entries = entries_of(None, folder)
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    number = len(entries) - len(folders)
    files = f"{number} file{'' if number == 1 else 's'}" if number else ""
    return " and ".join(part for part in (some(folders), files) if part) or "nothing"


def _class_folders(found: _Found, split: Path) -> dict[str, Path]:
    """Composed class name to its folder."""
    classes: dict[str, Path] = {}
    loose = []
    # what lies in the root itself was counted when the splits were looked for
    for entry in entries_of(None if split == found.root else found, split):
        if entry.is_dir():
            other = classes.setdefault(composed(entry.name), entry)
            if other is not entry:
                rule = "two folders of this name, in two forms of Unicode; put their images into one"
                raise DataError(rule, file=path_text(entry))
        elif entry.suffix.lower() in IMAGE_SUFFIXES or (entry.is_file() and is_image(entry)):
            loose.append(entry)
        else:
            found.loose[within(entry, found.root)] += 1
    if loose and classes:
        number = "an image lies" if len(loose) == 1 else f"{len(loose)} images lie"
        rule = f"{number} outside of the class folders; each must lie in the folder of its class"
        raise DataError(rule, file=path_text(loose[0]))
    if not classes:
        images = f", only {len(loose)} image{'' if len(loose) == 1 else 's'}" if loose else ""
        raise DataError(f"holds no class{images}: each class is a folder of its own", file=path_text(split))
    return classes


def _image_files(found: _Found, folder: Path) -> list[Path]:
    files = entries_of(found, folder)
    with reading(folder):
        for file in files:
            name = path_text(file)
            if file.is_dir():
                raise DataError("a folder inside a class; its images must lie in the class's folder", file=name)
            if file.exists() and not file.is_file():  # a pipe might never end
                raise DataError("must be a plain file", file=name)
    return files


def _decode(files: Sequence[Path], num_train: int, chosen: Indices, resolution: int) -> tuple[Images, list[str]]:
    """The chosen images [N, R, R, 3], the others only looked at where the whole set is small."""
    x = np.empty((len(chosen), resolution, resolution, 3), dtype=np.uint8)
    row = {int(index): i for i, index in enumerate(chosen)}
    levels: dict[int, Levels] = {}

    def fill(index: int) -> None:
        image = read_image(files[index], resolution, found=lambda own: levels.update({index: own}))
        if index in row:
            x[row[index]] = image

    def fill_again(index: int) -> None:
        x[row[index]] = read_image(files[index], resolution, joined)

    wanted: list[int] = []
    for part in (range(num_train), range(num_train, len(files))):
        wanted += part if _is_small([files[i] for i in part]) else [i for i in part if i in row]
    with quiet_pillow(), ThreadPoolExecutor(max_workers=min(8, available_cores())) as pool:
        for _ in pool.map(fill, wanted, chunksize=1):
            pass
        if not levels:
            return x, []
        joined = Levels(low=min(own.low for own in levels.values()), high=max(own.high for own in levels.values()))
        others = [index for index, own in levels.items() if index in row and not own.same_scale(joined)]
        for _ in pool.map(fill_again, others, chunksize=1):
            pass
    return x, [f"{len(levels)} images have more than 8 bits a pixel: {joined.describe()}"]


def _read_one(file: Path, resolution: int) -> Images:
    """One image [R, R, 3]. Raises DataError for one of more than 8 bits, whose scale is that of all of them."""

    def refuse(levels: Levels) -> None:
        rule = "has more than 8 bits a pixel, whose range must be known over the whole data set, and that is too large"
        raise DataError(f"{rule} to be read at once; convert the images to 8 bits", file=path_text(file))

    return read_image(file, resolution, found=refuse)


def _describe(file: Path) -> str:
    with reading(file):
        status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _is_small(files: Sequence[Path]) -> bool:
    total = 0
    for file in files:
        with reading(file):
            total += file.stat().st_size
        if total > DECODE_ALL_BYTES:
            return False
    return True
