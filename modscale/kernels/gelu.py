"""GELU, what it is multiplied by and what was added before it, in one pass forward and one backward.

Shapes: T tokens, C channels, r copies of them; addresses as `vectors.py` says, 0 for what is not there. What is
added to has room for whole vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modscale.kernels.vectors import (
    LANES,
    at_least,
    fma,
    inlined,
    kernel,
    load,
    load_part,
    magnitude,
    power_of_two,
    splat,
    store,
    store_part,
    to_whole,
    with_sign,
)

f = np.float32


@inlined
def bell(x: Any) -> Any:
    """exp(-x^2 / 2), to 2e-7 of itself near 0 and 1e-9 anywhere."""
    return two_to(at_least(x * x * splat(f(-0.7213475204444817)), splat(f(-126.0))))  # -log2(e) / 2


@inlined
def two_to(t: Any) -> Any:
    """2 ** t, to 2e-7 of itself, for t from -126 to 127."""
    whole = to_whole(t)
    r = t - whole
    p = fma(r, splat(f(1.535336188319500e-4)), splat(f(1.339887440266574e-3)))
    p = fma(r, p, splat(f(9.618437357674640e-3)))
    p = fma(r, p, splat(f(5.550332471162809e-2)))
    p = fma(r, p, splat(f(2.402264791363012e-1)))
    p = fma(r, p, splat(f(6.931472028550421e-1)))
    p = fma(r, p, splat(f(1.0)))
    return p * power_of_two(whole)


@inlined
def normal(x: Any, bell_of_x: Any) -> Any:
    """The normal distribution function, to 1e-7: formula 7.1.26 of Abramowitz and Stegun, as torch's own GELU."""
    t = splat(f(1.0)) / fma(magnitude(x), splat(f(0.3275911 * 0.7071067811865476)), splat(f(1.0)))
    p = fma(t, splat(f(0.5 * 1.061405429)), splat(f(0.5 * -1.453152027)))
    p = fma(t, p, splat(f(0.5 * 1.421413741)))
    p = fma(t, p, splat(f(0.5 * -0.284496736)))
    p = fma(t, p, splat(f(0.5 * 0.254829592)))
    return splat(f(0.5)) + with_sign(splat(f(0.5)) - p * t * bell_of_x, x)


@inlined
def gelu(x: Any) -> Any:
    """Of each number."""
    return x * normal(x, bell(x))


@inlined
def slope(x: Any, bell_of_x: Any, normal_of_x: Any) -> Any:
    """Of GELU at x."""
    return fma(x * bell_of_x, splat(f(0.3989422804014327)), normal_of_x)


@inlined
def _with(bias: int, column: int, lanes: int, value: Any) -> Any:
    """The value and what is added to it, unless that address is 0."""
    if bias:
        return value + load_part(bias, column, lanes)
    return value


@kernel(8)
def gelu_times(
    wide: int, bias: int, context: int, context_bias: int, out: int, tokens: int, copies: int, dim: int
) -> None:
    """out[t, r, c] = GELU(wide[t, r, c] + bias[r, c]) * (context[t, c] + context_bias[c]); no GELU of a single copy.

    `context` may be 0: GELU alone.
    """
    for t in range(tokens):
        for c in range(0, dim, LANES):
            lanes = dim - c
            factor = splat(f(1.0))
            if context:
                factor = _with(context_bias, c, lanes, load_part(context, t * dim + c, lanes))
            at = t * copies * dim + c
            if copies == 1 and context != 0:
                store_part(out, at, _with(bias, c, lanes, load_part(wide, at, lanes)) * factor, lanes)
            else:
                for r in range(copies):
                    value = gelu(_with(bias, r * dim + c, lanes, load_part(wide, at, lanes)))
                    if context:
                        value = value * factor
                    store_part(out, at, value, lanes)
                    at += dim


@kernel(12)
def gelu_times_backward(
    grad: int,
    wide: int,
    bias: int,
    context: int,
    context_bias: int,
    out: int,
    grad_bias: int,
    grad_context: int,
    grad_context_bias: int,
    tokens: int,
    copies: int,
    dim: int,
) -> None:
    """`grad` [t, r, c] of what `gelu_times` gave becomes that of `wide`, and `out` gets what it gave once more.

    grad_bias and grad_context_bias are added to.
    """
    for t in range(tokens):
        for c in range(0, dim, LANES):
            lanes = dim - c
            factor = splat(f(1.0))
            if context:
                factor = _with(context_bias, c, lanes, load_part(context, t * dim + c, lanes))
            at, column = t * copies * dim + c, c
            for_context = splat(f(0.0))
            for _ in range(copies):
                x, g = _with(bias, column, lanes, load_part(wide, at, lanes)), load_part(grad, at, lanes)
                if copies == 1 and context != 0:
                    value, inner = x, g * factor
                else:
                    bell_of_x = bell(x)
                    normal_of_x = normal(x, bell_of_x)
                    value, inner = x * normal_of_x, g * factor * slope(x, bell_of_x, normal_of_x)
                for_context = fma(value, g, for_context)
                store_part(out, at, value * factor, lanes)
                store_part(grad, at, inner, lanes)
                store(grad_bias, column, load(grad_bias, column) + inner)
                at += dim
                column += dim
            if context:
                store_part(grad_context, t * dim + c, for_context, lanes)
                store(grad_context_bias, c, load(grad_context_bias, c) + for_context)
