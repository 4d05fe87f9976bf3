"""The modulated MLP as it is trained on a CPU: the same sums, a piece of the tokens at a time.

What lies between its two linear layers is r times as wide as what goes in, and torch writes it out whole for each of
six operations, forward and backward. Here a piece that fits the core's cache goes through all of them before the next,
and only fc1's output is kept for the backward pass, where GELU and the product are worked out again.

Shapes: T tokens, C channels, r the MLP ratio.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PIECE_VALUES = 393_216
"""Of fc1's output in one piece: 1.5 MB (benchmarks/network_forms.md)."""


def is_worth_pieces(x: Tensor, ratio: int) -> bool:
    """Whether the tokens [B, H, W, C] make two pieces at least, in a training step in float32 on a CPU."""
    wide = x.numel() * ratio
    is_trained = torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return ratio > 1 and wide >= 2 * PIECE_VALUES and is_trained and x.dtype == torch.float32


def modulate_in_pieces(x: Tensor, context: Tensor, fc1: tuple[Tensor, Tensor], fc2: tuple[Tensor, Tensor]) -> Tensor:
    """fc2(GELU(fc1(x)) * context), the context [B, H, W, C] multiplying each of the r copies of the C channels.

    `fc1` and `fc2`: weight and bias, [rC, C] and [rC], [C, rC] and [C].
    """
    out: Tensor = _Pieces.apply(x, context, *fc1, *fc2)  # type: ignore[no-untyped-call]
    return out


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, context: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:
        tokens, contexts = _tokens(x), _tokens(context)
        expanded = tokens.new_empty(len(tokens), len(weight1))
        out = tokens.new_empty(len(tokens), len(weight2))
        for piece in _pieces(expanded):
            torch.addmm(bias1, tokens[piece], weight1.t(), out=expanded[piece])
            values = F.gelu(expanded[piece])
            _by_copy(values, contexts).mul_(contexts[piece, None])
            torch.addmm(bias2, values, weight2.t(), out=out[piece])
        ctx.save_for_backward(x, context, expanded, weight1, weight2)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, context, expanded, weight1, weight2 = ctx.saved_tensors
        tokens, contexts, grads = _tokens(x), _tokens(context), _tokens(grad)
        grad_x, grad_context = torch.empty_like(tokens), torch.empty_like(contexts)
        grad_weight1, grad_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1))
        for piece in _pieces(expanded):
            values, fused = F.gelu(expanded[piece]), grads[piece] @ weight2  # the latter: its gradient
            torch.sum(_by_copy(values * fused, contexts), 1, out=grad_context[piece])
            _by_copy(values, contexts).mul_(contexts[piece, None])
            grad_weight2.addmm_(grads[piece].t(), values)
            _by_copy(fused, contexts).mul_(contexts[piece, None])
            inner = torch.ops.aten.gelu_backward(fused, expanded[piece])
            grad_weight1.addmm_(inner.t(), tokens[piece])
            grad_bias1 += inner.sum(0)
            torch.mm(inner, weight1, out=grad_x[piece])
        return (
            grad_x.view_as(x), grad_context.view_as(context), grad_weight1, grad_bias1, grad_weight2, grads.sum(0)
        )  # fmt: skip


def _tokens(x: Tensor) -> Tensor:
    """[B, H, W, C] to [T, C]."""
    return x.reshape(-1, x.shape[-1])


def _by_copy(wide: Tensor, contexts: Tensor) -> Tensor:
    """[T, rC] to [T, r, C]."""
    return wide.view(len(wide), -1, contexts.shape[1])


def _pieces(expanded: Tensor) -> list[slice]:
    """The rows of each piece of [T, rC]."""
    rows = max(1, PIECE_VALUES // expanded.shape[1])
    return [slice(first, first + rows) for first in range(0, len(expanded), rows)]
