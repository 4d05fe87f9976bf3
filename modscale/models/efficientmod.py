"""EfficientMod in PyTorch: a spec becomes a network whose parameters bear the authors' own names.

Source: "Efficient Modulation for Vision Networks" (ICLR 2024), section 3 and Appendix A; blocks in `blocks.py`.
Where we differ from the released code: features stay channels-last throughout, so that linear layers, LayerNorm
and the depthwise conv (on a channels-last view) share one memory layout and nothing is copied between them, and
the context is multiplied by broadcasting instead of being repeated. Outputs are equal.

What else a backbone offers (`forward_features` and its like) has the names and meanings that it has in timm's models,
so that what is written for those takes this one too; nothing of timm's is needed for it.

Shapes: B batch, R resolution, H x W tokens of a stage, C its channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch leaves it out of its list
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modscale.errors import InputError
from modscale.models.blocks import BLOCKS, AttentionBlock, channels_first, channels_last
from modscale.models.semantic_fpn import SemanticFPN, upsample
from modscale.specs.spec import FPN_DIM, SEMANTIC_DIM, ModelSpec, StageSpec

POOLS = ("avg", "")
"""How features become a vector: their average, or not at all."""
FORMATS = ("NCHW", "NHWC")
"""The two orders of a map's axes."""


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
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.run_blocks(x))

    def run_blocks(self, x: Tensor) -> Tensor:
        """The stage's map, before it is reduced; with gradient checkpointing each block runs again in the backward."""
        if not is_scripting() and self.grad_checkpointing and torch.is_grad_enabled():
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_twice, block))
            return x
        return self.blocks(x)

    def reduce(self, x: Tensor) -> Tensor:
        """What the blocks gave, as the next stage takes it."""
        return self.downsample(x) if hasattr(self, "downsample") else x


class EfficientMod(nn.Module):
    """The network of a spec: images [B, in_chans, R, R] to logits [B, K]."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.patch_embed, self.layers = _backbone(spec)
        self.norm: nn.Module = nn.LayerNorm(spec.stages[-1].dim)
        self.head: nn.Module = nn.Linear(spec.stages[-1].dim, spec.num_classes)
        self.apply(_initialise)
        self.in_chans, self.num_classes = spec.in_chans, spec.num_classes
        self.num_features = self.head_hidden_size = spec.stages[-1].dim
        self.global_pool = "avg"
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stage.dim, "reduction": spec.stem.stride * 2**i, "module": f"layers.{i}.blocks"}
            for i, stage in enumerate(spec.stages)
        ]
        """A dict a stage: its channels, the pixels a token stands for along a side, the module that gives its map.

        That module's own output is [B, H, W, C].
        """

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map [B, C, H, W], normalised and not pooled, of images [B, in_chans, R, R]."""
        x = self.patch_embed(channels_last(x))  # [B, H, W, C]
        for stage in self.layers:
            x = stage(x)
        return channels_first(self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B, K] of what `forward_features` gave; with `pre_logits` the pooled features [B, C].

        Without classes the latter in either case; without pooling, maps [B, K or C, H, W].
        """
        if self.global_pool != "":
            x = F.adaptive_avg_pool2d(x, 1).flatten(1)
            return x if pre_logits else self.head(x)
        return x if pre_logits else channels_first(self.head(channels_last(x)))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What `forward_features` gives, and the maps of stages as their blocks leave them.

        Args:
            x: images [B, in_chans, R, R].
            indices: the last so many stages, or those of these indices (from the end where negative); None is all.
            norm: normalise the last stage's map, as `forward_features` does.
            stop_early: compute no stage after the last that is asked for; what comes first is then its map.
            output_fmt: `NCHW`, or `NHWC`, of the maps.
            intermediates_only: give the maps alone.

        Raises:
            InputError: there is no such stage or format.
        """
        if output_fmt not in FORMATS:
            raise InputError(f"must be one of {', '.join(FORMATS)}", place="output_fmt", value=output_fmt)
        stages = cast("list[Stage]", list(self.layers))
        taken = stage_indices(len(stages), indices)
        if stop_early:
            stages = stages[: max(taken) + 1]
        maps = []
        x = self.patch_embed(channels_last(x))  # [B, H, W, C]
        for i, stage in enumerate(stages):
            x = stage.run_blocks(x)
            is_last = i == len(self.layers) - 1
            if i in taken:
                given = self.norm(x) if norm and is_last else x
                maps.append(channels_first(given) if output_fmt == "NCHW" else given)
            if is_last:
                x = self.norm(x)
            elif i < len(stages) - 1:
                x = stage.reduce(x)
        return maps if intermediates_only else (channels_first(x), maps)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features of `forward_features`, and what the blocks of each stage gave, [B, C, H, W] each."""
        maps = _maps(self.patch_embed, self.layers, x)
        return channels_first(self.norm(channels_last(maps[-1]))), maps

    def answer(self, features: Tensor) -> Tensor:
        """Logits [B, K] by the features of `forward_features`."""
        return self.forward_head(features)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the maps of these stages do not need, for good; gives their indices from the start.

        Raises:
            InputError: there is no such stage.
        """
        taken = stage_indices(len(self.layers), indices)
        last = max(taken)
        ends_early = last < len(self.layers) - 1
        self.layers = self.layers[: last + 1]
        if ends_early:
            del self.layers[last].downsample
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_norm or ends_early:
            self.norm = nn.Identity()
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer: linear, or nothing where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head of so many classes, none for 0; `global_pool` is one of `POOLS`, None leaves it as it is.

        Raises:
            InputError: no such number or pooling.
        """
        if num_classes < 0:
            raise InputError("must be 0 or more", place="num_classes", value=num_classes)
        if global_pool not in (None, *POOLS):
            raise InputError("must be 'avg', or '' for none", place="global_pool", value=global_pool)
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        head: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        _initialise(head)
        like = self.patch_embed.proj.weight
        self.head = head.to(device=like.device, dtype=like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether a training keeps only what a block takes, and runs it again in the backward: less memory, slower."""
        for stage in cast("list[Stage]", self.layers):
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that no decay should pull to zero, whatever their shape: LayerScale."""
        return {name for name, _ in self.named_parameters() if "gamma_" in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which parameters fall into layers, for rates that differ by depth.

        The stem, then each block (`coarse`: each stage); a downsampling goes with the block before it, the last norm
        with the last block, and the head comes last.
        """
        with_previous = (99999,)  # timm's sign for it
        blocks: Any = [
            (r"^layers\.(\d+)\.blocks\.(\d+)", None),
            (r"^layers\.(\d+)\.downsample", with_previous),
            (r"^norm", with_previous),
        ]
        return {"stem": r"^patch_embed", "blocks": [(r"^layers\.(\d+)", None), blocks[-1]] if coarse else blocks}


