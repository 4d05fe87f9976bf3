"""One image, from a file of any kind to the square of pixels that the proxy trains on.

The centre square of an image is resized to the asked side with an antialiasing bicubic filter (the same as: shorter
side first, then a centre crop). Transparent pixels lie on white, EXIF rotation is undone, of several frames or pages
the first is taken. Only this module knows Pillow.

Pixels of more than 8 bits are brought to 8 by dropping low bits. How many is a matter of the data set and not of the
image, or a dark image would become as bright as a bright one: a 12-bit detector writes 0 to 4095 into 16 bits, and its
pixels are `value >> 4`. `Levels` says which values there are, and which bits are kept.

Shapes: N images, H x W pixels, C channels, R the asked side.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from modscale.errors import DataError
from modscale.files import path_text

Images = npt.NDArray[np.uint8]

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "TGA")
"""What is read, by content and not by name. Pillow knows more: some start another program, some hold other images."""
MAX_PIXELS = 89_000_000
"""A larger image is refused: a few kilobytes can claim gigabytes (a decompression bomb)."""
LARGE_PIXELS = 8_000_000
"""Larger images are decoded one at a time, so that their memory does not add up."""
DEPTHS = (8, 10, 12, 14, 16, *range(17, 66))
"""Bits a pixel: those that detectors and files have, then every one."""

TURNED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The other order of two bytes: big, little and this machine's."""
WIDE_COLOURS = {f"{bands};16{order}" for bands in ("RGB", "RGBX", "RGBA") for order in TURNED}
"""Pillow's names for 16-bit colours in a file."""

ORIENTATION = 0x0112
"""The EXIF tag of how an image is to be turned."""
LYING = (5, 6, 7, 8)
"""Its values for a quarter turn, either way."""

_large = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """The values of pixels of more than 8 bits."""

    low: int
    """The smallest; where it is negative, counting starts there, else at 0."""
    high: int
    """The largest."""

    @property
    def start(self) -> int:
        return min(self.low, 0)

    @property
    def bits(self) -> int:
        """The smallest of the depths that holds them all."""
        return next(bits for bits in DEPTHS if self.high - self.start < 2**bits)

    def describe(self) -> str:
        """As in `values from 0 to 3199 are taken as 12 bits`."""
        counted = f", counted from {self.start}" if self.start else ""
        return f"values from {self.low} to {self.high} are taken as {self.bits} bits{counted}"

    def same_scale(self, other: Levels) -> bool:
        return (self.start, self.bits) == (other.start, other.bits)

    def to_8_bits(self, values: npt.NDArray[Any]) -> Images:
        """Whole numbers of any shape, within the levels, as their upper 8 bits."""
        if self.start:
            values = values.astype(np.int64) - self.start
        return (values >> (self.bits - 8)).astype(np.uint8)


def levels_of(values: npt.NDArray[Any]) -> Levels:
    """The levels of whole numbers of any shape, at least one."""
    return Levels(low=int(values.min()), high=int(values.max()))


def read_image(
    file: Path, resolution: int, levels: Levels | None = None, *, found: Callable[[Levels], None] | None = None
) -> Images:
    """The image's centre square at [R, R, 3]; pixels of more than 8 bits are scaled by `levels`, or by their own.

    `found` is called with the image's own levels where it has more than 8 bits.

    Raises:
        DataError: not a readable image, or larger than `MAX_PIXELS`.
    """
    with _upright(file, resolution, levels, found) as image:
        return np.asarray(_centre_square(image, resolution))


def read_whole_image(file: Path, side: int) -> Images:
    """The whole image [H, W, 3], its shorter side at `side` pixels.

    Raises:
        DataError: not a readable image, larger than `MAX_PIXELS`, or of more than 8 bits a pixel.
    """

    def refuse(levels: Levels) -> None:
        raise DataError("has more than 8 bits a pixel; convert the images to 8 bits")

    with _upright(file, side, None, refuse) as image:
        factor = side / min(image.size)
        size = tuple(max(side, round(length * factor)) for length in image.size)
        return np.array(image.resize((size[0], size[1]), Image.Resampling.BICUBIC))  # a copy, which torch may hold


def image_size(file: Path) -> tuple[int, int]:
    """Width and height of the upright image, by its header. Raises DataError."""
    with reading(file, "not a readable image"), _opened(file) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ORIENTATION, 1) in LYING else (width, height)


def read_numbers(file: Path) -> npt.NDArray[np.int64]:
    """The numbers [H, W] of an image of one channel, those of a palette's colours where it has one.

    Raises:
        DataError: not a readable image, larger than `MAX_PIXELS`, or of several channels.
    """
    with reading(file, "not a readable image"), _opened(file) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise DataError("must be of one channel, the number of a class in each pixel", value=image.mode)
        return np.asarray(image).astype(np.int64)


