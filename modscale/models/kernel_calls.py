"""Tensors handed to the kernels: where each lies, what they are written to, and the scratch memory they take.

Shapes: T tokens, C channels, r copies of W channels between two layers, B images.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from modscale.kernels.mlp import mlp, mlp_backward
from modscale.kernels.products import product, turned
from modscale.kernels.rows import add_branch, add_branch_backward, layer_norm, layer_norm_backward
from modscale.kernels.vectors import LANES

PIECE_VALUES = 98_304
"""Between two linear layers, of the tokens that are worked through at a time."""
LEAST_TOKENS = 128
"""At a time, since for every piece of them the weights and their gradients are gone through."""

_here = threading.local()


def sums(like: Tensor) -> Tensor:
    """Zeros, with room for whole vectors."""
    return like.new_zeros(len(like) + LANES)[: len(like)]


def by_tap(weight: Tensor) -> Tensor:
    """A depthwise conv's [C, 1, k, k] as [k * k, C], with room for whole vectors."""
    dim, taps = len(weight), weight.shape[-1] ** 2
    found = weight.new_empty(dim * taps + LANES)[: dim * taps].view(taps, dim)
    return found.copy_(weight.view(dim, taps).t())


def norm(tokens: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """What LayerNorm gives [T, C], and each token's mean and 1 / deviation [T]."""
    found = torch.empty_like(tokens), tokens.new_empty(len(tokens)), tokens.new_empty(len(tokens))
    layer_norm(*map(address, (tokens, weight, bias, *found)), *tokens.shape, eps)
    return found


def norm_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of tokens, plus `added`, weight and bias."""
    found = torch.empty_like(tokens), sums(weight), sums(weight)
    layer_norm_backward(*map(address, (grad, tokens, weight, mean, scale, added, *found)), *tokens.shape)
    return found


def end_branch(
    x: Tensor, branch: Tensor, bias: Tensor, gamma: Tensor | None, drop: Tensor | None, images: int
) -> Tensor:
    """x + drop * gamma * (branch + bias), [T, C]."""
    out = torch.empty_like(x)
    add_branch(*map(address, (x, branch, bias, gamma, drop, out)), images, len(x) // images, x.shape[1])
    return out


def branch_backward(
    grad: Tensor, branch: Tensor | None, bias: Tensor | None, gamma: Tensor | None, drop: Tensor | None, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of branch, gamma and bias; that of the branch holds until the next of the same thread."""
    is_scaled = gamma is not None or drop is not None
    out = scratch("branch", *grad.shape) if is_scaled else grad
    grad_gamma, grad_bias = sums(grad[0]), sums(grad[0])
    operands = grad, branch, bias, gamma, drop, out if is_scaled else None, grad_gamma, grad_bias
    add_branch_backward(*map(address, operands), images, len(grad) // images, grad.shape[1])
    return out, grad_gamma, grad_bias


def run_mlp(
    x: Tensor, layer1: tuple[Tensor, Tensor], context: tuple[Tensor | None, Tensor | None], weight2: Tensor,
    wide: Tensor, out: Tensor, ratio: int,
) -> None:  # fmt: skip
    """The kernel `mlp`, with its scratch memory."""
    sides = _sides(x, wide, ratio)
    turned1, turned2 = turn(layer1[0], "turned1"), turn(weight2, "turned2")
    operands = x, turned1, layer1[1], *context, turned2, wide, scratch("fused", sides[-1], wide.shape[1]), out
    mlp(*map(address, operands), *sides)


def run_mlp_backward(
    grad: Tensor, x: Tensor, layer1: tuple[Tensor, Tensor], context: tuple[Tensor | None, Tensor | None],
    weight2: Tensor, wide: Tensor, gradients: tuple[Tensor | None, ...], ratio: int,
) -> None:  # fmt: skip
    """The kernel `mlp_backward`, with its scratch memory."""
    sides = _sides(x, wide, ratio)
    both = [scratch(name, sides[-1], wide.shape[1]) for name in ("fused", "wide")]
    mlp_backward(*map(address, (grad, x, *layer1, *context, weight2, wide, *both, *gradients)), *sides)


def _sides(x: Tensor, wide: Tensor, ratio: int) -> tuple[int, int, int, int, int]:
    """T, C, r and W of the tokens [T, C] and [T, rW], and how many of them are worked through at a time."""
    (tokens, dim), hidden = x.shape, wide.shape[1]
    return tokens, dim, ratio, hidden // ratio, min(tokens, max(LEAST_TOKENS, PIECE_VALUES // hidden))


def multiply(one: Tensor, other: Tensor, out: Tensor | None = None, *, is_added: bool = False) -> Tensor:
    """one @ other, [M, N], to `out` where that is given; added to what is there with `is_added`."""
    if out is None:
        out = one.new_empty(len(one), other.shape[1])
    if one.dtype != torch.float32:
        raise TypeError("a kernel takes tensors of float32")
    places = one.data_ptr(), *one.stride(), address(other), other.stride(0), address(out), out.stride(0)
    product(*places, *out.shape, one.shape[1], int(is_added))
    return out


def turn(weight: Tensor, name: str = "turned") -> Tensor:
    """[M, N] as [N, M], in scratch memory."""
    out = scratch(name, *reversed(weight.shape))
    turned(address(weight), weight.shape[1], address(out), *weight.shape)
    return out


def tokens_of(x: Tensor) -> Tensor:
    """[B, H, W, C] to [T, C], contiguous."""
    return x.contiguous().view(-1, x.shape[-1])


def scratch(name: str, *shape: int) -> Tensor:
    """Memory of this thread's, with whatever was left in it; another of the same name is the same memory."""
    size = 1
    for side in shape:
        size *= side
    held: Tensor | None = getattr(_here, name, None)
    if held is None or held.numel() < size:
        held = torch.empty(size)
        setattr(_here, name, held)
    return held[:size].view(shape)


def address(x: Tensor | None) -> int:
    """Where a tensor begins, 0 for none. It must live until the kernel is done: keep it in a variable."""
    if x is None:
        return 0
    if not x.is_contiguous() or x.dtype != torch.float32:
        raise TypeError("a kernel takes contiguous tensors of float32")
    return x.data_ptr()
