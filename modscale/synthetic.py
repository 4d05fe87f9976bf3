"""The generated default data set: 20 classes, each a pair of a figure's outline (5) and the texture on it (4).

Both must be seen to name the class: the outline is a matter of the whole image, the texture of a few pixels. Neither
can be read off alone, for the ground and a loose patch bear textures of their own, drawn without regard to the class,
so that only a network that binds the texture to the figure is right. Colour, place, size, rotation, phase, period,
lighting, an occluding bar and noise vary freely and tell nothing. Mirroring an image leaves its class as it is.

Every image is drawn from its own split's random stream, so training and validation share nothing but the rules.

Shapes: n images a chunk, R side in pixels, C = 3 channels. Lengths are in units of half the image's side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FULL_TRAIN = 10_000
"""Training images where no cap is set."""
FULL_VAL = 2_000
"""Validation images where no cap is set."""
OUTLINES = ("disc", "ring", "square", "triangle", "cross")
TEXTURES = ("stripes", "waves", "checks", "dots")
CLASS_NAMES = tuple(f"{texture}_{outline}" for outline in OUTLINES for texture in TEXTURES)

CHUNK = 250
"""Images drawn at once: bounds the memory."""
NOISE = 0.10
"""Deviation of the pixel noise; the full range of a pixel is 1."""


def make_synthetic(
    *, num_train: int, num_val: int, resolution: int, seed: int
) -> tuple[Any, Any, Any, Any, tuple[str, ...]]:
    """(x_train [N, R, R, 3] uint8, y_train [N] int64, x_val, y_val, class names); classes as equal as they can be."""
    train, val = np.random.SeedSequence(seed).spawn(2)
    x_train, y_train = _draw_split(num_train, resolution, np.random.default_rng(train))
    x_val, y_val = _draw_split(num_val, resolution, np.random.default_rng(val))
    return x_train, y_train, x_val, y_val, CLASS_NAMES


def _draw_split(count: int, resolution: int, rng: np.random.Generator) -> tuple[Any, Any]:
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASS_NAMES))
    images = np.empty((count, resolution, resolution, 3), dtype=np.uint8)
    for first in range(0, count, CHUNK):
        chunk = labels[first : first + CHUNK]
        images[first : first + CHUNK] = _draw(chunk // len(TEXTURES), chunk % len(TEXTURES), resolution, rng)
    return images, labels


def _draw(outline: Any, texture: Any, side: int, rng: np.random.Generator) -> Any:
    """Images [n, R, R, 3] of figures with these outlines and textures [n], everything else at random."""
    n = len(outline)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    x, y = np.broadcast_to(axis, (n, side, side)), np.broadcast_to(axis[:, None], (n, side, side))

    ground = _paint(rng.integers(len(TEXTURES), size=n), x, y, rng)
    patch = _paint(rng.integers(len(TEXTURES), size=n), x, y, rng)
    figure = _paint(texture, x, y, rng)

    image = ground
    image = _over(image, patch, _coverage(_place("loose", outline, x, y, rng), side))
    image = _over(image, figure, _coverage(_place("figure", outline, x, y, rng), side))
    bar = np.abs(_rotated(x, y, rng)[0] - _column(rng.uniform(-0.8, 0.8, n))) - _column(rng.uniform(0.03, 0.09, n))
    image = _over(image, np.broadcast_to(_colour(n, rng), image.shape), _coverage(bar, side))

    slope = _rotated(x, y, rng)[0] * _column(rng.uniform(0, 0.25, n))
    image = image * (1 + slope[..., None]) + rng.normal(0, NOISE, image.shape).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _place(role: str, outline: Any, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Signed distance [n, R, R] to the outline at a random place, size and rotation: below 0 inside."""
    n = len(outline)
    if role == "figure":
        scale, reach = rng.uniform(0.5, 0.8, n), 0.3
    else:
        scale, reach = rng.uniform(0.2, 0.35, n), 0.8
        outline = np.zeros_like(outline)  # the loose patch is a disc whatever the class
    dx, dy = (_column(rng.uniform(-reach, reach, n)) for _ in range(2))
    u, v = _rotated(x - dx, y - dy, rng)
    stretch = _column(rng.uniform(0.85, 1.15, n))
    u, v = u / _column(scale) * stretch, v / _column(scale) / stretch
    distance = np.empty_like(u)
    for index, name in enumerate(OUTLINES):
        rows = outline == index
        distance[rows] = _DISTANCES[name](u[rows], v[rows])
    return distance * _column(scale)


def _paint(texture: Any, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A plane [n, R, R, 3] of each texture [n] between two random colours."""
    n = len(texture)
    u, v = _rotated(x, y, rng)
    frequency = _column(2 * np.pi / rng.uniform(0.16, 0.24, n))  # 4 to 6 pixels a period at 48 px
    u, v = (frequency * w + _column(rng.uniform(0, 2 * np.pi, n)) for w in (u, v))
    level = np.empty_like(u)
    for index, name in enumerate(TEXTURES):
        rows = texture == index
        level[rows] = _TEXTURES[name](u[rows], v[rows])
    first, second = _colour(n, rng), _colour(n, rng)
    return first + (second - first) * level[..., None]


def _colour(n: int, rng: np.random.Generator) -> Floats:
    return rng.uniform(0.1, 0.9, (n, 1, 1, 3)).astype(np.float32)


def _column(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _rotated(x: Floats, y: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    angle = rng.uniform(0, 2 * np.pi, len(x))
    cosine, sine = _column(np.cos(angle)), _column(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _coverage(distance: Floats, side: int) -> Floats:
    """Share of each pixel inside: a ramp one pixel wide, so that edges are not jagged."""
    return np.clip(0.5 - distance * (side / 2), 0, 1)


def _over(below: Floats, above: Floats, coverage: Floats) -> Floats:
    return below + (above - below) * coverage[..., None]


def _cross(u: Floats, v: Floats) -> Floats:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.32, v - 1), np.maximum(v - 0.32, u - 1))


_DISTANCES: dict[str, Any] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) - 0.25,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.8,
    "triangle": lambda u, v: np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.52,
    "cross": _cross,
}
_TEXTURES: dict[str, Any] = {
    "stripes": lambda u, v: 0.5 + 0.5 * np.sin(u),
    "waves": lambda u, v: 0.5 + 0.5 * np.sin(u + 1.6 * np.sin(0.7 * v)),
    "checks": lambda u, v: 0.5 + 0.5 * np.tanh(4 * np.sin(u) * np.sin(v)),
    "dots": lambda u, v: 1 / (1 + np.exp(-6 * (np.sin(u) + np.sin(v) - 0.6))),
}