# torch.fx writes annotations into its graphs as they stand here, and TorchScript must know them there.
EfficientMod.forward.__annotations__.update({"x": Tensor, "return": Tensor})


class SegmentingEfficientMod(nn.Module):
    """The same stages under Semantic FPN: images [B, in_chans, R, R] to a mask for each class, [B, K, R, R], as logits.

    The stages bear the same names as a classifier's, so that its weights are taken over as they are. Semantic FPN has
    its published channels, or others.
    """

    def __init__(self, spec: ModelSpec, pyramid_dim: int = FPN_DIM, branch_dim: int = SEMANTIC_DIM) -> None:
        super().__init__()
        self.patch_embed, self.layers = _backbone(spec)
        self.apply(_initialise)
        self.fpn = SemanticFPN([stage.dim for stage in spec.stages], pyramid_dim, branch_dim)
        self.head = nn.Conv2d(branch_dim, spec.num_classes, 1)
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
        maps.append(layer.run_blocks(x))
        x = layer.reduce(maps[-1])
    return [channels_first(one) for one in maps]


def stage_indices(stages: int, indices: int | Sequence[int] | None) -> list[int]:
    """Indices from 0 of the last so many of `stages`, or of those named, from the end where negative; None is all.

    >>> stage_indices(4, 2), stage_indices(4, [0, -1])
    ([2, 3], [0, 3])

    Raises:
        InputError: there is none of these, or not one is asked for.
    """
    if isinstance(indices, int):
        if not 1 <= indices <= stages:
            raise InputError(f"must be 1 to {stages} as a number of stages", place="indices", value=indices)
        return list(range(stages - indices, stages))
    taken = list(range(stages)) if indices is None else [stages + i if i < 0 else i for i in indices]
    if not taken or not all(0 <= i < stages for i in taken):
        raise InputError(f"must be of {stages} stages, at least one", place="indices", value=indices)
    return taken


def _twice(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around a block's first run and its second, in which BatchNorm must not count the same images again."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [(norm, norm.momentum) for norm in block.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum


def _initialise(module: nn.Module) -> None:
    """Linear layers: truncated normal of std 0.02, zero bias. Convs keep PyTorch's default, as the authors' do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
