"""The generated default of segmentation: several figures on a textured ground, and which of them each pixel shows.

The figures and textures are those of `synthetic.py`; a later figure covers an earlier one. The class of a pixel is
its figure's outline, or the ground: colour and texture say nothing of it, and brightness no more than that there is a
figure.

Shapes: n scenes a chunk, R side in pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modscale.datasets.synthetic import CHUNK, NOISE, OUTLINES, TEXTURES, Images, paint, signed_distance

Masks = npt.NDArray[np.int16]

SCENE_CLASSES = ("ground", *OUTLINES)
IGNORED = -1
"""The class of a pixel that nobody has labelled."""
FIGURES = (1.0, 0.75, 0.5)
"""Probability of each of a scene's figures."""
SIZES = (0.3, 0.6)
"""Of a figure, in half sides of the scene."""
SHIFT = 0.7
"""Of its centre from the scene's, at most, in half sides."""
FULL_TRAIN = 2_000
FULL_VAL = 400


def make_scenes(*, num_train: int, num_val: int, resolution: int, seed: int) -> tuple[Images, Masks, Images, Masks]:
    """(images [N, R, R, 3], masks [N, R, R]) to train on, and those held out, of independent random streams."""
    streams = (np.random.default_rng(stream) for stream in np.random.SeedSequence([seed, 1]).spawn(2))
    (x_train, y_train), (x_val, y_val) = (
        _draw_split(number, resolution, rng) for number, rng in zip((num_train, num_val), streams, strict=True)
    )
    return x_train, y_train, x_val, y_val


def draw_scenes(number: int, resolution: int, rng: np.random.Generator) -> tuple[Images, Masks]:
    """Images [n, R, R, 3] and their masks [n, R, R] of indices into `SCENE_CLASSES`."""
    axis = ((np.arange(resolution) + 0.5) / resolution * 2 - 1).astype(np.float32)
    x, y = (np.broadcast_to(line, (number, resolution, resolution)) for line in (axis, axis[:, None]))
    middle, gap = rng.uniform(0.4, 0.6, number), rng.uniform(0.1, 0.2, number)
    contrast = rng.uniform(0.15, 0.25, number)
    image = paint(rng.integers(len(TEXTURES), size=number), x, y, middle - gap, contrast, rng)
    mask = np.zeros((number, resolution, resolution), dtype=np.int16)
    for probability in FIGURES:
        outlines = rng.integers(len(OUTLINES), size=number)
        figure = paint(rng.integers(len(TEXTURES), size=number), x, y, middle + gap, contrast, rng)
        distance = signed_distance(outlines, x, y, rng, sizes=SIZES, shift=SHIFT)
        distance[rng.random(number) >= probability] = np.inf
        coverage = np.clip(0.5 - distance * (resolution / 2), 0, 1)[..., None]
        image = image + (figure - image) * coverage
        mask = np.where(distance < 0, (outlines + 1)[:, None, None], mask).astype(np.int16)
    image = image + NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), mask


def _draw_split(number: int, resolution: int, rng: np.random.Generator) -> tuple[Images, Masks]:
    parts = [draw_scenes(min(CHUNK, number - first), resolution, rng) for first in range(0, number, CHUNK)]
    images, masks = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(masks)
