"""A block's branch by the kernels, its gradients written out: the functions of autograd of `by_kernels.py`.

torch writes what lies between two layers to memory for each of its operations, forward and backward. Here the products
remain torch's, and what is between them (LayerNorm, biases, the depthwise conv, GELU, the context, LayerScale, dropped
paths, the sum) is done in one pass each way, with the gradients of the biases. The wide part of an MLP is worked
through a piece of the tokens at a time, as in `modulated_mlp.py`.

Shapes: T tokens, C channels, r the MLP ratio, B images of N tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modscale.kernels.depthwise import depthwise, depthwise_backward, room
from modscale.kernels.gelu import gelu_times, gelu_times_backward
from modscale.kernels.patches import patches_of_planes, patches_of_tokens, tokens_of_patches
from modscale.kernels.rows import add_branch, add_branch_backward, layer_norm, layer_norm_backward
from modscale.kernels.vectors import LANES
from modscale.models.modulated_mlp import PIECE_VALUES

_here = threading.local()


class LayerNorm(torch.autograd.Function):
    """Over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        tokens = _tokens(x)
        normed = _norm(tokens, weight, bias, eps)
        ctx.save_for_backward(tokens, weight, *normed[1:])
        return normed[0].view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight, mean, scale = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = _norm_backward(_tokens(grad), tokens, weight, mean, scale, None)
        return grad_x.view(grad.shape), grad_weight, grad_bias, None


