"""The augmentations, against Pillow's operations, plain interpolation and shares that images show themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional as F

from modscale.training.augmentation import (
    OPERATIONS,
    augment_images,
    crop_and_flip,
    erase,
    jitter_colours,
    mix,
    rand_augment,
)
from modscale.training.settings import TrainSettings, resolved

SIDE = 24
LEVEL = 0.9


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def photograph() -> Image.Image:
    """Smooth colours with some noise: no two channels alike."""
    draws = rng(3)
    coarse = Image.fromarray(draws.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    values = np.asarray(coarse).astype(np.int16) // 2 + 60 + draws.integers(-30, 31, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


GREY = (128, 128, 128)


def turned(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Pillow's matrix goes from the result to the image, with its corner at the centre of no pixel."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


PILLOW: dict[str, Callable[[Image.Image], Image.Image]] = {
    "auto_contrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "invert": ImageOps.invert,
    "rotate": lambda x: x.rotate(-30 * LEVEL, Image.Resampling.BILINEAR, fillcolor=GREY),
    "posterize": lambda x: ImageOps.posterize(x, 4 - int(4 * LEVEL)),
    "solarize": lambda x: ImageOps.solarize(x, round(256 * (1 - LEVEL))),
    "solarize_add": lambda x: x.point(lambda value: min(255, value + int(110 * LEVEL)) if value < 128 else value),
    "color": lambda x: ImageEnhance.Color(x).enhance(1 + 0.9 * LEVEL),
    "contrast": lambda x: ImageEnhance.Contrast(x).enhance(1 + 0.9 * LEVEL),
    "brightness": lambda x: ImageEnhance.Brightness(x).enhance(1 + 0.9 * LEVEL),
    "sharpness": lambda x: ImageEnhance.Sharpness(x).enhance(1 + 0.9 * LEVEL),
    "shear_x": lambda x: turned(x, (1, -0.3 * LEVEL, 0.3 * LEVEL * SIDE / 2, 0, 1, 0)),
    "shear_y": lambda x: turned(x, (1, 0, 0, -0.3 * LEVEL, 1, 0.3 * LEVEL * SIDE / 2)),
    "translate_x": lambda x: turned(x, (1, 0, -0.45 * LEVEL * SIDE, 0, 1, 0)),
    "translate_y": lambda x: turned(x, (1, 0, 0, 0, 1, -0.45 * LEVEL * SIDE)),
}
"""The same operations by another library."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows(name: str, photograph: Image.Image) -> None:
    """Within what rounding to bytes, and the rule for pixels at a border, leave open."""
    found = OPERATIONS[name](as_tensor(photograph), torch.tensor([LEVEL]), torch.tensor([1.0])).clamp(0, 1)
    expected = as_tensor(PILLOW[name](photograph))
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    difference = (found - expected)[inner].abs()
    assert difference.mean() < 0.012
    assert (as_tensor(photograph) - expected)[inner].abs().mean() > 0.03  # it does something


def test_the_fifteen_operations_of_the_recipe() -> None:
    """The set named `rand` with increasing severity: its names stand in the recipe's own code."""
    assert set(OPERATIONS) == set(PILLOW)
    assert len(OPERATIONS) == 15


def test_more_always_distorts_more(photograph: Image.Image) -> None:
    """Of every operation that has a magnitude, a tenth of it changes the image less than nine tenths."""
    image = as_tensor(photograph)
    for name, operation in OPERATIONS.items():
        little, much = (
            (operation(image, torch.tensor([level]), torch.tensor([1.0])).clamp(0, 1) - image).abs().mean()
            for level in (0.1, 0.9)
        )
        assert little < much or name in ("auto_contrast", "equalize", "invert")


def test_an_image_that_is_not_cropped_is_interpolated() -> None:
    """At another size, as torch's own interpolation has it; at its own, untouched or mirrored."""
    images = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    small = crop_and_flip(images, 15, rng(), least=1.0, flip=0.0)
    assert torch.allclose(small, F.interpolate(images, (15, 15), mode="bilinear"), atol=1e-5)
    assert torch.equal(crop_and_flip(images, 20, rng(), least=1.0, flip=0.0), images)
    assert torch.equal(crop_and_flip(images, 20, rng(), least=1.0, flip=1.0), images.flip(3))


