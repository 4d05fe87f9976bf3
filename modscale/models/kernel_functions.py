"""A block's branch by the kernels, its gradients written out: the functions of autograd of `by_kernels.py`.

torch writes what lies between two layers to memory for each of its operations, forward and backward. Here what is
between two products (LayerNorm, biases, the depthwise conv, GELU, the context, LayerScale, dropped paths, the sum) is
done in one pass each way, with the gradients of the biases, and the products are ours as well (`kernels/products.py`).
The wide part of an MLP is worked through a piece of the tokens at a time, as in `modulated_mlp.py`.

Shapes: T tokens, C channels, r the MLP ratio, B images of N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modscale.kernels.attention import attention, attention_backward
from modscale.kernels.attention import room as attention_room
from modscale.kernels.depthwise import depthwise, depthwise_backward, room
from modscale.kernels.patches import patches_of_planes, patches_of_tokens, tokens_of_patches
from modscale.models.kernel_calls import (
    address,
    branch_backward,
    by_tap,
    end_branch,
    multiply,
    norm,
    norm_backward,
    run_mlp,
    run_mlp_backward,
    scratch,
    sums,
    tokens_of,
    turn,
)


class LayerNorm(torch.autograd.Function):
    """Over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        tokens = tokens_of(x)
        normed = norm(tokens, weight, bias, eps)
        ctx.save_for_backward(tokens, weight, *normed[1:])
        return normed[0].view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight, mean, scale = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = norm_backward(tokens_of(grad), tokens, weight, mean, scale, None)
        return grad_x.view(grad.shape), grad_weight, grad_bias, None


class Linear(torch.autograd.Function):
    """x @ weight.t() + bias of [..., C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tokens = tokens_of(x)
        out = multiply(tokens, turn(weight))
        if bias is not None:
            out += bias
        ctx.save_for_backward(tokens, weight)
        ctx.has_bias = bias is not None
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (tokens, weight), grads = ctx.saved_tensors, tokens_of(grad)
        grad_x = multiply(grads, weight).view(*grad.shape[:-1], -1)
        return grad_x, multiply(grads.t(), tokens), grads.sum(0) if ctx.has_bias else None


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
            patches_of_planes(address(x), address(patches), *sides)
        else:
            flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
            sides = (images, height, width, dim, *geometry, down, across)
            x = x.contiguous()
            patches_of_tokens(address(x), address(patches), *sides)
        tokens = multiply(patches, turn(flat)).add_(bias)
        out, mean, scale = norm(tokens, norm_weight, norm_bias, eps)
        ctx.save_for_backward(patches, flat, tokens, norm_weight, mean, scale)
        ctx.sides, ctx.is_image = sides, is_image
        return out.view(images, down, across, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        patches, flat, tokens, norm_weight, mean, scale = ctx.saved_tensors
        grad, grad_norm_weight, grad_norm_bias = norm_backward(tokens_of(grad), tokens, norm_weight, mean, scale, None)
        grad_bias = branch_backward(grad, None, None, None, None, 1)[2]
        grad_weight, grad_x = multiply(grad.t(), patches), None
        if ctx.is_image:
            _, dim, _, _, size, *_ = ctx.sides
            grad_weight = grad_weight.view(-1, dim, size, size)
        else:
            images, height, width, dim, size, *_ = ctx.sides
            grad_weight = grad_weight.view(-1, size, size, dim).permute(0, 3, 1, 2).contiguous()
            grad_patches = multiply(grad, flat, scratch("patches", *patches.shape))
            grad_x = grad.new_zeros(images, height, width, dim)
            tokens_of_patches(address(grad_patches), address(grad_x), *ctx.sides)
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
        tokens, shape = tokens_of(x), x.shape
        n, mean, scale = norm(tokens, norm_weight, norm_bias, eps)
        if weight_f is not None and bias_f is not None:  # without a conv its bias is added at once
            before = multiply(n, turn(weight_f))
            if not convs:
                before += bias_f
        else:
            before = n
        weights = [by_tap(weight) for weight in convs[::2]]
        seen, inner = before, []
        if convs:
            seen = torch.empty_like(n)
            for i, (weight, bias, kind) in enumerate(zip(weights, convs[1::2], geometry, strict=True)):
                inner.append(torch.empty_like(n))
                place = address(scratch("conv", room(shape[1], shape[2], shape[3], *kind)))
                operands = before, bias_f, weight, bias, inner[i], seen
                depthwise(*map(address, operands), place, *shape, *kind, int(i > 0))
        context = seen if weight_g is None else multiply(seen, turn(weight_g))
        wide = n.new_empty(len(n), len(weight1))
        branch = torch.empty_like(n)
        run_mlp(n, (weight1, bias1), (context, bias_g), weight2, wide, branch, ratio)
        out = end_branch(tokens, branch, bias2, gamma, drop, shape[0])
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
        shape, dim, grad = ctx.shape, ctx.shape[-1], tokens_of(grad)
        of_branch, grad_gamma, grad_bias2 = branch_backward(grad, branch, bias2, gamma, drop, shape[0])
        grad_n, of_context = scratch("n", *n.shape), scratch("context", *n.shape)
        grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
        grad_bias1, grad_bias_g = sums(bias1), sums(bias2)
        gradients = grad_n, grad_weight1, grad_bias1, of_context, grad_bias_g, grad_weight2
        run_mlp_backward(of_branch, n, (weight1, bias1), (context, bias_g), weight2, wide, gradients, ctx.ratio)
        grad_weight_g, of_seen = None, of_context
        if weight_g is not None:
            grad_weight_g = multiply(of_context.t(), seen)
            of_seen = multiply(of_context, weight_g, scratch("seen", *n.shape))
        of_before, of_convs, grad_bias_f = of_seen, [], sums(bias2)
        for i, (weight, kind) in enumerate(zip(weights, ctx.geometry, strict=True)):
            of_before = scratch("before", *n.shape)
            grads = [n.new_empty(dim, 1, kind[0], kind[0]), sums(bias2)]
            place = address(scratch("conv", room(shape[1], shape[2], shape[3], *kind)))
            operands = of_seen, inner[i], before, bias_f, weight, of_before, *grads, grad_bias_f
            depthwise_backward(*map(address, operands), place, *shape, *kind, int(i > 0))
            of_convs += grads
        if not weights:
            grad_bias_f = branch_backward(of_before, None, None, None, None, 1)[2]
        grad_weight_f = None
        if weight_f is not None:
            grad_weight_f = multiply(of_before.t(), n)
            multiply(of_before, weight_f, grad_n, is_added=True)
        else:
            grad_n += of_before
        grad_x, grad_norm_weight, grad_norm_bias = norm_backward(grad_n, tokens, norm_weight, mean, scale, grad)
        return (
            grad_x.view(shape), None, None, None, None, grad_norm_weight, grad_norm_bias,
            grad_weight_f, None if weight_f is None else grad_bias_f,
            grad_weight_g, None if weight_g is None else grad_bias_g,
            grad_weight1, grad_bias1, grad_weight2, grad_bias2, None if gamma is None else grad_gamma, *of_convs,
        )  # fmt: skip


class HeadsAttention(torch.autograd.Function):
    """Of queries, keys and values side by side, [B, N, 3hW], the values by each head's attention [B, N, hW]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int) -> Tensor:
        x = x.contiguous()
        images, tokens, dim = x.shape
        sides = images, heads, tokens, dim // (3 * heads)
        out = x.new_empty(images, tokens, dim // 3)
        attention(*map(address, (x, out, scratch("attention", attention_room(*sides[2:])))), *sides)
        ctx.save_for_backward(x)
        ctx.sides = sides
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), grad = ctx.saved_tensors, grad.contiguous()
        grad_x, place = torch.empty_like(x), scratch("attention", attention_room(*ctx.sides[2:]))
        attention_backward(*map(address, (grad, x, grad_x, place)), *ctx.sides)
        return grad_x, None


