"""The figures of what the context branch sees in images: a row a stage, each map where its tokens look."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modscale.arrays import FloatArray
from modscale.errors import printable
from modscale.report.figures import open_figure

COLOURS = "inferno"
"""Dark where the context is low, bright where it is high."""
OPACITY = 0.6
"""Of the map that lies over the image, 0 to 1."""
DRAWN = (
    "mean over channels of the context layer's output, last modulating block of each stage; each map is scaled to its"
    " own lowest and highest value"
)
"""What the figure shows, for whoever reads it."""


Places = tuple[float, int]
"""Where the tokens of a map look, as `token_places` has it: the middle of the first one's field, and their distance."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenMap:
    """The context of one stage, as a figure needs it."""

    name: str
    """As in `stage 1, block 2`."""
    values: FloatArray
    """[H, W]."""
    places: Places
    """Pixels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenImage:
    """An image and what was seen in it."""

    pixels: npt.NDArray[np.uint8]
    """[R, R, 3 or 1]."""
    name: str
    """What stands above it."""
    maps: Sequence[SeenMap]
    """One or more, of the same stages for all images of a figure."""


def draw_context(image: SeenImage, *, title: str) -> bytes:
    """A PNG of the image beside its maps, each alone and over the image."""
    maps = image.maps
    with open_figure(8.4, 2.7 * len(maps) + 0.8) as figure:
        rows = figure.subplots(len(maps), 3, squeeze=False)
        for one, (plain, alone, over) in zip(maps, rows, strict=True):
            _show(plain, image)
            nearest, between = (on_pixels(one, len(image.pixels), smooth=smooth) for smooth in (False, True))
            drawn = alone.imshow(nearest, cmap=COLOURS, extent=_extent(image), interpolation="nearest")
            _show(over, image)
            over.imshow(between, cmap=COLOURS, norm=drawn.norm, extent=_extent(image), alpha=OPACITY)
            plain.set_ylabel(one.name, fontsize=9)
            figure.colorbar(drawn, ax=alone, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
            for axes in (plain, alone, over):
                _bare(axes)
        for axes, heading in zip(rows[0], ("image", "context", "context over the image"), strict=True):
            axes.set_title(heading, fontsize=9)
        title = printable(title)
        figure.suptitle(title if len(title) <= 90 else f"{title[:89]}\u2026", x=0.02, ha="left", fontsize=11)
        return _finished(figure)


def draw_contexts_together(images: Sequence[SeenImage], *, dark: bool = False) -> bytes:
    """A PNG of a column for each image, one or more: the image, and below it a row a stage with its map over it.

    `dark`: for a dark page, light letters on its ground.
    """
    stages = images[0].maps
    with open_figure(2.2 * len(images) + 0.6, 2.15 * (1 + len(stages)) + 0.9, dark=dark) as figure:
        rows = figure.subplots(1 + len(stages), len(images), squeeze=False)
        for image, column in zip(images, rows.T, strict=True):
            _show(column[0], image)
            name = printable(image.name)
            column[0].set_title(name if len(name) <= 60 else f"{name[:59]}\u2026", fontsize=8)
            _bare(column[0])
            for one, axes in zip(image.maps, column[1:], strict=True):
                _show(axes, image)
                laid = on_pixels(one, len(image.pixels), smooth=True)
                low, high = one.values.min(), one.values.max()
                axes.imshow(laid, cmap=COLOURS, vmin=low, vmax=high, extent=_extent(image), alpha=OPACITY)
                _bare(axes)
        for stage, axes in zip(stages, rows[1:, 0], strict=True):
            axes.set_ylabel(stage.name, fontsize=8)
        return _finished(figure)


def on_pixels(one: SeenMap, side: int, *, smooth: bool) -> FloatArray:
    """A map [H, W] on the pixels [R, R] of its image, by where its tokens look.

    Each pixel has the value of the token that looks nearest to it; `smooth`: between the middles of two fields it goes
    linearly from one to the other, beyond the outermost it stays.
    """
    first, distance = one.places
    rows, columns = (
        np.clip((np.arange(side) + 0.5 - first) / distance, 0, tokens - 1) for tokens in one.values.shape
    )  # in tokens
    if not smooth:
        return one.values[np.ix_(np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int))]
    down = _between(one.values, rows)
    return _between(down.T, columns).T


def _between(values: FloatArray, places: FloatArray) -> FloatArray:
    """Rows of `values` [H, W] at places [R] from 0 to H - 1: [R, W]."""
    above = np.minimum(places.astype(int), max(0, len(values) - 2))
    share = (places - above)[:, None]
    return values[above] * (1 - share) + values[np.minimum(above + 1, len(values) - 1)] * share


def _show(axes: Any, image: SeenImage) -> None:
    pixels = image.pixels
    axes.imshow(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, extent=_extent(image))


def _extent(image: SeenImage) -> tuple[int, int, int, int]:
    side = len(image.pixels)
    return 0, side, side, 0


def _bare(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)


def _finished(figure: Any) -> bytes:
    half = DRAWN.index("; ") + 1
    figure.supxlabel(f"{DRAWN[:half]}\n{DRAWN[half + 1 :]}", fontsize=7.5)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