def test_crops_keep_their_least_area_lie_inside_and_are_mirrored_by_half() -> None:
    """Images whose pixels are their own coordinates tell which part of them is left."""
    number, side = 400, 32
    ramp = (torch.arange(side) + 0.5) / side
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)]).expand(number, 2, side, side)
    found = crop_and_flip(images, 16, rng(), least=0.3, flip=0.5)
    across, down = found[:, 0, 8], found[:, 1, :, 8]
    # Inside, 16 pixels reach from the middle of the first sixteenth of a crop to that of the last.
    width, height = ((line[:, 11] - line[:, 4]).abs() / 7 * 16 for line in (across, down))
    area = width * height
    assert area.min() > 0.3 * 0.9
    assert area.max() <= 1.001
    assert 0.58 < area.mean() < 0.72
    ratio = width / height
    assert ratio.min() > 0.7
    assert ratio.max() < 1.43
    assert (across[:, 15] > across[:, 0]).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert bool((down[:, 15] > down[:, 0]).all())


def settings(**values: float) -> TrainSettings:
    return resolved(
        TrainSettings(**values),
        epochs=300,
        batch=64,
        train_images=10_000,
        channels=3,
        resolution=SIDE,  # type: ignore[arg-type]
    )


def test_what_is_drawn_follows_from_the_seed_alone() -> None:
    """The same images for the same seed, whatever torch has drawn meanwhile; others for another."""
    images = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first = augment_images(images, settings(), SIDE, rng(5))
    torch.rand(3)
    assert torch.equal(augment_images(images, settings(), SIDE, rng(5)), first)
    assert not torch.equal(augment_images(images, settings(), SIDE, rng(6)), first)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_about_half_of_the_images_are_hit_each_by_its_own_operation() -> None:
    """At a probability of a half; none at 0."""
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).expand(300, 3, SIDE, SIDE)
    found = rand_augment(images, rng(), settings())
    changed = (found != images).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert len({image.numpy().tobytes() for image in found[changed]}) > 100
    assert torch.equal(rand_augment(images, rng(), settings(randaugment_probability=0.0)), images)


def test_grey_images_keep_their_channel() -> None:
    images = torch.rand(40, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert augment_images(images, settings(), SIDE, rng()).shape == images.shape


def test_jitter_stays_within_its_range() -> None:
    """Of a flat grey image only the brightness changes: by at most 0.4 either way, and by about any of it."""
    found = jitter_colours(torch.full((500, 3, 4, 4), 0.5), rng(), 0.4)[:, 0, 0, 0]
    assert 0.3 - 1e-5 <= found.min() < 0.32
    assert 0.68 < found.max() <= 0.7 + 1e-5


def test_what_is_erased_is_a_rectangle_of_noise() -> None:
    """A quarter of the images, from 2 % to a third of each, and noise of deviation 1."""
    images = torch.full((600, 3, 32, 32), 9.0)
    found = erase(images, rng(), 0.25)
    gone = (found != images).any(1)
    hit = gone.flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.06)
    for mask in gone[hit]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
    shares = gone[hit].float().mean((1, 2))
    assert shares.min() > 0.01
    assert shares.max() < 0.4
    noise = found[gone[:, None].expand_as(found)]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_by_the_share_that_the_images_show(kind: str) -> None:
    """Images that are their own targets: what is left of each is their mean."""
    other = {"mixup": "cutmix", "cutmix": "mixup"}[kind]
    shares = []
    for seed in range(30):
        images = torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 1, 32, 32)
        targets = torch.eye(2)
        found, mixed = mix(images, targets, settings(**{other: 0.0}), rng(seed))
        assert found.mean((1, 2, 3)).tolist() == pytest.approx(mixed[:, 0].tolist(), abs=1e-5)
        assert mixed.sum(1).tolist() == pytest.approx([1, 1])
        assert (
            set(found.unique().tolist()) <= {0.0, 1.0} if kind == "cutmix" else bool((found.std((2, 3)) < 1e-6).all())
        )
        shares.append(float(mixed[0, 0]))
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_nothing_is_mixed_where_neither_is_asked_for() -> None:
    images, targets = torch.rand(4, 1, 8, 8), torch.eye(4)
    for asked in ({"mixup": 0.0, "cutmix": 0.0}, {"mix_probability": 0.0}):
        found, mixed = mix(images, targets, settings(**asked), rng())
        assert torch.equal(found, images)
        assert torch.equal(mixed, targets)
