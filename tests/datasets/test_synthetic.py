"""The generated data set: its classes need texture and outline together, and its two splits share no image."""

import numpy as np
import pytest

from modscale.datasets.dataset import count_leaked, digests
from modscale.datasets.synthetic import CLASS_NAMES, OUTLINES, TEXTURES, draw_images, make_synthetic

SIDE = 32


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """2,000 training and 1,000 validation images with their labels."""
    *arrays, names = make_synthetic(num_train=2000, num_val=1000, resolution=SIDE, seed=3)
    assert names == CLASS_NAMES
    return tuple(arrays)


def ridge_accuracy(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, *, strength: float) -> float:
    """Held-out accuracy of the closed-form ridge regression to one-hot targets."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
    targets = np.eye(y.max() + 1)[y]
    targets = targets - targets.mean(0)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ targets)
    return float(((x_val @ weights).argmax(1) == y_val).mean())


def small_grey(images: np.ndarray) -> np.ndarray:
    """Brightness of 4 x 4 blocks: [n, 64]."""
    n = len(images)
    return images.astype(float).mean(3).reshape(n, SIDE // 4, 4, SIDE // 4, 4).mean((2, 4)).reshape(n, -1)


def texture_statistics(images: np.ndarray) -> np.ndarray:
    """What a bag of 8 x 8 patches knows, places forgotten: mean and spread of their log power spectra."""
    n, tiles = len(images), SIDE // 8
    patches = images.astype(float).mean(3).reshape(n, tiles, 8, tiles, 8).transpose(0, 1, 3, 2, 4).reshape(n, -1, 8, 8)
    patches = patches - patches.mean((2, 3), keepdims=True)
    spectra = np.log1p(np.abs(np.fft.rfft2(patches))).reshape(n, tiles * tiles, -1)
    return np.concatenate([spectra.mean(1), spectra.std(1)], 1)


def test_numbers_types_and_balance() -> None:
    """uint8 [N, R, R, 3] and int64 [N]; the classes differ by one image at most; any resolution draws."""
    for side in (8, 33):
        x, y, x_val, y_val, names = make_synthetic(num_train=47, num_val=20, resolution=side, seed=0)
        assert (x.shape, x.dtype, y.dtype) == ((47, side, side, 3), np.uint8, np.int64)
        assert x_val.shape == (20, side, side, 3)
        counts = np.bincount(y, minlength=len(names))
        assert counts.max() - counts.min() == 1
        assert np.bincount(y_val).tolist() == [1] * 20


def test_seed_decides_every_pixel() -> None:
    """The same seed gives the same arrays, another gives others; the global random state plays no part."""
    first = make_synthetic(num_train=20, num_val=20, resolution=16, seed=5)
    np.random.seed(99)  # the legacy state is what must not matter
    again = make_synthetic(num_train=20, num_val=20, resolution=16, seed=5)
    other = make_synthetic(num_train=20, num_val=20, resolution=16, seed=6)
    assert all(np.array_equal(a, b) for a, b in zip(first[:4], again[:4], strict=True))
    assert not np.array_equal(first[0], other[0])


def test_validation_is_independent_of_the_number_of_training_images() -> None:
    """The splits draw from streams of their own: more training images change no validation pixel."""
    few = make_synthetic(num_train=20, num_val=20, resolution=16, seed=5)
    many = make_synthetic(num_train=40, num_val=20, resolution=16, seed=5)
    assert np.array_equal(few[2], many[2])
    assert not np.array_equal(few[0], few[2])


def test_no_near_duplicates_between_the_splits(images) -> None:
    """A validation image lies no nearer to the training images than to as many other images of its own kind."""
    x, _, x_val, _ = images
    assert count_leaked(digests(x), digests(x_val)) == 0
    fresh = make_synthetic(num_train=2000, num_val=20, resolution=SIDE, seed=77)[0]

    def nearest(pool: np.ndarray) -> np.ndarray:
        a, b = small_grey(x_val[:400]), small_grey(pool)
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        return np.sqrt(squares.clip(0).min(1))

    to_train, to_fresh = nearest(x), nearest(fresh)
    error = np.std(to_train - to_fresh) / np.sqrt(len(to_train))
    assert abs((to_train - to_fresh).mean()) < 4 * error
    assert to_train.min() > 0.5 * to_fresh.min()


def test_pixels_alone_do_not_tell_the_class(images) -> None:
    """A linear classifier on pixels stays far from solving the task (chance is 5 %)."""
    x, y, x_val, y_val = images
    assert ridge_accuracy(small_grey(x), y, small_grey(x_val), y_val, strength=100.0) < 0.25


def test_texture_statistics_alone_do_not_tell_the_class(images) -> None:
    """Place-blind statistics know something of the texture, and cannot name the class without the outline."""
    x, y, x_val, y_val = images
    features, features_val = texture_statistics(x), texture_statistics(x_val)
    textures = ridge_accuracy(features, y % 4, features_val, y_val % 4, strength=1.0)
    assert 0.35 < textures < 0.85  # above the chance of 25 %, and the ground's texture keeps it from certainty
    assert ridge_accuracy(features, y, features_val, y_val, strength=1.0) < 0.25


def test_colour_tells_nothing(images) -> None:
    """The mean hue of an image, brightness taken out, predicts neither texture nor outline better than chance."""
    x, y, x_val, y_val = images
    hue, hue_val = (a.astype(float).mean((1, 2)) - a.astype(float).mean((1, 2, 3))[:, None] for a in (x, x_val))
    for part, number in ((np.mod, len(TEXTURES)), (np.floor_divide, len(OUTLINES))):
        labels, labels_val = part(y, len(TEXTURES)), part(y_val, len(TEXTURES))
        error = np.sqrt(1 / number * (1 - 1 / number) / len(y_val))
        assert ridge_accuracy(hue, labels, hue_val, labels_val, strength=1.0) < 1 / number + 4 * error


def test_class_is_the_outline_and_the_texture() -> None:
    """With all else equal, changing the outline moves the figure's edge, and changing the texture only its inside."""

    def draw(outline: int, texture: int) -> np.ndarray:
        rng = np.random.default_rng(11)
        return draw_images(np.array([outline]), np.array([texture]), 64, rng)[0].astype(int).mean(2)

    disc, plain, dots = OUTLINES.index("disc"), TEXTURES.index("plain"), TEXTURES.index("dots")
    changed = np.abs(draw(disc, plain) - draw(disc, dots)) > 8
    assert 0.05 < changed.mean() < 0.6
    rows, columns = np.nonzero(changed)
    radius = np.hypot(rows - (rows.min() + rows.max()) / 2, columns - (columns.min() + columns.max()) / 2)
    assert radius.max() <= 0.9 * 0.85 * 32 + 2  # inside the largest disc
