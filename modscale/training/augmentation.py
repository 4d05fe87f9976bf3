"""The paper's augmentations, on tensors: each image its own crop, operations and rectangle, every draw by a seed.

Source: RandAugment (arXiv 1909.13719) as the recipe `m9-mstd0.5-inc1` has it: two of fifteen operations an image, each
carried out with probability a half, at a magnitude of 9 of 10 with a deviation of 0.5, and more of it always
distorting more; mixup (arXiv 1710.09412), cutmix (arXiv 1905.04899), random erasing (arXiv 1708.04896) and random
resized crops (arXiv 1409.4842). Where we differ: trainings by that recipe's usual code leave jitter out once there is
RandAugment; here both are carried out, as the paper lists them.

The operations are kornia's (only this module knows it), the choice among them ours: kornia's own RandAugment takes one
choice for a whole batch, and has no deviation. What is drawn comes from a numpy generator, so that it is the same on
every device and follows from a seed alone: no random state has to be kept for a training to go on.

Shapes: B batch, C channels, S and R sides in pixels before and after the crop, K classes. Images are floats, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import kornia.enhance as enhance
import numpy as np
import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor
from torch.nn import functional as F

from modscale.training.settings import TrainSettings

CROP_ASPECT = 4 / 3
"""Of a crop's sides before it is scaled, at most, either way."""
ERASE_AREA = (0.02, 1 / 3)
"""Share of the image that is erased."""
ERASE_ASPECT = 1 / 0.3
"""Of an erased rectangle's sides, at most, either way."""
GREY = 0.5
"""What comes into an image from beyond its border where it is turned or moved."""

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes images [N, C, R, R], each one's level, 0 to 1, and its sign, -1 or 1."""