class Mlp(torch.autograd.Function):
    """x + drop * fc2(GELU(fc1(norm(x))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, drop: Tensor | None, eps: float, norm_weight: Tensor, norm_bias: Tensor,
        weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
    ) -> Tensor:  # fmt: skip
        tokens = tokens_of(x)
        n, mean, scale = norm(tokens, norm_weight, norm_bias, eps)
        wide = n.new_empty(len(n), len(weight1))
        branch = torch.empty_like(n)
        run_mlp(n, (weight1, bias1), (None, None), weight2, wide, branch, 1)
        ctx.save_for_backward(tokens, drop, norm_weight, weight1, bias1, weight2, n, mean, scale, wide)
        return end_branch(tokens, branch, bias2, None, drop, len(x)).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, drop, norm_weight, weight1, bias1, weight2, n, mean, scale, wide = ctx.saved_tensors
        shape, grad = grad.shape, tokens_of(grad)
        of_branch, _, grad_bias2 = branch_backward(grad, None, None, None, drop, shape[0])
        grad_n = scratch("n", *n.shape)
        grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
        grad_bias1 = sums(bias1)
        gradients = grad_n, grad_weight1, grad_bias1, None, None, grad_weight2
        run_mlp_backward(of_branch, n, (weight1, bias1), (None, None), weight2, wide, gradients, 1)
        grad_x, grad_norm_weight, grad_norm_bias = norm_backward(grad_n, tokens, norm_weight, mean, scale, grad)
        return (
            grad_x.view(shape), None, None, grad_norm_weight, grad_norm_bias,
            grad_weight1, grad_bias1, grad_weight2, grad_bias2,
        )  # fmt: skip
