"""The blocks a stage can be made of, channels-last: [B, H, W, C] in and out.

`modulation` is the paper's own (section 3.2). The others are what the paper compares it with:

- `separate_mlp` (Appendix L): modulation and MLP as two residual sub-blocks, each with its LayerNorm and LayerScale.
- `mbconv` (Table 6): MobileNetV2's inverted residual (arXiv 1801.04381): 1x1 expand, depthwise, 1x1, BatchNorm after
  each, ReLU6 after the first two, convs without bias. We differ: the expansion is there at ratio 1 too, and the block
  is always residual (stride and channel changes belong to the downsampling).
- `van` (Table 4): Visual Attention Network (arXiv 2202.09741): BatchNorm before each half, GELU, large-kernel
  attention of a depthwise 5x5, a depthwise 7x7 of dilation 3 and a 1x1; an MLP with a depthwise 3x3. We differ: no
  LayerScale (here that is the modulation block's), and stem and downsampling are EfficientMod's.
- `focal` (Table 4): FocalNet (arXiv 2203.11926): LayerNorm, one linear layer to query, context and gates, a chain of
  depthwise convs with GELU (`kernel_size: 7` is the paper's long-range chain 3, 5, 7; a list names the chain), a
  globally averaged level, and a GELU MLP, no LayerScale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch leaves it out of its list
from torch.nn import functional as F

from modscale.models.depthwise import DepthwiseConv2d
from modscale.models.drop_path import DropPath
from modscale.models.modulated_mlp import is_worth_pieces, modulate_in_pieces
from modscale.specs.block_kinds import focal_kernels
from modscale.specs.spec import ATTENTION_HEADS, StageSpec, attention_width


def channels_first(x: Tensor) -> Tensor:
    """[B, H, W, C] to [B, C, H, W], a view."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H, W, C], a view."""
    return x.permute(0, 2, 3, 1)


class Block(nn.Module):
    """What stages are made of: one or more residual branches, [B, H, W, C] in and out."""

    branch_ends: ClassVar[tuple[str, ...]]
    """The last layer of each residual branch, before its LayerScale; training without LayerScale starts them small."""
    context_layer: ClassVar[str] = ""
    """The layer that gives the context [B, H, W, C] by which the values are modulated; empty where there is none."""


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ContextLayer(nn.Module):
    """The context branch: f, then parallel depthwise convs with GELU, summed, then g; any part may be left out."""

    def __init__(self, stage: StageSpec) -> None:
        super().__init__()
        dim = stage.dim
        if "f" in stage.context:
            self.f = nn.Linear(dim, dim)
        if "g" in stage.context:
            self.g = nn.Linear(dim, dim)
        if "conv" in stage.context:
            self.context_list = nn.ModuleList(DepthwiseConv2d(dim, size) for size in stage.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "f"):
            x = self.f(x)
        if hasattr(self, "context_list"):
            images = channels_first(x)
            maps = [conv(images) for conv in self.context_list]
            if len(maps) == 1:  # channels-last first: ONNX Runtime pads channels in the layout of its convs, GELU's too
                x = F.gelu(channels_last(maps[0]))
            else:
                x = channels_last(_sum_of([F.gelu(one) for one in maps]))
        return self.g(x) if hasattr(self, "g") else x


