"""The same layers, trained by the kernels of `kernels/`, where these are asked for.

It holds for training in float32 on a CPU; anything else is computed as ever. Logits and gradients are torch's to 1e-5
of themselves, not to the bit, and the same for any number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modscale.models.blocks import Attention, AttentionBlock, ModulationBlock
from modscale.models.drop_path import DropPath
from modscale.models.efficientmod import PatchEmbedding
from modscale.models.kernel_functions import HeadsAttention, LayerNorm, Linear, Mlp, Modulation, Patches


def use_kernels(network: nn.Module) -> None:
    """Has a network trained by the kernels from now on, where they fit."""
    for module in network.modules():
        module.__class__ = KERNEL_FORMS.get(type(module), type(module))


def fits(layer: nn.Module, x: Tensor) -> bool:
    """Whether this is a training in float32 on a CPU."""
    is_trained = layer.training and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return is_trained and x.device.type == "cpu" and x.dtype == torch.float32


class KernelLayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        if not fits(self, x):
            return super().forward(x)
        return LayerNorm.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]


class KernelLinear(nn.Linear):
    """Along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        if not fits(self, x):
            return super().forward(x)
        return Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]


class KernelPatchEmbedding(PatchEmbedding):
    """Conv, as one product, then LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        is_image = not x.requires_grad  # of any number of channels
        if not fits(self, x):
            return super().forward(x)
        geometry = self.proj.kernel_size[0], self.proj.stride[0], int(self.proj.padding[0])
        layers = (self.proj.weight, self.proj.bias, self.norm.weight, self.norm.bias)
        return Patches.apply(x, is_image, geometry, self.norm.eps, *layers)  # type: ignore[no-untyped-call]


class KernelModulationBlock(ModulationBlock):
    """The paper's block, where it multiplies by the context."""

    def forward(self, x: Tensor) -> Tensor:
        mlp, context = self.mlp, self.mlp.context_layer
        if mlp.fusion != "mul" or not fits(self, x):
            return super().forward(x)
        convs = list(getattr(context, "context_list", ()))
        geometry = tuple((conv.kernel_size[0], conv.dilation[0]) for conv in convs)
        layers = [self.norm.weight, self.norm.bias, *_linear(context, "f"), *_linear(context, "g")]
        layers += [*_linear(mlp, "fc1"), *_linear(mlp, "fc2"), self.gamma_1]
        layers += [parameter for conv in convs for parameter in (conv.weight, conv.bias)]
        shares = _shares(self.drop_path, x)
        return Modulation.apply(x, shares, mlp.ratio, geometry, self.norm.eps, *layers)  # type: ignore[no-untyped-call]


class KernelAttention(Attention):
    """Softmax attention over all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        if not fits(self, x):
            return super().forward(x)
        seen = HeadsAttention.apply(self.qkv(x.flatten(1, 2)), self.heads)  # type: ignore[no-untyped-call]
        return self.proj(seen).unflatten(1, x.shape[1:3])


class KernelAttentionBlock(AttentionBlock):
    """Its MLP by the kernels; its attention has its own."""

    def forward(self, x: Tensor) -> Tensor:
        if not fits(self, x):
            return super().forward(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        layers = [self.norm2.weight, self.norm2.bias, *_linear(self.mlp, "fc1"), *_linear(self.mlp, "fc2")]
        return Mlp.apply(x, _shares(self.drop_path, x), self.norm2.eps, *layers)  # type: ignore[no-untyped-call]


KERNEL_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: KernelLayerNorm,
    nn.Linear: KernelLinear,
    PatchEmbedding: KernelPatchEmbedding,
    ModulationBlock: KernelModulationBlock,
    Attention: KernelAttention,
    AttentionBlock: KernelAttentionBlock,
}


def _linear(layer: nn.Module, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a linear layer, where there is one of this name."""
    linear = getattr(layer, name, None)
    return (None, None) if linear is None else (linear.weight, linear.bias)


def _shares(path: DropPath, x: Tensor) -> Tensor | None:
    """[B], by what each image's branch is multiplied; None: 1."""
    return None if path.rate == 0.0 else path(x.new_ones(len(x), 1, 1, 1)).flatten()