class Patches(torch.autograd.Function):
    """LayerNorm(conv(x)) of tokens [B, H, W, C], of images a view of [B, C, H, W]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, is_image: bool, geometry: tuple[int, int, int], eps: float,
        weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        images, height, width, dim = x.shape
        size, stride, padding = geometry
        down, across = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        patches = x.new_empty(images * down * across, size * size * dim)
        if is_image:
            x = x.permute(0, 3, 1, 2).contiguous()
            flat = weight.reshape(len(weight), -1)
            sides = (images, dim, height, width, *geometry, down, across)
            patches_of_planes(_at(x), _at(patches), *sides)
        else:
            flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
            sides = (images, height, width, dim, *geometry, down, across)
            x = x.contiguous()
            patches_of_tokens(_at(x), _at(patches), *sides)
        tokens = torch.addmm(bias, patches, flat.t())
        out, mean, scale = _norm(tokens, norm_weight, norm_bias, eps)
        ctx.save_for_backward(patches, flat, tokens, norm_weight, mean, scale)
        ctx.sides, ctx.is_image = sides, is_image
        return out.view(images, down, across, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        patches, flat, tokens, norm_weight, mean, scale = ctx.saved_tensors
        grad, grad_norm_weight, grad_norm_bias = _norm_backward(_tokens(grad), tokens, norm_weight, mean, scale, None)
        grad_bias = _branch_backward(grad, None, None, None, None, 1)[2]
        grad_weight, grad_x = grad.t() @ patches, None
        if ctx.is_image:
            _, dim, _, _, size, *_ = ctx.sides
            grad_weight = grad_weight.view(-1, dim, size, size)
        else:
            images, height, width, dim, size, *_ = ctx.sides
            grad_weight = grad_weight.view(-1, size, size, dim).permute(0, 3, 1, 2).contiguous()
            grad_patches = torch.mm(grad, flat, out=_scratch("patches", *patches.shape))
            grad_x = grad.new_zeros(images, height, width, dim)
            tokens_of_patches(_at(grad_patches), _at(grad_x), *ctx.sides)
        return grad_x, None, None, None, grad_weight, grad_bias, grad_norm_weight, grad_norm_bias


class Modulation(torch.autograd.Function):
    """x + drop * gamma * fc2(GELU(fc1(n)) * g(sum of GELU(conv(f(n))))), n = norm(x)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, drop: Tensor | None, ratio: int, geometry: tuple[tuple[int, int], ...], eps: float,
        norm_weight: Tensor, norm_bias: Tensor, weight_f: Tensor | None, bias_f: Tensor | None,
        weight_g: Tensor | None, bias_g: Tensor | None, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
        gamma: Tensor | None, *convs: Tensor,
    ) -> Tensor:  # fmt: skip
        tokens, shape = _tokens(x), x.shape
        n, mean, scale = _norm(tokens, norm_weight, norm_bias, eps)
        if weight_f is not None and bias_f is not None:  # without a conv its bias is added at once
            before = n @ weight_f.t() if convs else torch.addmm(bias_f, n, weight_f.t())
        else:
            before = n
        weights = [_by_tap(weight) for weight in convs[::2]]
        seen, inner = before, []
        if convs:
            seen = torch.empty_like(n)
            for i, (weight, bias, kind) in enumerate(zip(weights, convs[1::2], geometry, strict=True)):
                inner.append(torch.empty_like(n))
                place = _at(_scratch("conv", room(shape[1], shape[2], shape[3], *kind)))
                sources = _at(before), _at(bias_f), _at(weight), _at(bias)
                depthwise(*sources, _at(inner[i]), _at(seen), place, *shape, *kind, int(i > 0))
        context = seen if weight_g is None else seen @ weight_g.t()
        wide = n.new_empty(len(n), len(weight1))
        branch = torch.empty_like(n)
        for piece, rows in _pieces(wide):
            torch.mm(n[piece], weight1.t(), out=wide[piece])
            fused = _scratch("fused", rows, wide.shape[1])
            operands = _at(wide[piece]), _at(bias1), _at(context[piece]), _at(bias_g)
            gelu_times(*operands, _at(fused), rows, ratio, shape[-1])
            torch.mm(fused, weight2.t(), out=branch[piece])
        out = _add_branch(tokens, branch, bias2, gamma, drop, shape[0])
        ctx.save_for_backward(
            tokens, drop, norm_weight, weight_f, bias_f, weight_g, bias_g, weight1, bias1, weight2, bias2, gamma,
            n, mean, scale, before, seen, context, wide, branch, *weights, *inner,
        )  # fmt: skip
        ctx.shape, ctx.ratio, ctx.geometry = shape, ratio, geometry
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (
            tokens, drop, norm_weight, weight_f, bias_f, weight_g, bias_g, weight1, bias1, weight2, bias2, gamma,
            n, mean, scale, before, seen, context, wide, branch, *rest,
        ) = ctx.saved_tensors  # fmt: skip
        weights, inner = rest[: len(ctx.geometry)], rest[len(ctx.geometry) :]
        shape, dim, grad = ctx.shape, ctx.shape[-1], _tokens(grad)
        of_branch, grad_gamma, grad_bias2 = _branch_backward(grad, branch, bias2, gamma, drop, shape[0])
        grad_n, of_context = _scratch("n", *n.shape), _scratch("context", *n.shape)
        grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
        grad_bias1, grad_bias_g = _sums(bias1), _sums(bias2)
        for piece, rows in _pieces(wide):
            fused, of_wide = (_scratch(name, rows, wide.shape[1]) for name in ("fused", "wide"))
            torch.mm(of_branch[piece], weight2, out=of_wide)
            operands = _at(of_wide), _at(wide[piece]), _at(bias1), _at(context[piece]), _at(bias_g), _at(fused)
            gradients = _at(grad_bias1), _at(of_context[piece]), _at(grad_bias_g)
            gelu_times_backward(*operands, *gradients, rows, ctx.ratio, dim)
            _add_product(grad_weight2, of_branch[piece].t(), fused, piece)
            _add_product(grad_weight1, of_wide.t(), n[piece], piece)
            torch.mm(of_wide, weight1, out=grad_n[piece])
        grad_weight_g, of_seen = None, of_context
        if weight_g is not None:
            grad_weight_g = of_context.t() @ seen
            of_seen = torch.mm(of_context, weight_g, out=_scratch("seen", *n.shape))
        of_before, of_convs, grad_bias_f = of_seen, [], _sums(bias2)
        for i, (weight, kind) in enumerate(zip(weights, ctx.geometry, strict=True)):
            of_before = _scratch("before", *n.shape)
            grads = [n.new_empty(dim, 1, kind[0], kind[0]), _sums(bias2)]
            place = _at(_scratch("conv", room(shape[1], shape[2], shape[3], *kind)))
            operands = _at(of_seen), _at(inner[i]), _at(before), _at(bias_f), _at(weight), _at(of_before)
            depthwise_backward(*operands, *map(_at, grads), _at(grad_bias_f), place, *shape, *kind, int(i > 0))
            of_convs += grads
        if not weights:
            grad_bias_f = _branch_backward(of_before, None, None, None, None, 1)[2]
        grad_weight_f = None
        if weight_f is not None:
            grad_weight_f = of_before.t() @ n
            grad_n.addmm_(of_before, weight_f)
        else:
            grad_n += of_before
        grad_x, grad_norm_weight, grad_norm_bias = _norm_backward(grad_n, tokens, norm_weight, mean, scale, grad)
        return (
            grad_x.view(shape), None, None, None, None, grad_norm_weight, grad_norm_bias,
            grad_weight_f, None if weight_f is None else grad_bias_f,
            grad_weight_g, None if weight_g is None else grad_bias_g,
            grad_weight1, grad_bias1, grad_weight2, grad_bias2, None if gamma is None else grad_gamma, *of_convs,
        )  # fmt: skip