def _about_centre(images: Tensor, rows: tuple[Any, Any, Any, Any, Any, Any]) -> Tensor:
    """Images moved by [a b c; d e f], tensors [N] or numbers, in pixels from the centre."""
    number, side = len(images), images.shape[-1]
    matrix = images.new_zeros(number, 2, 3)
    for place, value in enumerate(rows):
        matrix[:, place // 3, place % 3] = value
    centre = images.new_full((2,), (side - 1) / 2)
    matrix[:, :, 2] += centre - matrix[:, :, :2] @ centre
    fill = images.new_full((images.shape[1],), GREY)
    # warp_affine takes the matrix from the image to its result
    return warp_affine(images, matrix, (side, side), align_corners=True, padding_mode="fill", fill_value=fill)


def _rotate(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    angle = sign * level * math.radians(30)
    return _about_centre(images, (angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0))


def _factor(level: Tensor, sign: Tensor) -> Tensor:
    return 1 + sign * 0.9 * level


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda x, level, sign: enhance.normalize_min_max(x),
    "equalize": lambda x, level, sign: enhance.equalize(x),
    "invert": lambda x, level, sign: 1 - x,
    "rotate": _rotate,
    "posterize": lambda x, level, sign: enhance.posterize(x, 4 - (4 * level).int()),
    "solarize": lambda x, level, sign: enhance.solarize(x, 1 - level),
    "solarize_add": lambda x, level, sign: torch.where(x < 0.5, (x + level[:, None, None, None] * 110 / 255), x),
    "color": lambda x, level, sign: _saturation(x, _factor(level, sign)),
    "contrast": lambda x, level, sign: enhance.adjust_contrast_with_mean_subtraction(x, _factor(level, sign)),
    "brightness": lambda x, level, sign: enhance.adjust_brightness_accumulative(x, _factor(level, sign)),
    "sharpness": lambda x, level, sign: enhance.sharpness(x, _factor(level, sign)),
    "shear_x": lambda x, level, sign: _about_centre(x, (1, sign * 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda x, level, sign: _about_centre(x, (1, 0, 0, sign * 0.3 * level, 1, 0)),
    "translate_x": lambda x, level, sign: _about_centre(x, (1, 0, sign * 0.45 * level * x.shape[-1], 0, 1, 0)),
    "translate_y": lambda x, level, sign: _about_centre(x, (1, 0, 0, 0, 1, sign * 0.45 * level * x.shape[-1])),
}
"""RandAugment's operations, in their form of which more always distorts more."""


def augment_images(images: Tensor, settings: TrainSettings, resolution: int, rng: np.random.Generator) -> Tensor:
    """Images [B, C, S, S] as training images [B, C, R, R], 0 to 1: all that is done to each of them alone."""
    images = crop_and_flip(images, resolution, rng, least=settings.crop or 1.0, flip=settings.flip)
    if settings.randaugment_probability:
        for _ in range(settings.randaugment_layers):
            images = rand_augment(images, rng, settings)
    return jitter_colours(images, rng, settings.jitter) if settings.jitter else images


def crop_and_flip(images: Tensor, resolution: int, rng: np.random.Generator, *, least: float, flip: float) -> Tensor:
    """A random part of each image, of `least` of its area or more, at [B, C, R, R]; mirrored with probability `flip`.

    `least` of 1 crops nothing.
    """
    number, side = len(images), images.shape[-1]
    if least < 1:
        area = rng.uniform(least, 1, number) * side * side
        aspect = _aspects(rng, CROP_ASPECT, number)
        width = np.clip(np.rint(np.sqrt(area * aspect)), 1, side)
        height = np.clip(np.rint(np.sqrt(area / aspect)), 1, side)
        left = np.floor(rng.uniform(0, 1, number) * (side - width + 1))
        top = np.floor(rng.uniform(0, 1, number) * (side - height + 1))
    else:
        left = top = np.zeros(number)
        width = height = np.full(number, float(side))
    mirror = np.where(rng.random(number) < flip, -1.0, 1.0)
    if least >= 1 and side == resolution:
        return torch.where(_tensor(mirror < 0, images)[:, None, None, None].bool(), images.flip(3), images)
    # F.grid_sample's coordinates: -1 to 1 over the whole image, the outer edges of its border pixels included.
    theta = np.zeros((number, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 2] = mirror * width / side, (2 * left + width) / side - 1
    theta[:, 1, 1], theta[:, 1, 2] = height / side, (2 * top + height) / side - 1
    grid = F.affine_grid(_tensor(theta, images), [number, images.shape[1], resolution, resolution], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rand_augment(images: Tensor, rng: np.random.Generator, settings: TrainSettings) -> Tensor:
    """One of `OPERATIONS` on each of the images [B, C, R, R] that are hit, in the paper about half of them."""
    number = len(images)
    chosen = rng.integers(len(OPERATIONS), size=number)
    carried_out = rng.random(number) < (settings.randaugment_probability or 0.0)
    levels = np.clip(rng.normal(settings.randaugment, settings.randaugment_deviation, number), 0, 10) / 10
    signs = np.where(rng.random(number) < 0.5, -1, 1)
    out = images.clone()
    for index, operation in enumerate(OPERATIONS.values()):
        rows = np.flatnonzero((chosen == index) & carried_out)
        if len(rows):
            where = torch.from_numpy(rows).to(images.device)
            done = operation(images[where], _tensor(levels[rows], images), _tensor(signs[rows], images))
            out[where] = done.clamp(0, 1)
    return out


def jitter_colours(images: Tensor, rng: np.random.Generator, jitter: float) -> Tensor:
    """Brightness, contrast and saturation of each image [B, C, R, R] times factors within `jitter` of 1."""
    brightness, contrast, saturation = _tensor(rng.uniform(1 - jitter, 1 + jitter, (3, len(images))), images)
    images = enhance.adjust_brightness_accumulative(images, brightness)
    images = enhance.adjust_contrast_with_mean_subtraction(images, contrast)
    return _saturation(images, saturation)


def erase(images: Tensor, rng: np.random.Generator, probability: float) -> Tensor:
    """With this probability a rectangle of each normalised image [B, C, R, R] becomes noise of deviation 1."""
    hit = np.flatnonzero(rng.random(len(images)) < probability)
    if not len(hit):
        return images
    side = images.shape[-1]
    area = rng.uniform(*ERASE_AREA, len(hit)) * side * side
    aspect = _aspects(rng, ERASE_ASPECT, len(hit))
    width = np.clip(np.rint(np.sqrt(area * aspect)), 1, side)
    height = np.clip(np.rint(np.sqrt(area / aspect)), 1, side)
    left = np.floor(rng.uniform(0, 1, len(hit)) * (side - width + 1))
    top = np.floor(rng.uniform(0, 1, len(hit)) * (side - height + 1))
    noise = rng.standard_normal((len(hit), *images.shape[1:]), dtype=np.float32)
    places = np.arange(side)
    columns = (places >= left[:, None]) & (places < (left + width)[:, None])
    rows = (places >= top[:, None]) & (places < (top + height)[:, None])
    mask = torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    out = images.clone()
    where = torch.from_numpy(hit).to(images.device)
    out[where] = torch.where(mask, _tensor(noise, images), images[where])
    return out


def mix(images: Tensor, targets: Tensor, settings: TrainSettings, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images [B, C, R, R] and targets [B, K] mixed with those of the batch in the other order: mixup or cutmix.

    The targets are mixed by the share of each image that is left, for cutmix by its pixels.
    """
    alphas = [(name, alpha) for name, alpha in (("mixup", settings.mixup), ("cutmix", settings.cutmix)) if alpha]
    if not alphas or rng.random() >= (settings.mix_probability or 0.0):
        return images, targets
    name, alpha = alphas[int(rng.integers(len(alphas)))]
    share = float(rng.beta(alpha, alpha))
    others = images.flip(0)
    if name == "mixup":
        images = share * images + (1 - share) * others
    else:
        side = images.shape[-1]
        length = round(side * math.sqrt(1 - share))
        centre = rng.integers(side, size=2)
        (top, left), (bottom, right) = (
            np.clip(centre + offset, 0, side) for offset in (-(length // 2), length - length // 2)
        )
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - float((bottom - top) * (right - left)) / (side * side)
    return images, share * targets + (1 - share) * targets.flip(0)


def _aspects(rng: np.random.Generator, most: float, number: int) -> np.ndarray:
    """Width by height, as likely as height by width."""
    return np.exp(rng.uniform(-math.log(most), math.log(most), number))


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Colours times a factor; grey images have none."""
    return images if images.shape[1] != 3 else enhance.adjust_saturation_with_gray_subtraction(images, factor)


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(like.device)
