"""The figure of what the context branch sees in one image: a row a stage."""

from __future__ import annotations

import io
from collections.abc import Sequence

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


def draw_context(image: npt.NDArray[np.uint8], maps: Sequence[tuple[str, FloatArray]], *, title: str) -> bytes:
    """A PNG of the image [R, R, 3 or 1] beside its maps, each a name and values [H, W], alone and over the image."""
    side = image.shape[0]
    picture = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    with open_figure(8.4, 2.7 * len(maps) + 0.8) as figure:
        rows = figure.subplots(len(maps), 3, squeeze=False)
        for (name, values), (plain, alone, over) in zip(maps, rows, strict=True):
            extent = (0, side, side, 0)
            plain.imshow(picture, extent=extent)
            drawn = alone.imshow(values, cmap=COLOURS, extent=extent, interpolation="nearest")
            over.imshow(picture, extent=extent)
            over.imshow(values, cmap=COLOURS, norm=drawn.norm, extent=extent, interpolation="bilinear", alpha=OPACITY)
            plain.set_ylabel(name, fontsize=9)
            figure.colorbar(drawn, ax=alone, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
            for axes in (plain, alone, over):
                axes.set(xticks=[], yticks=[])
                axes.spines[["left", "bottom"]].set_visible(False)
        for axes, heading in zip(rows[0], ("image", "context", "context over the image"), strict=True):
            axes.set_title(heading, fontsize=9)
        title = printable(title)
        figure.suptitle(title if len(title) <= 90 else f"{title[:89]}\u2026", x=0.02, ha="left", fontsize=11)
        half = DRAWN.index("; ") + 1
        figure.supxlabel(f"{DRAWN[:half]}\n{DRAWN[half + 1 :]}", fontsize=7.5)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return png.getvalue()
