"""The depthwise conv as it is trained on a CPU: the same sums, with a weight gradient that small feature maps allow.

oneDNN's weight gradient of a depthwise conv takes tens of times its forward pass where the map is small (4x4 and
below), as the maps of a proxy training are. Here it is one matrix product a channel: the output's gradient times
the input tells how each place of the one goes with each of the other, [HW, HW], and a tap of the kernel is the sum over
the pairs of places that lie as far apart as the tap from the kernel's middle. A map of one place sees the middle alone.

Shapes: B batch, C channels, H x W the feature map, k the kernel's side, d its dilation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch leaves it out of its list
from torch.nn import functional as F

MOST_TOKENS = 64
"""Size of the map, H x W, up to which the products are about as fast, or far faster (benchmarks/depthwise.py)."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise conv that keeps the size of the feature map, [B, C, H, W]."""

    def __init__(self, dim: int, kernel_size: int, *, dilation: int = 1, bias: bool = True) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not is_scripting() and self.training and isinstance(x, Tensor):  # TorchScript and fx: plain convs
            is_small = x.shape[-2] * x.shape[-1] <= MOST_TOKENS
            if x.device.type == "cpu" and is_small and not torch.is_autocast_enabled("cpu"):
                out: Tensor = _Depthwise.apply(x, self.weight, self.bias, self.dilation[0])  # type: ignore[no-untyped-call]
                return out
        return self._conv_forward(x, self.weight, self.bias)


class _Depthwise(torch.autograd.Function):
    """The conv with `weight_gradient`; the rest is oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _conv(x, weight, bias, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = _conv(grad, weight.flip(2, 3), None, ctx.dilation) if ctx.needs_input_grad[0] else None
        grad_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, weight_gradient(x, grad, weight.shape[-1], ctx.dilation), grad_bias, None


def weight_gradient(x: Tensor, grad: Tensor, size: int, dilation: int = 1) -> Tensor:
    """[C, 1, k, k], for inputs [B, C, H, W] and the output's gradient of the same shape, padded by zeros to keep it."""
    _, dim, height, width = x.shape
    margin = size // 2 * dilation
    pairs = by_channel(grad).transpose(1, 2) @ by_channel(x)
    padded = F.pad(pairs.view(dim, height, width, height, width), (margin, margin, margin, margin))
    channel, row, column, down, right = padded.stride()
    taps = padded.as_strided(
        (dim, size, size, height, width), (channel, dilation * down, dilation * right, row + down, column + right)
    )
    return taps.sum((3, 4)).unsqueeze(1)


def by_channel(x: Tensor) -> Tensor:
    """[B, C, H, W], channels-last in memory, to [C, B, HW]."""
    batch, dim, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(-1, dim).t().contiguous().view(dim, batch, height * width)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    middle = weight.shape[-1] // 2
    if x.shape[-2:] == (1, 1):
        product = x * weight[:, 0, middle, middle, None, None]
        return product if bias is None else product + bias[:, None, None]
    padding = dilation * middle
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=len(weight))
