"""Two linear layers with a GELU between them, and what it is multiplied by, a piece of the tokens at a time.

A piece of what lies between the layers goes through all that is done with it while it is in the core's cache.

Shapes: T tokens, C channels, r copies of W channels between the layers; addresses as `vectors.py` says, 0 for what is
not there. Weights are [rW, C] and [C, rW]; `turned`: the other way round.
"""

from __future__ import annotations

from modscale.kernels.gelu import gelu_times, gelu_times_backward
from modscale.kernels.products import product
from modscale.kernels.vectors import FLOAT_BYTES, kernel


@kernel(14)
def mlp(
    x: int,
    turned1: int,
    bias1: int,
    context: int,
    context_bias: int,
    turned2: int,
    wide: int,
    fused: int,
    out: int,
    tokens: int,
    dim: int,
    copies: int,
    width: int,
    piece: int,
) -> None:
    """`out` [T, C] of x [T, C], without the second bias, and `wide` [T, rW], the first product without its bias.

    `fused` is scratch memory for `piece` tokens; what is done with these is `gelu_times`.
    """
    hidden = copies * width
    for first in range(0, tokens, piece):
        rows = min(piece, tokens - first)
        of_wide, of_context = wide + FLOAT_BYTES * first * hidden, context
        if context:
            of_context += FLOAT_BYTES * first * width
        product(x + FLOAT_BYTES * first * dim, dim, 1, turned1, hidden, of_wide, hidden, rows, hidden, dim, 0)
        gelu_times(of_wide, bias1, of_context, context_bias, fused, rows, copies, width)
        product(fused, hidden, 1, turned2, dim, out + FLOAT_BYTES * first * dim, dim, rows, dim, hidden, 0)


@kernel(21)
def mlp_backward(
    grad: int,
    x: int,
    weight1: int,
    bias1: int,
    context: int,
    context_bias: int,
    weight2: int,
    wide: int,
    fused: int,
    inner: int,
    grad_x: int,
    grad_weight1: int,
    grad_bias1: int,
    grad_context: int,
    grad_context_bias: int,
    grad_weight2: int,
    tokens: int,
    dim: int,
    copies: int,
    width: int,
    piece: int,
) -> None:
    """The gradients, by `grad` [T, C] of what `mlp` gave: written, those of biases added to what is there.

    `fused` and `inner` are scratch memory for `piece` tokens.
    """
    hidden = copies * width
    for first in range(0, tokens, piece):
        rows, is_added = min(piece, tokens - first), int(first > 0)
        at, of_context, of_grad_context = FLOAT_BYTES * first * dim, context, grad_context
        if context:
            of_context += FLOAT_BYTES * first * width
            of_grad_context += FLOAT_BYTES * first * width
        of_wide = wide + FLOAT_BYTES * first * hidden
        product(grad + at, dim, 1, weight2, hidden, inner, hidden, rows, hidden, dim, 0)
        gelu_times_backward(
            inner, of_wide, bias1, of_context, context_bias, fused, grad_bias1, of_grad_context, grad_context_bias,
            rows, copies, width,
        )  # fmt: skip
        product(grad + at, 1, dim, fused, hidden, grad_weight2, hidden, dim, hidden, rows, is_added)
        product(inner, 1, hidden, x + at, dim, grad_weight1, dim, hidden, dim, rows, is_added)
        product(inner, hidden, 1, weight1, dim, grad_x + at, dim, rows, dim, hidden, 0)
