"""What a dense conv multiplies, a row for each place of its output, so that it is one product; and the way back.

Addresses as `vectors.py` says; a conv of k x k at a stride, with zeros around the map, gives h x w places.
"""

from __future__ import annotations

import numpy as np

from modscale.kernels.vectors import LANES, kernel, load_one, load_part, splat, store_one, store_part

f = np.float32


@kernel(11)
def patches_of_planes(
    x: int,
    out: int,
    images: int,
    channels: int,
    height: int,
    width: int,
    size: int,
    stride: int,
    padding: int,
    down: int,
    across: int,
) -> None:
    """[B, C, H, W] to [B h w, C k k]; any number of channels."""
    at = 0
    for b in range(images):
        for h in range(down):
            for w in range(across):
                left = w * stride - padding
                low, high = max(0, -left), min(size, width - left)
                for c in range(channels):
                    for k in range(size):
                        row = h * stride - padding + k
                        first, end = low, high
                        if row < 0 or row >= height:
                            first, end = size, size
                        start = ((b * channels + c) * height + row) * width + left
                        for q in range(first):
                            store_one(out, at + q, f(0.0))
                        for q in range(first, end):
                            store_one(out, at + q, load_one(x, start + q))
                        for q in range(end, size):
                            store_one(out, at + q, f(0.0))
                        at += size


@kernel(11)
def patches_of_tokens(
    x: int,
    out: int,
    images: int,
    height: int,
    width: int,
    dim: int,
    size: int,
    stride: int,
    padding: int,
    down: int,
    across: int,
) -> None:
    """[B, H, W, C] to [B h w, k k C]."""
    at = 0
    for b in range(images):
        for h in range(down):
            for w in range(across):
                for k in range(size):
                    row = h * stride - padding + k
                    for q in range(size):
                        column = w * stride - padding + q
                        if row < 0 or row >= height or column < 0 or column >= width:
                            for c in range(0, dim, LANES):
                                store_part(out, at + c, splat(f(0.0)), dim - c)
                        else:
                            start = ((b * height + row) * width + column) * dim
                            for c in range(0, dim, LANES):
                                store_part(out, at + c, load_part(x, start + c, dim - c), dim - c)
                        at += dim


@kernel(11)
def tokens_of_patches(
    grad: int,
    out: int,
    images: int,
    height: int,
    width: int,
    dim: int,
    size: int,
    stride: int,
    padding: int,
    down: int,
    across: int,
) -> None:
    """The gradient of what `patches_of_tokens` was given, added to `out`."""
    at = 0
    for b in range(images):
        for h in range(down):
            for w in range(across):
                for k in range(size):
                    row = h * stride - padding + k
                    for q in range(size):
                        column = w * stride - padding + q
                        if row >= 0 and row < height and column >= 0 and column < width:
                            start = ((b * height + row) * width + column) * dim
                            for c in range(0, dim, LANES):
                                lanes = dim - c
                                found = load_part(out, start + c, lanes) + load_part(grad, at + c, lanes)
                                store_part(out, start + c, found, lanes)
                        at += dim
