"""What is done to tokens one by one: LayerNorm, and the sum at the end of a residual branch.

Shapes: T tokens [T, C], B images of N tokens each; addresses as `vectors.py` says, 0 for what is not there. What is
added to has room for whole vectors.
"""

from __future__ import annotations

import numpy as np

from modscale.kernels.vectors import (
    LANES,
    fma,
    kernel,
    load,
    load_one,
    load_part,
    only,
    splat,
    store,
    store_one,
    store_part,
    total,
)

f = np.float32


@kernel(8, 1)
def layer_norm(
    x: int, weight: int, bias: int, out: int, mean: int, scale: int, tokens: int, dim: int, eps: float
) -> None:
    """`mean` and `scale` [T] get each token's mean and 1 / its deviation."""
    share = f(1.0) / f(dim)
    for t in range(tokens):
        row = t * dim
        sums = splat(f(0.0))
        for c in range(0, dim, LANES):
            lanes = dim - c
            sums = sums + load_part(x, row + c, lanes)
        middle = total(sums) * share
        m = splat(middle)
        sums = splat(f(0.0))
        for c in range(0, dim, LANES):
            lanes = dim - c
            apart = only(load_part(x, row + c, lanes) - m, lanes)
            sums = fma(apart, apart, sums)
        factor = f(1.0) / f(np.sqrt(total(sums) * share + f(eps)))
        store_one(mean, t, middle)
        store_one(scale, t, factor)
        s = splat(factor)
        for c in range(0, dim, LANES):
            lanes = dim - c
            normed = (load_part(x, row + c, lanes) - m) * s
            store_part(out, row + c, fma(normed, load_part(weight, c, lanes), load_part(bias, c, lanes)), lanes)


@kernel(11)
def layer_norm_backward(
    grad: int,
    x: int,
    weight: int,
    mean: int,
    scale: int,
    added: int,
    out: int,
    grad_weight: int,
    grad_bias: int,
    tokens: int,
    dim: int,
) -> None:
    """`out` gets the gradient of x, and `added` [T, C] besides; grad_weight and grad_bias are added to."""
    share = f(1.0) / f(dim)
    for t in range(tokens):
        row = t * dim
        m, s = splat(load_one(mean, t)), splat(load_one(scale, t))
        first, second = splat(f(0.0)), splat(f(0.0))
        for c in range(0, dim, LANES):
            lanes = dim - c
            g, normed = load_part(grad, row + c, lanes), (load_part(x, row + c, lanes) - m) * s
            weighted = g * load_part(weight, c, lanes)
            first = first + weighted
            second = fma(weighted, normed, second)
            store(grad_weight, c, fma(g, normed, load(grad_weight, c)))
            store(grad_bias, c, load(grad_bias, c) + g)
        one, other = splat(total(first) * share), splat(total(second) * share)
        for c in range(0, dim, LANES):
            lanes = dim - c
            normed = (load_part(x, row + c, lanes) - m) * s
            found = (load_part(grad, row + c, lanes) * load_part(weight, c, lanes) - one - normed * other) * s
            if added:
                found = found + load_part(added, row + c, lanes)
            store_part(out, row + c, found, lanes)


@kernel(9)
def add_branch(
    x: int, branch: int, bias: int, gamma: int, drop: int, out: int, images: int, tokens: int, dim: int
) -> None:
    """out = x + drop[b] * gamma[c] * (branch + bias[c]); `gamma` and `drop` may be 0, and stand for 1 then."""
    for b in range(images):
        share = splat(f(1.0))
        if drop:
            share = splat(load_one(drop, b))
        for t in range(b * tokens, (b + 1) * tokens):
            for c in range(0, dim, LANES):
                lanes = dim - c
                factor = share
                if gamma:
                    factor = factor * load_part(gamma, c, lanes)
                value = load_part(branch, t * dim + c, lanes) + load_part(bias, c, lanes)
                store_part(out, t * dim + c, fma(factor, value, load_part(x, t * dim + c, lanes)), lanes)


@kernel(11)
def add_branch_backward(
    grad: int,
    branch: int,
    bias: int,
    gamma: int,
    drop: int,
    out: int,
    grad_gamma: int,
    grad_bias: int,
    images: int,
    tokens: int,
    dim: int,
) -> None:
    """`out` gets the gradient of the branch, unless it is 0; grad_gamma and grad_bias are added to."""
    for b in range(images):
        share = splat(f(1.0))
        if drop:
            share = splat(load_one(drop, b))
        for t in range(b * tokens, (b + 1) * tokens):
            for c in range(0, dim, LANES):
                lanes = dim - c
                g = load_part(grad, t * dim + c, lanes) * share
                if gamma:
                    value = load_part(branch, t * dim + c, lanes) + load_part(bias, c, lanes)
                    store(grad_gamma, c, fma(g, value, load(grad_gamma, c)))
                    g = g * load_part(gamma, c, lanes)
                if out:
                    store_part(out, t * dim + c, g, lanes)
                store(grad_bias, c, load(grad_bias, c) + g)
