"""EfficientMod in PyTorch: a spec becomes a network whose parameters bear the authors' own names.

Source: "Efficient Modulation for Vision Networks" (ICLR 2024), section 3 and Appendix A; blocks in `blocks.py`.
Where we differ from the released code: features stay channels-last throughout, so that linear layers, LayerNorm
and the depthwise conv (on a channels-last view) share one memory layout and nothing is copied between them, and
the context is multiplied by broadcasting instead of being repeated. Outputs are equal.

Shapes: B batch, R resolution, H x W tokens of a stage, C its channels, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.models.blocks import BLOCKS, AttentionBlock, channels_first, channels_last
from modscale.models.semantic_fpn import SemanticFPN, upsample
from modscale.specs.spec import SEMANTIC_DIM, ModelSpec, StageSpec


class PatchEmbedding(nn.Module):
    """Conv, then LayerNorm: the stem and the downsampling between stages. Channels-last in and out."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.proj(channels_first(x))))


class Stage(nn.Module):
    """The blocks of one stage and, except after the last stage, the downsampling to the next."""

    def __init__(
        self, stage: StageSpec, layer_scale: float | None, drop_path_rates: list[float], next_dim: int | None
    ) -> None:
        super().__init__()
        block = BLOCKS[stage.block]
        blocks: list[nn.Module] = [
            block(stage, ratio, layer_scale, rate)
            for ratio, rate in zip(stage.block_ratios(), drop_path_rates, strict=False)
        ]
        blocks += [AttentionBlock(stage.dim, stage.attention_hidden(), rate) for rate in drop_path_rates[stage.depth :]]
        self.blocks = nn.Sequential(*blocks)
        if next_dim is not None:
            self.downsample = PatchEmbedding(stage.dim, next_dim, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.blocks(x))

    def reduce(self, x: Tensor) -> Tensor:
        """What the blocks gave, as the next stage takes it."""
        return self.downsample(x) if hasattr(self, "downsample") else x


class EfficientMod(nn.Module):
    """The network of a spec: images [B, in_chans, R, R] to logits [B, K]."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.patch_embed, self.layers = _backbone(spec)
        self.norm = nn.LayerNorm(spec.stages[-1].dim)
        self.head = nn.Linear(spec.stages[-1].dim, spec.num_classes)
        self.apply(_initialise)

    def forward_features(self, x: Tensor) -> Tensor:
        """Pooled features [B, C of the last stage] of images [B, in_chans, R, R]."""
        x = self.patch_embed(channels_last(x))  # [B, H, W, C]
        for layer in self.layers:
            x = layer(x)
        return self._pool(x)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The pooled features of `forward_features`, and what the blocks of each stage gave, [B, C, H, W] each."""
        maps = _maps(self.patch_embed, self.layers, x)
        return self._pool(channels_last(maps[-1])), maps

    def answer(self, features: Tensor) -> Tensor:
        """Logits [B, K] by the features of `forward_features`."""
        return self.head(features)

    def _pool(self, x: Tensor) -> Tensor:
        x = channels_first(self.norm(x))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


class SegmentingEfficientMod(nn.Module):
    """The same stages under Semantic FPN: images [B, in_chans, R, R] to a mask for each class, [B, K, R, R], as logits.

    The stages bear the same names as a classifier's, so that its weights are taken over as they are.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.patch_embed, self.layers = _backbone(spec)
        self.apply(_initialise)
        self.fpn = SemanticFPN([stage.dim for stage in spec.stages])
        self.head = nn.Conv2d(SEMANTIC_DIM, spec.num_classes, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(cast("Tensor", self.head.bias))
        self.stride = spec.stem.stride

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What Semantic FPN makes of the maps, and what the blocks of each stage gave, [B, C, H, W] each."""
        maps = _maps(self.patch_embed, self.layers, x)
        return self.fpn(maps), maps

    def answer(self, features: Tensor) -> Tensor:
        """Masks [B, K, R, R] by what Semantic FPN made of the maps."""
        return upsample(self.head(features), self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.forward_maps(x)[0])


Network = EfficientMod | SegmentingEfficientMod
NETWORKS: dict[str, type[EfficientMod | SegmentingEfficientMod]] = {
    "classifier": EfficientMod,
    "semantic_fpn": SegmentingEfficientMod,
}
"""By a spec's head."""


def build_network(spec: ModelSpec, *, seed: int | None = None) -> Network:
    """The network of `spec`, freshly initialised; with a seed, always to the same weights.

    The global random state is left as it was when a seed is given.

    >>> import modscale, torch
    >>> network = modscale.build_network(modscale.published("xxs"), seed=0)
    >>> network(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 1000])
    """
    build = NETWORKS[spec.head]
    if seed is None:
        return build(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec)


def _backbone(spec: ModelSpec) -> tuple[PatchEmbedding, nn.ModuleList]:
    """The stem and the stages of a spec."""
    stem, first = spec.stem, spec.stages[0]
    patch_embed = PatchEmbedding(spec.in_chans, first.dim, stem.kernel_size, stem.stride, stem.padding)
    last_block = max(spec.num_blocks() - 1, 1)
    rates = [spec.drop_path_rate * i / last_block for i in range(spec.num_blocks())]
    next_dims: list[int | None] = [*(stage.dim for stage in spec.stages[1:]), None]
    layers = nn.ModuleList()
    for stage, next_dim in zip(spec.stages, next_dims, strict=True):
        size = stage.depth + stage.attention_depth
        layers.append(Stage(stage, spec.layer_scale, rates[:size], next_dim))
        rates = rates[size:]
    return patch_embed, layers


def _maps(patch_embed: nn.Module, layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What the blocks of each stage give for images [B, C, R, R], [B, C, H, W] each."""
    x = patch_embed(channels_last(x))
    maps = []
    for layer in cast("list[Stage]", layers):
        maps.append(layer.blocks(x))
        x = layer.reduce(maps[-1])
    return [channels_first(one) for one in maps]


def _initialise(module: nn.Module) -> None:
    """Linear layers: truncated normal of std 0.02, zero bias. Convs keep PyTorch's default, as the authors' do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