class Mlp(torch.autograd.Function):
    """x + drop * fc2(GELU(fc1(norm(x))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, drop: Tensor | None, eps: float, norm_weight: Tensor, norm_bias: Tensor,
        weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
    ) -> Tensor:  # fmt: skip
        tokens = _tokens(x)
        n, mean, scale = _norm(tokens, norm_weight, norm_bias, eps)
        wide = n.new_empty(len(n), len(weight1))
        branch = torch.empty_like(n)
        for piece, rows in _pieces(wide):
            torch.mm(n[piece], weight1.t(), out=wide[piece])
            activated = _scratch("fused", rows, wide.shape[1])
            gelu_times(_at(wide[piece]), _at(bias1), 0, 0, _at(activated), rows, 1, wide.shape[1])
            torch.mm(activated, weight2.t(), out=branch[piece])
        ctx.save_for_backward(tokens, drop, norm_weight, weight1, bias1, weight2, n, mean, scale, wide)
        return _add_branch(tokens, branch, bias2, None, drop, len(x)).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, drop, norm_weight, weight1, bias1, weight2, n, mean, scale, wide = ctx.saved_tensors
        shape, grad = grad.shape, _tokens(grad)
        of_branch, _, grad_bias2 = _branch_backward(grad, None, None, None, drop, shape[0])
        grad_n = _scratch("n", *n.shape)
        grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
        grad_bias1 = _sums(bias1)
        for piece, rows in _pieces(wide):
            activated, of_wide = (_scratch(name, rows, wide.shape[1]) for name in ("fused", "wide"))
            torch.mm(of_branch[piece], weight2, out=of_wide)
            operands = _at(of_wide), _at(wide[piece]), _at(bias1), 0, 0, _at(activated), _at(grad_bias1), 0, 0
            gelu_times_backward(*operands, rows, 1, wide.shape[1])
            _add_product(grad_weight2, of_branch[piece].t(), activated, piece)
            _add_product(grad_weight1, of_wide.t(), n[piece], piece)
            torch.mm(of_wide, weight1, out=grad_n[piece])
        grad_x, grad_norm_weight, grad_norm_bias = _norm_backward(grad_n, tokens, norm_weight, mean, scale, grad)
        return (
            grad_x.view(shape), None, None, grad_norm_weight, grad_norm_bias,
            grad_weight1, grad_bias1, grad_weight2, grad_bias2,
        )  # fmt: skip


def _sums(like: Tensor) -> Tensor:
    """Zeros, with room for whole vectors."""
    return like.new_zeros(len(like) + LANES)[: len(like)]


def _by_tap(weight: Tensor) -> Tensor:
    """A depthwise conv's [C, 1, k, k] as [k * k, C], with room for whole vectors."""
    dim, taps = len(weight), weight.shape[-1] ** 2
    found = weight.new_empty(dim * taps + LANES)[: dim * taps].view(taps, dim)
    return found.copy_(weight.view(dim, taps).t())


