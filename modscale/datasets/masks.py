"""Images and their masks in folders, in ADE20K's layout: a PNG for each image, the number of a class in each pixel.

`images/training/NAME.jpg` and `annotations/training/NAME.png`, and the same of `validation`. In a mask 0 is a pixel
that nobody has labelled and 1 to K are the classes; or, where zero is not reduced, 0 to K - 1 are. 255 is never
learnt. How many classes there are, and what they are called, stands in `classes.txt`, a name a line, or in ADE20K's own
`objectInfo150.txt`; without either, all numbers from 1 to the highest one must occur.

Every mask is looked through before anything is learnt, so that a broken one is no surprise in the second night.

Shapes: H x W pixels of an image, R the asked side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from modscale.datasets.folders import entries_of
from modscale.datasets.images import (
    Images,
    image_size,
    quiet_pillow,
    read_image,
    read_numbers,
    read_whole_image,
    reading,
)
from modscale.datasets.labelled import some
from modscale.datasets.scenes import IGNORED, Masks
from modscale.errors import DataError, printable
from modscale.files import path_text
from modscale.kinds import IMAGE_SUFFIXES
from modscale.machine import available_cores

LAYOUT = "a folder holds images/training, images/validation, annotations/training and annotations/validation"
SPLITS = ("training", "validation")
NAMES_FILE = "classes.txt"
ADE_FILE = "objectInfo150.txt"
VOID = 255
"""In a mask, a pixel that is never learnt."""
MOST_CLASSES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedImages:
    """The images of a folder, known and not yet decoded; their masks looked through."""

    name: str
    """That of the folder."""
    class_names: tuple[str, ...]
    """K of them, in the order of the logits."""
    train: tuple[Pair, ...]
    """To learn from."""
    val: tuple[Pair, ...]
    """Held out."""
    reduce_zero: bool
    """Whether 0 is no class, and class k has the number k + 1."""
    notes: tuple[str, ...]
    """What the user should know of these data, a line each."""

    def read(self, pair: Pair, side: int) -> tuple[Images, Masks]:
        """The whole image [H, W, 3], its shorter side at `side`, and its mask [H, W]. Raises DataError."""
        with quiet_pillow():
            image = read_whole_image(pair.image, side)
        return image, resize_mask(self.classes_of(pair), image.shape[:2])

    def read_square(self, pair: Pair, resolution: int) -> tuple[Images, Masks]:
        """The centre square of an image [R, R, 3], and of its mask [R, R]. Raises DataError."""
        with quiet_pillow():
            image = read_image(pair.image, resolution)
        return image, resize_mask(centre_of(self.classes_of(pair)), (resolution, resolution))

    def classes_of(self, pair: Pair) -> Masks:
        """The mask as it stands [H, W]: 0 to K - 1, or `IGNORED`."""
        return to_classes(read_numbers(pair.mask), reduce_zero=self.reduce_zero)


def to_classes(numbers: np.ndarray, *, reduce_zero: bool) -> Masks:
    """A mask's numbers as indices of classes, of any shape."""
    classes = numbers - 1 if reduce_zero else numbers.copy()
    classes[(numbers == VOID) | (classes < 0)] = IGNORED
    return classes.astype(np.int16)


