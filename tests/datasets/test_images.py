"""One image: every kind Pillow reads, cut to its centre square."""

import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modscale.datasets import images
from modscale.datasets.images import Levels, is_image, read_image
from modscale.errors import DataError

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


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of 16-bit grey [H, W] or colours [H, W, 3 or 4], written here because Pillow writes no 16-bit colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    colour = {1: 0, 3: 2, 4: 6}[values.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_of_16_bits(values: np.ndarray, order: str, *, packed: bool = False) -> bytes:
    """A TIFF of 16-bit colours [H, W, 3] in little (`<`) or big (`>`) order, packed with deflate or not."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    data += b"\0" * (len(data) % 2)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8 + len(data) + 2 + 9 * 12 + 4),
        (259, 3, 1, 8 if packed else 1), (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data)) + data
    out += struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        out += struct.pack(f"{order}HHI", tag, kind, count) + struct.pack(
            f"{order}{'HH' if short else 'I'}", value, *([0] * short)
        )
    return out + struct.pack(f"{order}I{channels}H", 0, *[16] * channels)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_more_than_8_bits_keeps_its_upper_8(tmp_path: Path, bits: int, suffix: str) -> None:
    """Values of a detector's depth in 16 bits become `value >> (bits - 8)`; 8 bits in 16 stay what they are."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (SIDE, SIDE)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    seen: list[Levels] = []
    found = read_image(tmp_path / f"a.{suffix}", SIDE, found=seen.append)
    assert np.array_equal(found[..., 0], values // 2 ** (bits - 8))
    assert [(levels.high, levels.bits) for levels in seen] == [(2**bits - 1, bits)]


def test_levels_of_the_set_decide_and_not_those_of_the_image(tmp_path: Path) -> None:
    """A dark image stays dark beside a bright one; an image of 8 bits has no levels of its own."""
    Image.fromarray(np.full((SIDE, SIDE), 100, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png", SIDE).max() == 100
    assert read_image(tmp_path / "dark.png", SIDE, Levels(low=0, high=4095)).max() == 100 // 16
    Image.new("L", (SIDE, SIDE), 100).save(tmp_path / "plain.png")
    seen: list[Levels] = []
    assert read_image(tmp_path / "plain.png", SIDE, Levels(low=0, high=4095), found=seen.append).max() == 100
    assert seen == []


@pytest.mark.parametrize("kind", ["png", "png with alpha", "tiff <", "tiff >", "tiff < packed", "tiff > packed"])
def test_colours_of_16_bits_are_read_in_full(tmp_path: Path, kind: str) -> None:
    """12 bits in 16 are `value >> 4`; where the upper bits are used it is what Pillow gives, the upper 8."""
    values = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, 3)).astype(np.uint16)
    for shift in (0, 4):
        pixels = values << shift
        if kind.startswith("png"):
            alpha = np.full((SIDE, SIDE, int("alpha" in kind)), 65_535, dtype=np.uint16)
            content = png_of_16_bits(np.concatenate([pixels, alpha], axis=2))
        else:
            content = tiff_of_16_bits(pixels, kind[5], packed="packed" in kind)
        (tmp_path / "a").write_bytes(content)
        assert np.array_equal(read_image(tmp_path / "a", SIDE), values >> 4)


def test_negative_large_and_float_pixels_have_a_known_range(tmp_path: Path) -> None:
    """Hounsfield units count from the smallest; 20 bits keep the upper 8; floats from 0 to 1 are times 255."""
    ramp = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    for values, expected in (
        ((ramp * 64 - 1024).astype(np.int16), ramp * 64 >> 4),
        ((ramp << 14).astype(np.int32), ramp << 14 >> 12),
        ((ramp / 63).astype(np.float32), np.rint(ramp / 63 * 255)),
    ):
        Image.fromarray(values).save(tmp_path / "a.tif")
        assert np.array_equal(read_image(tmp_path / "a.tif", SIDE)[..., 0], expected)
    for wrong in (ramp / 62, -ramp / 63, np.where(ramp == 5, np.nan, 0)):
        Image.fromarray(wrong.astype(np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match="floats of unknown range; 0 to 1"):
            read_image(tmp_path / "a.tif", SIDE)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\nshowpage\n"


@pytest.mark.parametrize("content", [EPS, b"\xc5\xd0\xd3\xc6" + EPS, b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a" + b"\0" * 40])
def test_formats_that_start_programs_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """PostScript, PDF and WMF under an image's name are one line, and nothing is started."""

    def started(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "posix_spawn", started)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: not a readable image of any of these formats: AVIF, BMP"):
        read_image(tmp_path / "a.png", SIDE)
    assert not is_image(tmp_path / "a.png")


def test_containers_of_other_images_are_not_read(tmp_path: Path) -> None:
    """The true size of what an icon holds stands in no header of its own."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png", format="ICO")
    with pytest.raises(DataError, match="not a readable image of any"):
        read_image(tmp_path / "a.png", SIDE)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "BMP", "WEBP", "PNG"])
def test_too_many_pixels_are_refused_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also where only a later frame would show them; nothing is decoded."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a", format=kind)
    assert read_image(tmp_path / "a", SIDE).shape == (SIDE, SIDE, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 1199)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="must have at most 1199 pixels, got '40x30'"):
        read_image(tmp_path / "a", SIDE)
