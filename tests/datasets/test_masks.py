"""Folders of images and masks: ADE20K's layout read by rules, and what breaks them refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from masked_folders import SIZE, furnish, write_mask
from PIL import Image

from modscale.datasets.masks import open_masks, resize_mask, to_classes
from modscale.errors import DataError


def test_a_mask_has_the_classes_of_its_image(tmp_path: Path) -> None:
    """At the image's own size each pixel's red tells its class; 0 is unlabelled; a palette's numbers count."""
    found = open_masks(str(furnish(tmp_path)), reduce_zero=True)
    assert found.class_names == ("1", "2", "3")
    assert (len(found.train), len(found.val)) == (3, 2)
    for pair in (*found.train, *found.val):
        image, mask = found.read(pair, SIZE[1])
        assert image.shape == (SIZE[1], SIZE[0], 3)
        np.testing.assert_array_equal(mask, image[..., 0].astype(int) // 50 - 1)


def test_zero_is_a_class_where_it_is_not_reduced(tmp_path: Path) -> None:
    """Then 0 to K - 1 are the classes, and 255 alone is unlabelled."""
    found = open_masks(str(furnish(tmp_path)), reduce_zero=False)
    assert found.class_names == ("0", "1", "2", "3")
    image, mask = found.read(found.train[0], SIZE[1])
    np.testing.assert_array_equal(mask, image[..., 0].astype(int) // 50)
    assert to_classes(np.array([0, 1, 255]), reduce_zero=False).tolist() == [0, 1, -1]
    assert to_classes(np.array([0, 1, 255]), reduce_zero=True).tolist() == [-1, 0, -1]


def test_the_centre_square_is_that_of_the_image(tmp_path: Path) -> None:
    """Of 24 x 16 pixels the middle 16 columns."""
    found = open_masks(str(furnish(tmp_path)), reduce_zero=True)
    image, mask = found.read_square(found.val[0], SIZE[1])
    whole = found.classes_of(found.val[0])
    np.testing.assert_array_equal(mask, whole[:, 4:20])
    np.testing.assert_array_equal(image[..., 0].astype(int) // 50 - 1, mask)


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (33, 50), (7, 5)])
def test_masks_are_resized_as_pillow_does_to_the_nearest_pixel(size: tuple[int, int]) -> None:
    """Smaller, larger and by odd shares, of odd sides: no pixel lies between two."""
    mask = np.random.default_rng(1).integers(-1, 100, (15, 23)).astype(np.int16)
    pillow = Image.fromarray(mask.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_mask(mask, size), np.asarray(pillow))


def test_names_of_classes_stand_in_a_file(tmp_path: Path) -> None:
    """`classes.txt`, or ADE20K's own table; a class that no mask has is told."""
    furnish(tmp_path)
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(f"{i}\t0.1\t1\t1\t1\tthing {i}, stuff\n" for i in range(1, 5))
    )
    found = open_masks(str(tmp_path), reduce_zero=True)
    assert found.class_names == tuple(f"thing {i}, stuff" for i in range(1, 5))
    assert found.notes == ("no training mask has 1 of the 4 classes: thing 4, stuff",)
    (tmp_path / "classes.txt").write_text("sky\ntree\n\nroad\n")
    assert open_masks(str(tmp_path), reduce_zero=True).class_names == ("sky", "tree", "road")


def replace_mask(change: Callable[[np.ndarray], np.ndarray], split: str = "training") -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / "annotations" / split / "0.png"
        write_mask(file, change(np.asarray(Image.open(file))))

    return apply


def one_pixel(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(numbers: np.ndarray) -> np.ndarray:
        numbers = numbers.copy()
        numbers[2, 3] = value
        return numbers

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (
        replace_mask(lambda numbers: numbers[:, 1:]),
        r"annotations/training/0\.png: must be of its image's size, 24x16, got '23x16'",
    ),
    "out of range": (
        lambda root: ((root / "classes.txt").write_text("a\nb\nc\n"), replace_mask(one_pixel(4))(root)),
        r"training/0\.png: must have numbers from 0 to 3 \(classes\.txt has 3 classes\), or 255 .*, got 4",
    ),
    "a gap": (
        replace_mask(one_pixel(9)),
        r"training/0\.png: has the number 9, while 4 stands in no training mask: classes\.txt in .* says",
    ),
    "validation alone": (
        replace_mask(one_pixel(4), "validation"),
        r"validation/0\.png: must have no number above those of the training masks, 3: .*, got 4",
    ),
    "no mask": (
        lambda root: (root / "annotations/training/2.png").unlink(),
        r"images/training/2\.png: has no mask annotations/training/2\.png",
    ),
    "no image": (
        lambda root: (root / "images/validation/1.png").unlink(),
        r"annotations/validation/1\.png: is the mask of no image in images/validation",
    ),
    "no val": (
        lambda root: (root / "images/validation").rename(root / "elsewhere"),
        r"images/validation: there is no such folder; a folder holds images/training, images/validation",
    ),
    "colours": (
        lambda root: Image.new("RGB", SIZE).save(root / "annotations/training/1.png"),
        r"training/1\.png: must be of one channel, the number of a class in each pixel, got 'RGB'",
    ),
    "no png": (
        lambda root: (root / "annotations/training/1.png").rename(root / "annotations/training/1.jpg"),
        r"annotations/training/1\.jpg: masks are \.png",
    ),
    "broken": (
        lambda root: (root / "annotations/training/1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing"),
        r"annotations/training/1\.png: not a readable image",
    ),
    "unlabelled": (
        lambda root: [write_mask(file, np.zeros(SIZE[::-1])) for file in (root / "annotations/training").iterdir()],
        r"annotations/training: has no labelled pixel in any mask",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_a_rule_is_told_in_a_line(tmp_path: Path, what: str) -> None:
    """With the file, the rule and the value."""
    furnish(tmp_path)
    spoil, words = BROKEN[what]
    spoil(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        open_masks(str(tmp_path), reduce_zero=True)
    assert "\n" not in str(caught.value)