def _norm(tokens: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """What LayerNorm gives [T, C], and each token's mean and 1 / deviation [T]."""
    found = torch.empty_like(tokens), tokens.new_empty(len(tokens)), tokens.new_empty(len(tokens))
    layer_norm(_at(tokens), _at(weight), _at(bias), *map(_at, found), *tokens.shape, eps)
    return found


def _norm_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, added: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of tokens, plus `added`, weight and bias."""
    found = torch.empty_like(tokens), _sums(weight), _sums(weight)
    operands = _at(grad), _at(tokens), _at(weight), _at(mean), _at(scale), _at(added)
    layer_norm_backward(*operands, *map(_at, found), *tokens.shape)
    return found


def _add_branch(
    x: Tensor, branch: Tensor, bias: Tensor, gamma: Tensor | None, drop: Tensor | None, images: int
) -> Tensor:
    """x + drop * gamma * (branch + bias), [T, C]."""
    out = torch.empty_like(x)
    sides = images, len(x) // images, x.shape[1]
    add_branch(_at(x), _at(branch), _at(bias), _at(gamma), _at(drop), _at(out), *sides)
    return out


def _branch_backward(
    grad: Tensor, branch: Tensor | None, bias: Tensor | None, gamma: Tensor | None, drop: Tensor | None, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of branch, gamma and bias; that of the branch holds until the next of the same thread."""
    is_scaled = gamma is not None or drop is not None
    out = _scratch("branch", *grad.shape) if is_scaled else grad
    grad_gamma, grad_bias = _sums(grad[0]), _sums(grad[0])
    operands = _at(grad), _at(branch), _at(bias), _at(gamma), _at(drop), _at(out) if is_scaled else 0
    add_branch_backward(*operands, _at(grad_gamma), _at(grad_bias), images, len(grad) // images, grad.shape[1])
    return out, grad_gamma, grad_bias


def _add_product(total: Tensor, one: Tensor, other: Tensor, piece: slice) -> None:
    """Adds one @ other to the total, which begins with the first piece."""
    torch.addmm(total, one, other, beta=int(piece.start > 0), out=total)


def _tokens(x: Tensor) -> Tensor:
    """[B, H, W, C] to [T, C], contiguous."""
    return x.contiguous().view(-1, x.shape[-1])


def _pieces(wide: Tensor) -> Iterator[tuple[slice, int]]:
    """The rows of each piece of [T, rC], and how many these are."""
    rows = max(1, PIECE_VALUES // wide.shape[1])
    for first in range(0, len(wide), rows):
        end = min(first + rows, len(wide))
        yield slice(first, end), end - first


def _scratch(name: str, *shape: int) -> Tensor:
    """Memory of this thread's, with whatever was left in it; another of the same name is the same memory."""
    size = 1
    for side in shape:
        size *= side
    held: Tensor | None = getattr(_here, name, None)
    if held is None or held.numel() < size:
        held = torch.empty(size)
        setattr(_here, name, held)
    return held[:size].view(shape)


def _at(x: Tensor | None) -> int:
    """Where a tensor begins, 0 for none. It must live until the kernel is done: keep it in a variable."""
    if x is None:
        return 0
    if not x.is_contiguous() or x.dtype != torch.float32:
        raise TypeError("a kernel takes contiguous tensors of float32")
    return x.data_ptr()
