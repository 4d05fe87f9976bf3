"""The generated default data set: 20 classes, each a pair of a figure's outline (5) and the texture on it (4).

Both must be seen to name the class: the outline is a matter of the whole image, the texture of a few pixels. A
texture by itself is no sign of the class either, for the ground bears one of the same four, drawn without regard to
the class: it has to be the figure's. Hue, brightness, place, size, turn, phase, period and noise vary freely.
Mirroring an image leaves its class as it is. The figure is brighter than its ground; with either sign, as with
figures turned by any angle, no network left chance level within a proxy's few hundred steps
(`benchmarks/proxy_recipe.md`).

Training and validation are drawn from independent random streams: they share the rules and no image.

Shapes: n images a chunk, R side in pixels. Lengths are in units of half the image's side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

OUTLINES = ("disc", "ring", "square", "triangle", "cross")
TEXTURES = ("plain", "stripes", "bands", "dots")
CLASS_NAMES = tuple(f"{texture}_{outline}" for outline in OUTLINES for texture in TEXTURES)
PERIODS = np.array([1.0, 0.28, 0.6, 0.28])
"""Of each texture, in half sides: at 32 pixels 4.5 pixels, or 9.6 for the bands."""

FULL_TRAIN = 10_000
"""Training images where no cap is set."""
FULL_VAL = 2_000
"""Validation images where no cap is set."""
CHUNK = 250
"""Images drawn at once: bounds the memory."""
MOST_TURN = 0.3
"""A figure is turned by at most this either way, radians; its texture by any angle."""
NOISE = 0.04
"""Deviation of the pixel noise; the full range of a pixel is 1."""


def make_synthetic(
    *, num_train: int, num_val: int, resolution: int, seed: int
) -> tuple[Images, Labels, Images, Labels, tuple[str, ...]]:
    """(x_train [N, R, R, 3], y_train [N], x_val, y_val, class names); classes as equal as they can be."""
    train, val = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
    x_train, y_train = _draw_split(num_train, resolution, train)
    x_val, y_val = _draw_split(num_val, resolution, val)
    return x_train, y_train, x_val, y_val, CLASS_NAMES


def draw_images(outlines: Labels, textures: Labels, resolution: int, rng: np.random.Generator) -> Images:
    """Images [n, R, R, 3] of figures with these outlines and textures [n]; everything else is drawn by `rng`."""
    n = len(outlines)
    axis = ((np.arange(resolution) + 0.5) / resolution * 2 - 1).astype(np.float32)
    x, y = (np.broadcast_to(line, (n, resolution, resolution)) for line in (axis, axis[:, None]))
    middle, gap = rng.uniform(0.4, 0.6, n), rng.uniform(0.1, 0.2, n)
    contrast = rng.uniform(0.15, 0.25, n)
    others = rng.integers(len(TEXTURES), size=n)
    ground = paint(others, x, y, middle - gap, contrast, rng)
    figure = paint(textures, x, y, middle + gap, contrast, rng)
    distance = signed_distance(outlines, x, y, rng)
    coverage = np.clip(0.5 - distance * (resolution / 2), 0, 1)[..., None]  # a ramp one pixel wide: no jagged edges
    image = ground + (figure - ground) * coverage
    image += NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_split(count: int, resolution: int, rng: np.random.Generator) -> tuple[Images, Labels]:
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASS_NAMES))
    images = np.empty((count, resolution, resolution, 3), dtype=np.uint8)
    for first in range(0, count, CHUNK):
        chunk = labels[first : first + CHUNK]
        images[first : first + CHUNK] = draw_images(chunk // len(TEXTURES), chunk % len(TEXTURES), resolution, rng)
    return images, labels


def paint(
    textures: Labels, x: Floats, y: Floats, brightness: Floats, contrast: Floats, rng: np.random.Generator
) -> Floats:
    """A plane [n, R, R, 3] of each texture [n], turned by any angle, in two hues around the brightness [n]."""
    n = len(textures)
    u, v = _turned(x, y, rng.uniform(-np.pi, np.pi, n))
    frequency = 2 * np.pi / (PERIODS[textures] * rng.uniform(0.9, 1.1, n))
    u, v = (_column(frequency) * w + _column(rng.uniform(0, 2 * np.pi, n)) for w in (u, v))
    level = np.zeros_like(u)  # -0.5 to 0.5
    for index, name in enumerate(TEXTURES):
        rows = textures == index
        level[rows] = _LEVELS[name](u[rows], v[rows])
    return _hue(brightness, 0.12, rng) + 2 * level[..., None] * _hue(contrast, 0.05, rng)


def _hue(brightness: Floats, spread: float, rng: np.random.Generator) -> Floats:
    """Colours [n, 1, 1, 3] whose channels' mean is exactly the brightness [n]."""
    offset = rng.normal(0, spread, (len(brightness), 3))
    colour = np.asarray(brightness)[:, None] + offset - offset.mean(1, keepdims=True)
    return colour.astype(np.float32)[:, None, None, :]


def signed_distance(
    outlines: Labels,
    x: Floats,
    y: Floats,
    rng: np.random.Generator,
    *,
    sizes: tuple[float, float] = (0.55, 0.85),
    shift: float = 0.2,
) -> Floats:
    """Distance [n, R, R] to each outline [n] at a random place, size and turn: below 0 inside."""
    n = len(outlines)
    scale = _column(rng.uniform(*sizes, n))
    dx, dy = (_column(rng.uniform(-shift, shift, n)) for _ in range(2))
    u, v = _turned((x - dx) / scale, (y - dy) / scale, rng.uniform(-MOST_TURN, MOST_TURN, n))
    distance = np.empty_like(u)
    for index, name in enumerate(OUTLINES):
        rows = outlines == index
        distance[rows] = _DISTANCES[name](u[rows], v[rows])
    return distance * scale


def _turned(x: Floats, y: Floats, angle: Floats) -> tuple[Floats, Floats]:
    cosine, sine = _column(np.cos(angle)), _column(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _column(values: Floats) -> Floats:
    """[n] to [n, 1, 1], to meet the pixels of each image."""
    return values.astype(np.float32)[:, None, None]


def _cross(u: Floats, v: Floats) -> Floats:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.32, v - 1), np.maximum(v - 0.32, u - 1))


_DISTANCES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) - 0.25,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.8,
    "triangle": lambda u, v: np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.52,
    "cross": _cross,
}
_LEVELS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "plain": lambda u, v: 0 * u,
    "stripes": lambda u, v: 0.5 * np.sin(u),
    "bands": lambda u, v: 0.5 * np.sin(u),
    "dots": lambda u, v: 1 / (1 + np.exp(-6 * (np.sin(u) + np.sin(v) - 0.6))) - 0.5,
}