def resize_mask(mask: Masks, size: tuple[int, ...]) -> Masks:
    """[H, W] at another size: each pixel that of the nearest one."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)  # in whole numbers: no middle is rounded to the wrong side
        for new, old in zip(size, mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[rows[:, None], columns[None, :]])


def centre_of(mask: Masks) -> Masks:
    """The centre square of [H, W]; of two middles the first."""
    side = min(mask.shape)
    top, left = ((length - side) // 2 for length in mask.shape)
    return mask[top : top + side, left : left + side]


def open_masks(source: str, *, reduce_zero: bool) -> MaskedImages:
    """The images and masks of a folder.

    Raises:
        DataError: with the file or folder, the rule and the value: a folder or a mask is missing, a mask is of another
            size than its image, or has a number that is no class.
    """
    root = Path(source)
    with reading(root):
        if not root.is_dir():
            raise DataError(f"must be `synthetic` or a folder; {LAYOUT}", file=path_text(root))
        kids = [entry for entry in entries_of(None, root) if entry.is_dir()]
        if len(kids) == 1 and kids[0].name not in ("images", "annotations"):
            root = kids[0]
        if kids and not any((root / kind).is_dir() for kind in ("images", "annotations")):
            rule = f"has neither images/ nor annotations/; {LAYOUT}; images by class are for task: classification"
            raise DataError(rule, file=path_text(root))
    pairs = {split: _pairs(root, split) for split in SPLITS}
    names, where = _class_names(root)
    seen = {split: _look_through(pairs[split], names, where, reduce_zero) for split in SPLITS}
    names = names or _numbered(root, seen, reduce_zero)
    absent = [name for number, name in enumerate(names) if number not in seen["training"]]
    notes = [f"no training mask has {len(absent)} of the {len(names)} classes: {some(absent)}"] if absent else []
    strange = [names[number] for number in sorted(seen["validation"].keys() - seen["training"].keys())]
    if strange:
        notes.append(
            f"{len(strange)} of them stand in validation masks, where they can only be missed: {some(strange)}"
        )
    if len(names) < 2:
        raise DataError("needs at least two classes", file=path_text(root), value=list(names))
    return MaskedImages(
        name=path_text(Path(source).resolve().name),
        class_names=names,
        train=tuple(pairs["training"]),
        val=tuple(pairs["validation"]),
        reduce_zero=reduce_zero,
        notes=tuple(notes),
    )


def _pairs(root: Path, split: str) -> list[Pair]:
    """Each image of a split with its mask, in the order of their names."""
    images, masks = (_by_stem(root / kind / split, suffixes) for kind, suffixes in (
        ("images", IMAGE_SUFFIXES), ("annotations", frozenset({".png"})),
    ))  # fmt: skip
    if not images:
        raise DataError("holds no image", file=path_text(root / "images" / split))
    for stem, file in images.items():
        if stem not in masks:
            rule = f"has no mask annotations/{split}/{path_text(stem)}.png"
            raise DataError(rule, file=path_text(file))
    for stem, file in masks.items():
        if stem not in images:
            raise DataError(f"is the mask of no image in images/{split}", file=path_text(file))
    return [Pair(image=file, mask=masks[stem]) for stem, file in images.items()]


def _by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"there is no such folder; {LAYOUT}", file=path_text(folder))
    files: dict[str, Path] = {}
    for entry in entries_of(None, folder):
        if entry.suffix.lower() not in suffixes:
            wanted = "masks are .png" if tuple(suffixes) == (".png",) else "not an image, by its name"
            raise DataError(wanted, file=path_text(entry))
        if entry.stem in files:
            raise DataError(f"bears the name of {path_text(files[entry.stem].name)}", file=path_text(entry))
        files[entry.stem] = entry
    return files


def _class_names(root: Path) -> tuple[tuple[str, ...], str]:
    """The names that a file of the folder has, and which file; none where there is none."""
    for file, column in ((root / NAMES_FILE, 0), (root / ADE_FILE, -1)):
        if file.is_file():
            with reading(file):
                lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            lines = lines[1:] if column else lines  # ADE20K's has a line of titles
            names = tuple(printable(line.split("\t")[column].strip()) for line in lines)
            if not 2 <= len(names) <= MOST_CLASSES:
                raise DataError(
                    f"must have 2 to {MOST_CLASSES} names, one a line", file=path_text(file), value=len(names)
                )
            return names, file.name
    return (), ""


def _look_through(pairs: list[Pair], names: tuple[str, ...], where: str, reduce_zero: bool) -> Mapping[int, Path]:
    """The classes that the masks have, each with a file that has it."""
    look: Callable[[Pair], list[int]] = partial(_classes_in, names=names, where=where, reduce_zero=reduce_zero)
    seen: dict[int, Path] = {}
    with quiet_pillow(), ThreadPoolExecutor(max_workers=min(8, available_cores())) as pool:
        for pair, classes in zip(pairs, pool.map(look, pairs), strict=True):
            for one in classes:
                seen.setdefault(one, pair.mask)
    if not seen:
        raise DataError("has no labelled pixel in any mask", file=path_text(pairs[0].mask.parent))
    return seen


def _classes_in(pair: Pair, names: tuple[str, ...], where: str, reduce_zero: bool) -> list[int]:
    numbers = read_numbers(pair.mask)
    (width, height), (rows, columns) = image_size(pair.image), numbers.shape
    if (columns, rows) != (width, height):
        rule = f"must be of its image's size, {width}x{height}"
        raise DataError(rule, file=path_text(pair.mask), value=f"{columns}x{rows}")
    found = np.unique(numbers)
    first = int(reduce_zero)
    most = len(names) - 1 + first if names else MOST_CLASSES
    wrong = [number for number in found.tolist() if number != VOID and not 0 <= number <= most]
    if wrong:
        what = f"{most} ({where} has {len(names)} classes)" if names else str(most)
        rule = f"must have numbers from 0 to {what}, or {VOID} where nothing is labelled"
        raise DataError(rule, file=path_text(pair.mask), value=wrong[0])
    classes = to_classes(found, reduce_zero=reduce_zero)
    return [int(one) for one in classes if one != IGNORED]


def _numbered(root: Path, seen: Mapping[str, Mapping[int, Path]], reduce_zero: bool) -> tuple[str, ...]:
    """Names for classes that no file names: their numbers, of which none may be left out."""
    known, first = seen["training"], int(reduce_zero)
    highest = max(known)
    absent = [number for number in range(highest) if number not in known]
    remedy = f"{NAMES_FILE} in {path_text(root)}, a name a line, says which classes there are"
    if absent:
        rule = f"has the number {highest + first}, while {absent[0] + first} stands in no training mask: {remedy}"
        raise DataError(rule, file=path_text(known[highest]))
    strange = max(seen["validation"])
    if strange > highest:
        rule = f"must have no number above those of the training masks, {highest + first}: {remedy}"
        raise DataError(rule, file=path_text(seen["validation"][strange]), value=strange + first)
    return tuple(str(number + first) for number in range(highest + 1))