def is_image(file: Path) -> bool:
    """Whether the file begins as an image that is read here does."""
    try:
        with quiet_pillow(), _opened(file):
            return True
    except Exception:  # noqa: BLE001  # as in `reading`
        return False


def resize_all(x: Images, resolution: int) -> Images:
    """Images [N, H, W, C] as [N, R, R, C]."""
    if x.shape[1:3] == (resolution, resolution):
        return np.ascontiguousarray(x)
    out = np.empty((len(x), resolution, resolution, x.shape[3]), dtype=np.uint8)
    for i, image in enumerate(x):
        picture = Image.fromarray(image[..., 0] if x.shape[3] == 1 else image)
        out[i] = np.asarray(_centre_square(picture, resolution)).reshape(out[i].shape)
    return out


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow warns of metadata that does not concern the pixels; size is checked by `_opened`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(file: Path | None, what: str = "cannot be read", *, place: str = "") -> Iterator[None]:
    """Whatever a decoder makes of foreign bytes becomes a DataError that names the file, where it is not None."""
    name = "" if file is None else path_text(file)
    try:
        yield
    except DataError as error:
        error.file = error.file or name
        raise
    except Exception as error:  # decoders raise what broken bytes lead them to: two dozen kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{what} ({reason or type(error).__name__})", file=name, place=place) from error


@contextmanager
def _upright(
    file: Path, side: int, levels: Levels | None, found: Callable[[Levels], None] | None
) -> Iterator[Image.Image]:
    """The image in 8-bit RGB, turned upright, of no fewer pixels than `side` asks for; see `read_image`."""
    with reading(file, "not a readable image"), _opened(file) as image, _turn(image):
        has_wide_colours = _has_wide_colours(image)
        image.draft(None, (2 * side, 2 * side))  # JPEG: decode no more pixels than the resize will use
        image.load()
        upright = ImageOps.exif_transpose(image)
        if has_wide_colours or upright.mode.startswith("I"):
            values = _wide_colours(upright, file) if has_wide_colours else np.asarray(upright)
            own = levels_of(values)
            if found is not None:
                found(own)
            upright = _to_8_bits(upright, values, levels or own)
        yield _to_rgb(upright)


def _centre_square(image: Image.Image, resolution: int) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


@contextmanager
def _opened(file: Path) -> Iterator[ImageFile]:
    """The image, not yet decoded, of one of `FORMATS` and no larger than `MAX_PIXELS`."""
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        raise DataError(f"not a readable image of any of these formats: {', '.join(FORMATS)}") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(f"must have at most {MAX_PIXELS} pixels", value=f"{width}x{height}")
        yield image


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # not every build has every one


def _has_wide_colours(image: ImageFile) -> bool:
    """Whether it has colours of 16 bits, of which Pillow is about to decode the upper 8."""
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    return bool(raw_modes) and raw_modes <= WIDE_COLOURS


def _wide_colours(image: Image.Image, file: Path) -> npt.NDArray[Any]:
    """[H, W, 3] at all 16 bits, where the image has the upper 8, of which 64 is the 15th bit of 16.

    To Pillow the two bytes of a number are a matter of their order: it decodes the lower one where it is told the
    wrong order. That is worth a second decoding only where the upper one says little.
    """
    upper = np.asarray(image)[..., :3].astype(np.uint16) << 8
    if upper.max() >= 2**14:
        return upper
    with _opened(file) as again:
        for i, tile in enumerate(again.tile):
            raw_mode = _raw_mode(tile)
            turned: Any = raw_mode[:-1] + TURNED[raw_mode[-1]]
            if isinstance(tile[3], tuple):
                turned = (turned, *tile[3][1:])
            again.tile[i] = type(tile)._make((*tile[:3], turned))
        again.load()
        lower = np.asarray(ImageOps.exif_transpose(again))[..., :3]
    return upper | lower


def _raw_mode(tile: Any) -> str:
    return str(tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3])


def _to_8_bits(image: Image.Image, values: npt.NDArray[Any], levels: Levels) -> Image.Image:
    """The image with its grey or its colours from `values` [H, W] or [H, W, 3]; transparency stays."""
    if values.ndim == 3 and (levels.start, levels.bits) == (0, 16):
        return image  # its upper 8 bits are what it has
    scaled = Image.fromarray(levels.to_8_bits(values))
    if image.mode == "RGBA":
        scaled.putalpha(image.getchannel("A"))
    return scaled


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes of 8 bits, or of floats from 0 to 1, as 8-bit RGB."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # also where one is not a number
            raise DataError("pixels are floats of unknown range; 0 to 1, or whole numbers, are needed")
        image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


@contextmanager
def _turn(image: Image.Image) -> Iterator[None]:
    """Waits until no other large image is being decoded."""
    with _large if image.width * image.height > LARGE_PIXELS else nullcontext():
        yield
