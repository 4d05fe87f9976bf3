"""The depthwise conv and the GELU after it, channels-last [B, H, W, C], one image and `LANES` channels at a time.

These are copied to where rows have zeros at both ends, so that no tap asks whether it is on the map, and stay in the
core's nearest cache through all k x k taps; eight outputs side by side (four on a narrow map) are held in registers
while the taps of a row go by. Rows beyond the map and taps that no place sees are left out.

Addresses as `vectors.py` says, 0 for what is not there. Weights are [k, k, C]; they and what is added to have room
for whole vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modscale.kernels.gelu import bell, gelu, normal, slope
from modscale.kernels.vectors import (
    FLOAT_BYTES,
    LANES,
    fma,
    inlined,
    kernel,
    load,
    load_one,
    load_part,
    splat,
    store,
    store_one,
    store_part,
)

f = np.float32


def room(height: int, width: int, dim: int, size: int, dilation: int) -> int:
    """Numbers of scratch memory that either kernel takes."""
    rounded = (width + 7) // 8 * 8
    row = rounded + 2 * (min(size // 2, (width - 1) // dilation) * dilation) + 3 * dilation
    return height * (2 * row + rounded) * LANES + (dim + LANES) * size * (size + 7)


@inlined
def _clear(place: int, numbers: int) -> None:
    for i in range(0, numbers, LANES):
        store(place, i, splat(f(0.0)))


@inlined
def _eight(rows: int, at: int, step: int, weight: int, tap: int, next_tap: int, taps: int, sums: Any) -> Any:
    """A row of taps added to eight outputs side by side."""
    a0, a1, a2, a3, a4, a5, a6, a7 = sums
    for _ in range(taps):
        w = load(weight, tap)
        a0 = fma(load(rows, at), w, a0)
        a1 = fma(load(rows, at + LANES), w, a1)
        a2 = fma(load(rows, at + 2 * LANES), w, a2)
        a3 = fma(load(rows, at + 3 * LANES), w, a3)
        a4 = fma(load(rows, at + 4 * LANES), w, a4)
        a5 = fma(load(rows, at + 5 * LANES), w, a5)
        a6 = fma(load(rows, at + 6 * LANES), w, a6)
        a7 = fma(load(rows, at + 7 * LANES), w, a7)
        at += step
        tap += next_tap
    return a0, a1, a2, a3, a4, a5, a6, a7


@inlined
def _four(rows: int, at: int, step: int, weight: int, tap: int, next_tap: int, taps: int, sums: Any) -> Any:
    """The same for four."""
    a0, a1, a2, a3 = sums
    for _ in range(taps):
        w = load(weight, tap)
        a0 = fma(load(rows, at), w, a0)
        a1 = fma(load(rows, at + LANES), w, a1)
        a2 = fma(load(rows, at + 2 * LANES), w, a2)
        a3 = fma(load(rows, at + 3 * LANES), w, a3)
        at += step
        tap += next_tap
    return a0, a1, a2, a3


@inlined
def _lines(
    rows: int,
    row: int,
    margin: int,
    weight: int,
    dim: int,
    c: int,
    height: int,
    width: int,
    size: int,
    dilation: int,
    is_turned: Any,
    start: Any,
    out: int,
) -> None:
    """The conv of padded `rows` to `out` [H, width rounded up to 8, LANES]; `is_turned`: by the kernel turned round."""
    middle = size // 2
    side = min(middle, (width - 1) // dilation)
    rounded = (width + 7) // 8 * 8
    for h in range(height):
        above, below = min(middle, h // dilation), min(middle, (height - 1 - h) // dilation)
        for w in range(0, width, 8):
            s8 = (start, start, start, start, start, start, start, start)
            s4 = (start, start, start, start)
            for d in range(-above, below + 1):
                at = ((h + d * dilation) * row + w + margin - side * dilation) * LANES
                tap, next_tap = ((middle + d) * size + middle - side) * dim + c, dim
                if is_turned:
                    tap, next_tap = ((middle - d) * size + middle + side) * dim + c, -dim
                if width > 4:
                    s8 = _eight(rows, at, dilation * LANES, weight, tap, next_tap, 2 * side + 1, s8)
                else:
                    s4 = _four(rows, at, dilation * LANES, weight, tap, next_tap, 2 * side + 1, s4)
            at = (h * rounded + w) * LANES
            if width <= 4:
                s8 = (s4[0], s4[1], s4[2], s4[3], start, start, start, start)
            store(out, at, s8[0])
            store(out, at + LANES, s8[1])
            store(out, at + 2 * LANES, s8[2])
            store(out, at + 3 * LANES, s8[3])
            store(out, at + 4 * LANES, s8[4])
            store(out, at + 5 * LANES, s8[5])
            store(out, at + 6 * LANES, s8[6])
            store(out, at + 7 * LANES, s8[7])


@inlined
def _take(
    x: int, at: int, added: Any, dim: int, lanes: int, rows: int, row: int, margin: int, height: int, width: int
) -> None:
    """A map of `LANES` channels to padded rows, with what a layer before adds to each."""
    for h in range(height):
        for w in range(width):
            store(rows, (h * row + margin + w) * LANES, load_part(x, at, lanes) + added)
            at += dim


@kernel(14)
def depthwise(
    x: int,
    x_bias: int,
    weight: int,
    bias: int,
    out: int,
    activated: int,
    scratch: int,
    images: int,
    height: int,
    width: int,
    dim: int,
    size: int,
    dilation: int,
    is_added: int,
) -> None:
    """`out` gets the conv of x + x_bias; `activated` its GELU, added to what is there with is_added."""
    rounded = (width + 7) // 8 * 8
    margin = min(size // 2, (width - 1) // dilation) * dilation
    row = rounded + 2 * margin
    results = scratch + FLOAT_BYTES * height * row * LANES
    _clear(scratch, height * row * LANES)
    for b in range(images):
        for c in range(0, dim, LANES):
            first, lanes = b * height * width * dim + c, dim - c
            added, start = splat(f(0.0)), splat(f(0.0))
            if x_bias:
                added = load_part(x_bias, c, lanes)
            if bias:
                start = load_part(bias, c, lanes)
            _take(x, first, added, dim, lanes, scratch, row, margin, height, width)
            _lines(scratch, row, margin, weight, dim, c, height, width, size, dilation, False, start, results)
            at = first
            for h in range(height):
                for w in range(width):
                    value = load(results, (h * rounded + w) * LANES)
                    store_part(out, at, value, lanes)
                    value = gelu(value)
                    if is_added:
                        value = value + load_part(activated, at, lanes)
                    store_part(activated, at, value, lanes)
                    at += dim


@inlined
def _taps(grads: int, inputs: int, sums: int, first: int, end: int, width: int, row: int, step: int) -> None:
    """What one map adds to the gradients of four taps side by side."""
    a0, a1, a2, a3 = load(sums, 0), load(sums, LANES), load(sums, 2 * LANES), load(sums, 3 * LANES)
    z0 = splat(f(0.0))
    z1, z2, z3 = z0, z0, z0
    for h in range(first, end):
        at = h * row
        for _ in range(0, width, 2):
            g = load(grads, at)
            a0 = fma(g, load(inputs, at), a0)
            a1 = fma(g, load(inputs, at + step), a1)
            a2 = fma(g, load(inputs, at + 2 * step), a2)
            a3 = fma(g, load(inputs, at + 3 * step), a3)
            g = load(grads, at + LANES)
            z0 = fma(g, load(inputs, at + LANES), z0)
            z1 = fma(g, load(inputs, at + LANES + step), z1)
            z2 = fma(g, load(inputs, at + LANES + 2 * step), z2)
            z3 = fma(g, load(inputs, at + LANES + 3 * step), z3)
            at += 2 * LANES
    store(sums, 0, a0 + z0)
    store(sums, LANES, a1 + z1)
    store(sums, 2 * LANES, a2 + z2)
    store(sums, 3 * LANES, a3 + z3)


@kernel(17)
def depthwise_backward(
    grad: int,
    before: int,
    x: int,
    x_bias: int,
    weight: int,
    grad_x: int,
    grad_weight: int,
    grad_bias: int,
    grad_x_bias: int,
    scratch: int,
    images: int,
    height: int,
    width: int,
    dim: int,
    size: int,
    dilation: int,
    is_added: int,
) -> None:
    """The gradients, by `grad` of what `depthwise` gave; `before`: what GELU was taken of.

    grad_weight [C, k, k] is written, and grad_x (with is_added, added to); grad_bias and grad_x_bias are added to.
    """
    middle = size // 2
    rounded = (width + 7) // 8 * 8
    even = (width + 1) // 2 * 2
    side = min(middle, (width - 1) // dilation)
    margin = side * dilation
    row = rounded + 2 * margin + 3 * dilation
    inputs = scratch + FLOAT_BYTES * height * row * LANES
    results = inputs + FLOAT_BYTES * height * row * LANES
    sums = results + FLOAT_BYTES * height * rounded * LANES
    columns = size + 7
    _clear(scratch, 2 * height * row * LANES)
    _clear(sums, (dim + LANES - 1) // LANES * LANES * size * columns)
    for b in range(images):
        for c in range(0, dim, LANES):
            first, lanes = b * height * width * dim + c, dim - c
            at = first
            of_bias = load(grad_bias, c)
            for h in range(height):
                for w in range(width):
                    value = load_part(before, at, lanes)
                    bell_of_value = bell(value)
                    g = load_part(grad, at, lanes) * slope(value, bell_of_value, normal(value, bell_of_value))
                    of_bias = of_bias + g
                    store(scratch, (h * row + margin + w) * LANES, g)
                    at += dim
            store(grad_bias, c, of_bias)
            added = splat(f(0.0))
            if x_bias:
                added = load_part(x_bias, c, lanes)
            _take(x, first, added, dim, lanes, inputs, row, margin, height, width)
            zero = splat(f(0.0))
            _lines(scratch, row, margin, weight, dim, c, height, width, size, dilation, True, zero, results)
            at = first
            of_x_bias = load(grad_x_bias, c)
            for h in range(height):
                for w in range(width):
                    g = load(results, (h * rounded + w) * LANES)
                    of_x_bias = of_x_bias + g
                    if is_added:
                        g = g + load_part(grad_x, at, lanes)
                    store_part(grad_x, at, g, lanes)
                    at += dim
            store(grad_x_bias, c, of_x_bias)
            for k in range(size):
                down = (k - middle) * dilation
                for q in range(middle - side, middle + side + 1, 4):
                    _taps(
                        scratch + FLOAT_BYTES * margin * LANES,
                        inputs + FLOAT_BYTES * (down * row + margin + (q - middle) * dilation) * LANES,
                        sums + FLOAT_BYTES * ((c // LANES * size + k) * columns + q) * LANES,
                        max(0, -down),
                        min(height, height - down),
                        even,
                        row * LANES,
                        dilation * LANES,
                    )
    for c in range(dim):
        for k in range(size):
            for q in range(size):
                place = ((c // LANES * size + k) * columns + q) * LANES + c % LANES
                found = f(0.0)
                if abs(q - middle) <= side:
                    found = load_one(sums, place)
                store_one(grad_weight, (c * size + k) * size + q, found)
