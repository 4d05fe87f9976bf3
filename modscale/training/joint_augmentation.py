"""What is done to an image and its mask together: one part of both, at one size, mirrored or not.

Source: the usual augmentation of segmentation, as in "Fully Convolutional Networks" and what followed it: the scene at
a random size, a square of it, a flip. Image pixels are mixed (bilinear), classes never are (the nearest one's).

Shapes: H x W pixels of the scene, C channels, R side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modscale.datasets.scenes import IGNORED


def crop_scene(
    image: Tensor,
    mask: Tensor,
    resolution: int,
    rng: np.random.Generator,
    *,
    scales: tuple[float, float],
    flip: float,
    fill: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """A random square of a scene: image bytes [H, W, C] and mask [H, W] to [C, R, R], 0 to 1, and [R, R].

    The scene is first brought to a size at which its shorter side is R times a factor within `scales`, as likely to
    halve as to double it. Where it is smaller than the crop, `fill` (a number a channel) and `IGNORED` surround it.
    """
    low, high = np.log(scales)
    factor = float(np.exp(rng.uniform(low, high))) * resolution / min(mask.shape)
    lengths = [length * factor for length in mask.shape]  # of the scene at its new size
    offsets = [rng.uniform(min(0.0, length - resolution), max(0.0, length - resolution)) for length in lengths]
    mirror = -1.0 if rng.random() < flip else 1.0
    # F.grid_sample's coordinates: -1 to 1 over the whole scene, the outer edges of its border pixels included.
    theta = torch.zeros(1, 2, 3, device=image.device)
    for axis, (length, offset, sign) in enumerate(zip(lengths[::-1], offsets[::-1], (mirror, 1.0), strict=True)):
        theta[0, axis, axis] = sign * resolution / length
        theta[0, axis, 2] = (2 * offset + resolution) / length - 1
    grid = F.affine_grid(theta, [1, 1, resolution, resolution], align_corners=False)
    pixels = image.permute(2, 0, 1)[None].float() / 255
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    classes = F.grid_sample(
        mask[None, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )[0, 0]  # fmt: skip
    inside = (grid[0].abs() <= 1).all(-1)
    level = pixels.new_tensor(fill)[:, None, None]
    return torch.where(inside, pixels, level), torch.where(inside, classes, IGNORED).round().long()
