"""One image, from a file of any kind to the square of pixels that the proxy trains on.

The centre square of an image is resized to the asked side with an antialiasing bicubic filter (the same as: shorter
side first, then a centre crop). Transparent pixels lie on white, 16-bit grey is brought to 8 bits, EXIF rotation is
undone. Only this module knows Pillow.

Shapes: N images, H x W pixels, C channels, R the asked side.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from modscale.errors import DataError
from modscale.files import path_text

Images = npt.NDArray[np.uint8]

MAX_PIXELS = 89_000_000
"""A larger image is refused: a few kilobytes can claim gigabytes (a decompression bomb)."""


def read_image(file: Path, resolution: int) -> Images:
    """The image's centre square at [R, R, 3].

    Raises:
        DataError: not a readable image, or larger than `MAX_PIXELS`.
    """
    with reading(file, "not a readable image"), Image.open(file) as image:
        _check_pixels(image, file)
        image.draft(None, (2 * resolution, 2 * resolution))  # JPEG: decode no more pixels than the resize will use
        image.load()
        return np.asarray(_centre_square(_to_rgb(ImageOps.exif_transpose(image)), resolution))


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
    """Pillow warns of metadata that does not concern the pixels; size is checked by `_check_pixels`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(file: Path, what: str = "cannot be read", *, place: str = "") -> Iterator[None]:
    """Whatever a decoder makes of foreign bytes becomes a DataError that names the file."""
    try:
        yield
    except DataError as error:
        error.file = error.file or path_text(file)
        raise
    except Exception as error:  # decoders raise what broken bytes lead them to: two dozen kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{what} ({reason or type(error).__name__})", file=path_text(file), place=place) from error


def _centre_square(image: Image.Image, resolution: int) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as 8-bit RGB."""
    if image.mode.startswith("I"):  # 16 bits a pixel, in 32 where a format knows no better
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(grey, 0, 65_535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DataError("pixels are floats of unknown range; 8 or 16 bits are needed")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _check_pixels(image: Image.Image, file: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"must have at most {MAX_PIXELS} pixels", file=path_text(file), value=f"{width}x{height}")
