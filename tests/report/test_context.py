"""The figure of the context: each map lies over the image that it is of, in one scale alone and over it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modscale.report import context
from modscale.report.figures import open_figure


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_a_stage_with_the_map_where_it_is_seen(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """The bright cell of a map covers the quarter of the image that it stands for, in every row."""
    kept: list[Figure] = []

    @contextmanager
    def watched(width: float, height: float) -> Iterator[Figure]:
        with open_figure(width, height) as figure:
            kept.append(figure)
            yield figure

    monkeypatch.setattr(context, "open_figure", watched)
    top_right = np.array([[0.0, 9.0], [0.0, 0.0]])
    flat = np.full((1, 1), 0.5)
    picture = np.full((16, 16, channels), 128, np.uint8)
    png = context.draw_context(picture, [("stage 1", top_right), ("stage 2", flat)], title="a \x1b[1m title")
    assert Image.open(io.BytesIO(png)).format == "PNG"
    (figure,) = kept
    rows = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(rows) == 6
    for i in (0, 3):
        plain, alone, over = rows[i : i + 3]
        for axes in (plain, alone, over):
            assert (axes.get_xlim(), axes.get_ylim()) == ((0, 16), (16, 0))
        base, laid = over.images
        assert base.get_extent() == laid.get_extent() == [0, 16, 16, 0]
        assert laid.norm is alone.images[0].norm
        assert 0 < laid.get_alpha() < 1
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)  # type: ignore[attr-defined]

    def shade(x: float, y: float) -> int:
        column, row = rows[1].transData.transform((x, y))
        return int(pixels[int(row), int(column)].sum())

    assert shade(12, 4) > 600  # the bright end of the scale
    assert max(shade(4, 4), shade(4, 12), shade(12, 12)) < 50
    assert "\x1b" not in figure.get_suptitle()
