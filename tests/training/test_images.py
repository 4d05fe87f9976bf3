"""Images of a full training: decoded as needed they are those that are held, in the same order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modscale.errors import DataError
from modscale.training.images import AHEAD, TrainingImages, open_images, read_ahead


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of images of several sizes, 6 to train on and 3 to validate with, each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (20 + 3 * i, 26, 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def opened(source: Path, held_bytes: int | None = None, side: int = 20) -> TrainingImages:
    return open_images(str(source), resolution=16, side=side, seed=0, val_split=None, held_bytes=held_bytes)


def test_images_decoded_as_needed_are_those_that_are_held(photographs: Path) -> None:
    """At the side of training images and at that of validation images, in any order."""
    held, read = opened(photographs), opened(photographs, held_bytes=100)
    assert (held.is_held, read.is_held) == (True, False)
    rows = [np.array([11, 0, 5]), np.array([3, 3]), np.arange(12)]
    for one, other in zip(held.read_train(rows), read.read_train(rows), strict=True):
        assert one.shape[1:] == (20, 20, 3)
        assert np.array_equal(one, other)
    rows = [np.array([5, 1]), np.array([0])]
    for one, other in zip(held.read_val(rows), read.read_val(rows), strict=True):
        assert one.shape[1:] == (16, 16, 3)
        assert np.array_equal(one, other)
    assert np.array_equal(held.y_train, read.y_train)
    assert np.array_equal(held.y_val, read.y_val)
    assert held.class_names == read.class_names == ("cat", "dog")
    assert "decoded as they are needed" in read.notes[-1]


def test_a_changed_file_is_other_data(photographs: Path) -> None:
    """Also where no image is decoded to tell."""
    first, held = opened(photographs, held_bytes=100).fingerprint, opened(photographs).fingerprint
    assert opened(photographs, held_bytes=100).fingerprint == first
    file = photographs / "train" / "cat" / "2.png"
    Image.fromarray(np.zeros((30, 30, 3), dtype=np.uint8)).save(file)
    os.utime(file, (1, 1))
    assert opened(photographs, held_bytes=100).fingerprint != first
    assert opened(photographs).fingerprint != held


def test_reading_stays_a_few_batches_ahead() -> None:
    """Of a hundred batches, those that were asked for and `AHEAD` more are begun, and all come in order."""
    begun: list[int] = []

    def read_one(index: int, side: int) -> np.ndarray:
        begun.append(index)
        return np.full((side, side, 3), index, dtype=np.uint8)

    batches = read_ahead(read_one, ([i, i + 1] for i in range(0, 200, 2)), 4)
    for i in range(3):
        assert next(batches)[:, 0, 0, 0].tolist() == [2 * i, 2 * i + 1]
    assert max(begun) < 2 * (3 + AHEAD + 1)
    batches.close()
    assert len(begun) < 20


def test_a_broken_image_is_named_when_its_turn_comes(photographs: Path) -> None:
    file = photographs / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    images = opened(photographs, held_bytes=100)
    with pytest.raises(DataError) as caught:
        list(images.read_train([np.arange(12)]))
    assert str(caught.value).startswith(str(file))


def test_a_deep_image_among_too_many_is_refused(photographs: Path) -> None:
    """Its scale would be that of all images, which are not looked through."""
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20) * 100
    Image.fromarray(deep).save(photographs / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="more than 8 bits a pixel"):
        list(opened(photographs, held_bytes=100).read_train([np.arange(12)]))


def test_one_image_a_class_is_refused(tmp_path: Path) -> None:
    """There is nothing to tell a class from an image."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x, y_train=np.arange(3), x_val=x[::-1].copy(), y_val=np.arange(3))
    with pytest.raises(DataError, match="one training image of each of its 3 classes"):
        opened(tmp_path / "few.npz")


def test_validation_images_are_those_of_their_own_size(photographs: Path) -> None:
    """Read at the network's resolution, not made from the larger ones that training images are held at."""
    wide, plain = opened(photographs, side=24), opened(photographs, side=16)
    rows = [np.arange(6)]
    assert np.array_equal(next(wide.read_val(rows)), next(plain.read_val(rows)))


def test_synthetic_images_validate_at_the_resolution() -> None:
    images = open_images("synthetic", resolution=8, side=10, seed=0, val_split=None)
    assert next(images.read_train([np.arange(2)])).shape == (2, 10, 10, 3)
    assert next(images.read_val([np.arange(2)])).shape == (2, 8, 8, 3)
