"""One image: every kind Pillow reads, cut to its centre square."""

from pathlib import Path

import numpy as np
from PIL import Image

from modscale.images import read_image

SIDE = 8


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    """Grey, 16-bit grey, palette, CMYK and transparent images give the colours they show, transparency on white."""
    folder = tmp_path
    Image.new("L", (SIDE, SIDE), 100).save(folder / "a.png")
    Image.fromarray(np.full((SIDE, SIDE), 200 * 256, dtype=np.uint16)).save(folder / "b.png")
    Image.new("RGB", (SIDE, SIDE), (10, 20, 30)).convert("P").save(folder / "c.png")
    Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 0)).save(folder / "d.tif")
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).save(folder / "e.png")
    Image.new("LA", (SIDE, SIDE), (0, 255)).save(folder / "f.png")
    palette = Image.new("P", (SIDE, SIDE), 0)
    palette.putpalette([1, 2, 3])
    palette.save(folder / "g.png", transparency=bytes([0]))
    Image.new("1", (SIDE, SIDE), 1).save(folder / "h.png")
    colours = [read_image(file, SIDE).reshape(-1, 3).mean(0).tolist() for file in sorted(folder.iterdir())]
    assert colours[0] == [100, 100, 100]
    assert colours[1] == [200, 200, 200]
    assert np.allclose(colours[2], (10, 20, 30), atol=26)  # the nearest of the web palette's colours
    assert colours[3] == [255, 255, 255]
    assert colours[4] == [255, 255, 255]
    assert colours[5] == [0, 0, 0]
    assert colours[6] == [255, 255, 255]
    assert colours[7] == [255, 255, 255]


def test_centre_square_is_taken_and_resized(tmp_path: Path) -> None:
    """A wide image loses its sides and nothing else; shrinking a fine checkerboard gives grey, not aliases."""
    wide = np.zeros((SIDE, 4 * SIDE, 3), dtype=np.uint8)
    wide[:, SIDE + SIDE // 2 : 2 * SIDE + SIDE // 2] = 255
    Image.fromarray(wide).save(tmp_path / "0.png")
    checks = (np.indices((4 * SIDE, 4 * SIDE)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "1.png")
    assert np.array_equal(read_image(tmp_path / "0.png", SIDE), np.full((SIDE, SIDE, 3), 255))
    assert np.abs(read_image(tmp_path / "1.png", SIDE).astype(int) - 127).max() <= 12


def test_large_jpeg_is_shrunk_as_if_decoded_whole(tmp_path: Path) -> None:
    """JPEG's fast partial decoding gives what the same pixels give as a PNG, which has none, to a few grey levels."""
    blocks = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((128, 128), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    fast, slow = (read_image(tmp_path / name, 16).astype(int) for name in ("a.jpg", "a.png"))
    assert np.abs(fast - slow).mean() < 3


def test_turned_photograph_stands_upright(tmp_path: Path) -> None:
    """EXIF's orientation is applied."""
    picture = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    picture[:, : SIDE // 2] = 255  # bright on the left
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: the left edge comes to the top
    image.save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png", SIDE)
    assert found[0].min() == 255
    assert found[-1].max() == 0
