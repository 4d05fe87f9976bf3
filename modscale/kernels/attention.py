"""Softmax attention over the tokens of an image, a head at a time: maps here have 1 to some 100 tokens.

Shapes: B images of N tokens, h heads of W channels; queries, keys and values lie side by side, [B, N, 3hW]. Addresses
as `vectors.py` says.
"""

from __future__ import annotations

import numpy as np

from modscale.kernels.gelu import two_to
from modscale.kernels.products import product, turned
from modscale.kernels.vectors import (
    FLOAT_BYTES,
    LANES,
    at_least,
    fma,
    inlined,
    kernel,
    load_one,
    load_part,
    only,
    splat,
    store_part,
    total,
)

f = np.float32


def room(tokens: int, width: int) -> int:
    """Numbers of scratch memory that either kernel takes."""
    return tokens * (width + 2 * tokens)


@inlined
def _attend(query: int, key: int, row: int, place: int, found: int, tokens: int, width: int) -> None:
    """`found` [N, N] gets by how much each token attends to each; `place` is scratch memory [W, N]."""
    turned(key, row, place, tokens, width)
    product(query, row, 1, place, tokens, found, tokens, tokens, tokens, width, 0)
    scale = f(1.4426950408889634) / f(np.sqrt(f(width)))  # log2(e): in powers of 2
    for i in range(tokens):
        first = i * tokens
        largest = load_one(found, first)
        for j in range(1, tokens):
            value = load_one(found, first + j)
            if value > largest:
                largest = value
        sums, middle = splat(f(0.0)), splat(largest)
        for j in range(0, tokens, LANES):
            lanes = tokens - j
            value = two_to(at_least((load_part(found, first + j, lanes) - middle) * splat(scale), splat(f(-126.0))))
            store_part(found, first + j, value, lanes)
            sums = sums + only(value, lanes)
        share = splat(f(1.0) / total(sums))
        for j in range(0, tokens, LANES):
            lanes = tokens - j
            store_part(found, first + j, load_part(found, first + j, lanes) * share, lanes)


@kernel(7)
def attention(x: int, out: int, scratch: int, images: int, heads: int, tokens: int, width: int) -> None:
    """`out` [B, N, hW] gets the values by each head's attention."""
    dim = heads * width
    row, shares = 3 * dim, scratch + FLOAT_BYTES * tokens * width
    for b in range(images):
        for head in range(heads):
            query = x + FLOAT_BYTES * (b * tokens * row + head * width)
            key, value = query + FLOAT_BYTES * dim, query + FLOAT_BYTES * 2 * dim
            _attend(query, key, row, scratch, shares, tokens, width)
            place = out + FLOAT_BYTES * (b * tokens * dim + head * width)
            product(shares, tokens, 1, value, row, place, dim, tokens, width, tokens, 0)


@kernel(8)
def attention_backward(
    grad: int, x: int, grad_x: int, scratch: int, images: int, heads: int, tokens: int, width: int
) -> None:
    """`grad_x` [B, N, 3hW] gets the gradient of x, by `grad` [B, N, hW] of what `attention` gave."""
    dim = heads * width
    row, scale = 3 * dim, splat(f(1.0) / f(np.sqrt(f(width))))
    shares = scratch + FLOAT_BYTES * tokens * width
    inner = shares + FLOAT_BYTES * tokens * tokens
    for b in range(images):
        for head in range(heads):
            at = FLOAT_BYTES * (b * tokens * row + head * width)
            query, of_query = x + at, grad_x + at
            key, of_key = query + FLOAT_BYTES * dim, of_query + FLOAT_BYTES * dim
            value, of_value = key + FLOAT_BYTES * dim, of_key + FLOAT_BYTES * dim
            _attend(query, key, row, scratch, shares, tokens, width)
            of_out = grad + FLOAT_BYTES * (b * tokens * dim + head * width)
            product(shares, 1, tokens, of_out, dim, of_value, row, tokens, width, tokens, 0)
            turned(value, row, scratch, tokens, width)
            product(of_out, dim, 1, scratch, tokens, inner, tokens, tokens, tokens, width, 0)
            for i in range(tokens):
                first, sums = i * tokens, splat(f(0.0))
                for j in range(0, tokens, LANES):
                    lanes = tokens - j
                    sums = fma(load_part(inner, first + j, lanes), load_part(shares, first + j, lanes), sums)
                mean = splat(total(sums))
                for j in range(0, tokens, LANES):
                    lanes = tokens - j
                    share = load_part(shares, first + j, lanes) * scale
                    store_part(inner, first + j, (load_part(inner, first + j, lanes) - mean) * share, lanes)
            product(inner, tokens, 1, key, row, of_query, row, tokens, width, tokens, 0)
            product(inner, 1, tokens, query, row, of_key, row, tokens, width, tokens, 0)