class ModulationMlp(nn.Module):
    """fc1 expands the value r times; the context modulates each copy of its channels; fc2 projects back."""

    def __init__(self, stage: StageSpec, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.fusion = stage.fusion
        self.fc1 = nn.Linear(stage.dim, stage.dim * ratio)
        self.context_layer = ContextLayer(stage)
        self.fc2 = nn.Linear(stage.dim * ratio, stage.dim)

    def forward(self, x: Tensor) -> Tensor:
        if not is_scripting() and self.training and isinstance(x, Tensor):  # TorchScript and fx: as it is written
            is_in_pieces = self.fusion == "mul" and is_worth_pieces(x, self.ratio)
            if is_in_pieces:
                layers = [(layer.weight, layer.bias) for layer in (self.fc1, self.fc2)]
                return modulate_in_pieces(x, self.context_layer(x), *layers)
        value = self.fc1(x)
        context = self.context_layer(x)
        if self.ratio > 1:
            value = F.gelu(value)
            shape = [x.shape[0], x.shape[1], x.shape[2], self.ratio, x.shape[3]]
            value = value.reshape(shape)  # [B, H, W, r, C]
            context = context.unsqueeze(-2)
        fused = value * context if self.fusion == "mul" else value + context
        return self.fc2(fused.flatten(3))  # [B, H, W, C]


class ModulationBlock(Block):
    """The paper's block: modulation and MLP fused, one residual connection, optional LayerScale."""

    branch_ends = ("mlp.fc2",)
    context_layer = "mlp.context_layer"

    def __init__(self, stage: StageSpec, ratio: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(stage.dim)
        self.mlp = ModulationMlp(stage, ratio)
        self.gamma_1 = _layer_scale(stage.dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(_scaled(self.gamma_1, self.mlp(self.norm(x))))


class SeparateMlpBlock(Block):
    """Modulation at ratio 1, then an MLP at the block's ratio, each residual (Appendix L)."""

    branch_ends = ("modulation.fc2", "mlp.fc2")
    context_layer = "modulation.context_layer"

    def __init__(self, stage: StageSpec, ratio: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim)
        self.modulation = ModulationMlp(stage, 1)
        self.gamma_1 = _layer_scale(stage.dim, layer_scale)
        self.norm2 = nn.LayerNorm(stage.dim)
        self.mlp = Mlp(stage.dim, stage.dim * ratio)
        self.gamma_2 = _layer_scale(stage.dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(_scaled(self.gamma_1, self.modulation(self.norm1(x))))
        return x + self.drop_path(_scaled(self.gamma_2, self.mlp(self.norm2(x))))


class MBConvBlock(Block):
    """MobileNetV2's inverted residual; a list of kernel sizes makes parallel depthwise convs, summed."""

    branch_ends = ("norm3",)

    def __init__(self, stage: StageSpec, ratio: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        hidden = stage.dim * ratio
        self.expand = nn.Linear(stage.dim, hidden, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.ModuleList(DepthwiseConv2d(hidden, size, bias=False) for size in stage.kernel_size)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.project = nn.Linear(hidden, stage.dim, bias=False)
        self.norm3 = nn.BatchNorm2d(stage.dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        images = F.relu6(self.norm1(channels_first(self.expand(x))))
        images = F.relu6(self.norm2(_sum_of([conv(images) for conv in self.depthwise])))
        y = self.norm3(channels_first(self.project(channels_last(images))))
        return x + self.drop_path(channels_last(y))


class LargeKernelAttention(nn.Module):
    """VAN's attention: the input times its own large-kernel context, between two linear layers, residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(dim, dim)
        self.conv0 = DepthwiseConv2d(dim, 5)
        self.conv_spatial = DepthwiseConv2d(dim, 7, dilation=3)
        self.conv1 = nn.Linear(dim, dim)
        self.proj_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value = F.gelu(self.proj_1(x))
        attention = self.conv1(channels_last(self.conv_spatial(self.conv0(channels_first(value)))))
        return x + self.proj_2(value * attention)


class ConvMlp(nn.Module):
    """VAN's MLP: linear, depthwise 3x3, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv2d(hidden, 3)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(channels_last(self.dwconv(channels_first(self.fc1(x))))))


class VanBlock(Block):
    """VAN: large-kernel attention, then the MLP with a depthwise conv, each residual after BatchNorm."""

    branch_ends = ("attn.proj_2", "mlp.fc2")
    context_layer = "attn.conv1"

    def __init__(self, stage: StageSpec, ratio: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(stage.dim)
        self.attn = LargeKernelAttention(stage.dim)
        self.norm2 = nn.BatchNorm2d(stage.dim)
        self.mlp = ConvMlp(stage.dim, stage.dim * ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(channels_last(self.norm1(channels_first(x)))))
        return x + self.drop_path(self.mlp(channels_last(self.norm2(channels_first(x)))))


class FocalModulation(nn.Module):
    """FocalNet's modulation: a chain of depthwise contexts and a global one, each gated, summed, times the query."""

    def __init__(self, dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.f = nn.Linear(dim, 2 * dim + len(kernels) + 1)
        self.focal_layers = nn.ModuleList(DepthwiseConv2d(dim, size, bias=False) for size in kernels)
        self.h = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = self.f(x).split([self.dim, self.dim, len(self.focal_layers) + 1], dim=-1)
        levels = []
        for level, conv in enumerate(self.focal_layers):
            context = F.gelu(channels_last(conv(channels_first(context))))
            levels.append(context * gates[..., level : level + 1])
        pooled = F.gelu(context.mean(dim=(1, 2), keepdim=True))
        levels.append(pooled * gates[..., len(self.focal_layers) :])
        return self.proj(query * self.h(_sum_of(levels)))


class FocalBlock(Block):
    """FocalNet: focal modulation, then a GELU MLP, each residual after LayerNorm."""

    branch_ends = ("modulation.proj", "mlp.fc2")
    context_layer = "modulation.h"

    def __init__(self, stage: StageSpec, ratio: int, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim)
        self.modulation = FocalModulation(stage.dim, focal_kernels(stage.kernel_size))
        self.norm2 = nn.LayerNorm(stage.dim)
        self.mlp = Mlp(stage.dim, stage.dim * ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.modulation(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Softmax attention over all tokens: 8 heads, no qkv bias, no position embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = attention_width(dim)
        self.heads = ATTENTION_HEADS
        self.qkv = nn.Linear(dim, 3 * width, bias=False)
        self.proj = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)  # [B, N, C]
        qkv = self.qkv(tokens).unflatten(-1, [3 * self.heads, -1])
        query, key, value = qkv.transpose(1, 2).split(self.heads, dim=1)  # [B, heads, N, width]
        out = F.scaled_dot_product_attention(query, key, value)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return out.unflatten(1, x.shape[1:3])  # [B, H, W, C]


class AttentionBlock(Block):
    """The attention block of the hybrids: pre-LayerNorm attention, then a GELU MLP, no LayerScale."""

    branch_ends = ("attn.proj", "mlp.fc2")

    def __init__(self, dim: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


BLOCKS: dict[str, Callable[[StageSpec, int, float | None, float], Block]] = {
    "modulation": ModulationBlock,
    "mbconv": MBConvBlock,
    "van": VanBlock,
    "focal": FocalBlock,
    "separate_mlp": SeparateMlpBlock,
}


def _layer_scale(dim: int, initial: float | None) -> nn.Parameter | None:
    return None if initial is None else nn.Parameter(torch.full((dim,), initial))


def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x


def _sum_of(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
