"""A folder of images and masks in ADE20K's layout, in which an image tells its mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 16)
"""Width and height."""


def write_mask(file: Path, numbers: np.ndarray, palette: bool = False) -> None:
    image = Image.fromarray(numbers.astype(np.uint8))
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([value for i in range(256) for value in (255 - i, i, i // 2)])
    image.save(file)


def furnish(root: Path, train: int = 3, val: int = 2, classes: int = 3) -> Path:
    """Images whose red is 50 times the number in their mask, in columns of one number each."""
    rng = np.random.default_rng(0)
    for split, count in (("training", train), ("validation", val)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            columns = rng.permutation(np.arange(SIZE[0]) % (classes + 1))
            numbers = np.tile(columns, (SIZE[1], 1))
            pixels = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
            pixels[..., 0] = numbers * 50
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            write_mask(root / "annotations" / split / f"{i}.png", numbers, palette=i == 1)
    return root
