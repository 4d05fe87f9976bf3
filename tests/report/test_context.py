"""The figures of the context: each map lies over the image where its tokens look, in one scale alone and over it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modscale.report import context
from modscale.report.context import SeenImage, SeenMap, on_pixels
from modscale.report.figures import open_figure


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    figures: list[Figure] = []

    @contextmanager
    def watched(width: float, height: float, *, dark: bool = False) -> Iterator[Figure]:
        with open_figure(width, height, dark=dark) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(context, "open_figure", watched)
    return figures


def seen(values: np.ndarray, places: tuple[float, int], name: str = "stage 1") -> SeenMap:
    return SeenMap(name=name, values=values, places=places)


def test_a_pixel_has_the_value_of_the_token_that_looks_nearest() -> None:
    """Three tokens of a stem that pads look at 0.5, 4.5 and 8.5: the first has two pixels, the last six."""
    one = seen(np.array([[0.0, 1.0, 2.0]] * 3), (0.5, 4))
    assert on_pixels(one, 12, smooth=False)[0].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    quarters = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2, 2, 2]
    assert on_pixels(one, 12, smooth=True)[5].tolist() == quarters
    assert on_pixels(seen(one.values.T, (0.5, 4)), 12, smooth=True)[:, 5].tolist() == quarters


def test_patches_are_their_own_pixels() -> None:
    """A stem that pads nothing: each token looks at the middle of its patch."""
    values = np.arange(9.0).reshape(3, 3)
    assert np.array_equal(
        on_pixels(seen(values, (2.0, 4)), 12, smooth=False), values.repeat(4, axis=0).repeat(4, axis=1)
    )


@pytest.mark.parametrize("smooth", [False, True])
def test_a_map_of_one_token_is_the_same_everywhere(smooth: bool) -> None:
    assert on_pixels(seen(np.full((1, 1), 0.5), (0.5, 32)), 8, smooth=smooth).tolist() == [[0.5] * 8] * 8


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bright_square_and_the_token_that_looks_at_its_middle_lie_on_one_another(
    kept: list[Figure], channels: int
) -> None:
    """By the pixels of the figure itself: where they are bright in the image, alone, and over the image."""
    picture = np.zeros((64, 64, channels), np.uint8)
    picture[12:21, 28:37] = 255  # its middle at 16.5 down, 32.5 to the right: the token of row 2, column 4
    values = np.zeros((8, 8))
    values[2, 4] = 9.0
    image = SeenImage(pixels=picture, name="", maps=[seen(values, (0.5, 8)), seen(values[::-1], (0.5, 8), "stage 2")])
    png = context.draw_context(image, title="a \x1b[1m title")
    assert Image.open(io.BytesIO(png)).format == "PNG"
    (figure,) = kept
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 6
    assert "\x1b" not in figure.get_suptitle()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(float)  # type: ignore[attr-defined]

    def middle(panel: int) -> tuple[float, float]:
        """Of what is bright in a panel, in pixels of the image."""
        box = panels[panel].get_window_extent()
        part = pixels[int(box.y0) + 4 : int(box.y1) - 4, int(box.x0) + 4 : int(box.x1) - 4].sum(axis=2)
        rows, columns = np.nonzero(part > 0.75 * part.max())
        x, y = panels[panel].transData.inverted().transform((box.x0 + 4 + columns.mean(), box.y0 + 4 + rows.mean()))
        return float(x), float(y)

    for panel in range(3):  # a token of eight pixels has no pixel in its middle: it stands for half a one less there
        assert middle(panel) == pytest.approx((32.5, 16.5), abs=0.6)
    assert middle(4) == pytest.approx((32.5, 40.5), abs=0.6)


def test_of_several_images_each_has_a_column(kept: list[Figure]) -> None:
    images = [
        SeenImage(
            pixels=np.zeros((16, 16, 3), np.uint8),
            name=f"image {number}",
            maps=[seen(np.eye(2), (0.5, 8)), seen(np.ones((1, 1)), (0.5, 16), "stage 2")],
        )
        for number in range(3)
    ]
    grounds = []
    for dark in (False, True):
        with Image.open(io.BytesIO(context.draw_contexts_together(images, dark=dark))) as png:
            assert png.format == "PNG"
            grounds.append(png.convert("RGB").getpixel((0, 0)))
    assert grounds == [(255, 255, 255), (0x1B, 0x23, 0x2B)]
    figure, _ = kept
    assert len(figure.axes) == 9
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image 0", "image 1", "image 2"]
    assert [len(axes.images) for axes in figure.axes] == [1] * 3 + [2] * 6
