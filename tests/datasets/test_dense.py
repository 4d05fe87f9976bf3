"""The data of a segmentation's proxy: centre squares with their masks, and what cannot be learnt from refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from masked_folders import SIZE, furnish, write_mask
from PIL import Image

from modscale.datasets.dataset import load_dataset
from modscale.datasets.dense import load_dense_dataset
from modscale.datasets.scenes import SCENE_CLASSES
from modscale.errors import DataError


def load(source: Path | str, **changes: object):
    settings = {"resolution": 16, "train_images": None, "val_images": None, "seed": 0, "reduce_zero": True}
    return load_dense_dataset(str(source), **(settings | changes))


def test_masks_are_those_of_the_squares(tmp_path: Path) -> None:
    """Each pixel's red tells its class; a cap takes some of the images, by the seed, and the others are not decoded."""
    furnish(tmp_path, train=6, val=3)
    found = load(tmp_path)
    assert (found.x_train.shape, found.y_val.shape, found.class_names) == ((6, 16, 16, 3), (3, 16, 16), ("1", "2", "3"))
    np.testing.assert_array_equal(found.y_train, found.x_train[..., 0].astype(int) // 50 - 1)
    some = load(tmp_path, train_images=4, val_images=2)
    assert (len(some.x_train), len(some.x_val)) == (4, 2)
    assert {image.tobytes() for image in some.x_train} <= {image.tobytes() for image in found.x_train}
    assert load(tmp_path, train_images=4, val_images=2).fingerprint == some.fingerprint
    assert len({load(tmp_path, train_images=4, seed=seed).fingerprint for seed in range(6)}) > 1


def test_the_default_is_generated_and_held_out_images_are_others() -> None:
    """Six classes; no held-out scene was learnt from."""
    found = load("synthetic", train_images=20, val_images=10)
    assert (found.class_names, found.y_train.shape, found.leaked) == (SCENE_CLASSES, (20, 16, 16), 0)


def test_what_was_seen_in_training_is_told(tmp_path: Path) -> None:
    """An image that stands in both sets, and a class that only validation masks have."""
    furnish(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    pixels = (tmp_path / "images/training/0.png").read_bytes()
    (tmp_path / "images/validation/0.png").write_bytes(pixels)
    numbers = np.asarray(Image.open(tmp_path / "annotations/validation/0.png")).copy()
    numbers[8, 12] = 4
    write_mask(tmp_path / "annotations/validation/0.png", numbers)
    assert load(tmp_path).notes == (
        "no training mask has 1 of the 4 classes: d",
        "1 of them stand in validation masks, where they can only be missed: d",
        "1 of 2 validation images stand in the training set too, pixel for pixel: the mIoUs are flattered by what was"
        " seen in training",
    )


def same_images(root: Path) -> None:
    for file in (root / "images/validation").iterdir():
        Image.new("RGB", SIZE).save(file)


def unlabelled_squares(split: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for file in (root / "annotations" / split).iterdir():
            numbers = np.zeros(SIZE[::-1])
            numbers[:, 0] = [1, 2, 3, *[0] * (SIZE[1] - 3)]  # outside of the centre square
            write_mask(file, numbers)

    return spoil


def one_class(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    for file in (root / "annotations/training").iterdir():
        write_mask(file, np.full(SIZE[::-1], 2))


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "one validation image": (
        lambda root: [(root / kind / "validation/1.png").unlink() for kind in ("images", "annotations")],
        r"needs two validation images or more: the noise of a mIoU is told by how they differ, got 1",
    ),
    "the same image": (same_images, r"the 2 validation images are all the same image: no mIoU"),
    "nothing to be scored on": (
        unlabelled_squares("validation"),
        r"the centre squares of the 2 validation images have no labelled pixel",
    ),
    "nothing to learn": (
        unlabelled_squares("training"),
        r"the centre squares of the 3 training images have no labelled pixel: nothing can be learnt",
    ),
    "one class": (one_class, r"the centre squares of the 3 training images have one class: nothing can be learnt"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_masks_that_teach_nothing_are_refused_in_a_line(tmp_path: Path, what: str) -> None:
    """With the folder, the rule and the value."""
    spoil, words = UNFIT[what]
    spoil(furnish(tmp_path))
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_data_of_one_task_are_not_those_of_the_other(tmp_path: Path) -> None:
    """Each is told what the folder is for; an archive of images has no masks."""
    furnish(tmp_path / "scenes")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", SIZE).save(tmp_path / "photos" / split / name / "1.png")
    with pytest.raises(DataError, match=r"photos: has neither images/ nor annotations/; .* for task: classification"):
        load(tmp_path / "photos")
    with pytest.raises(DataError, match=r"scenes: holds images and a mask for each, as task: segmentation takes"):
        load_dataset(str(tmp_path / "scenes"), resolution=16, train_images=None, val_images=None, seed=0)
    (tmp_path / "images.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"images\.npz: must be `synthetic` or a folder; a folder holds"):
        load(tmp_path / "images.npz")
