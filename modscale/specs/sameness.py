"""Which specs are the same network: what has an effect on it, and what only says it in other words."""

from __future__ import annotations

import math
from typing import Any

from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import CONTEXT_PARTS, ModelSpec, StageSpec


def network_key(spec: ModelSpec) -> tuple[Any, ...]:
    """Equal for two specs exactly when they describe the same network, whatever their names."""
    has_layer_scale = any(BLOCKS[stage.block].has_layer_scale for stage in spec.stages)
    return (
        spec.resolution, spec.in_chans, spec.num_classes, spec.head, spec.stem,
        spec.layer_scale if has_layer_scale else None, spec.drop_path_rate,
        tuple(canonical_stage(stage) for stage in spec.stages),
    )  # fmt: skip


def canonical_stage(stage: StageSpec) -> StageSpec:
    """The same blocks with every field that has no effect on them at its default."""
    kind = BLOCKS[stage.block]
    kernels = kind.kernels if not kind.has_context or "conv" in stage.context else None
    return StageSpec(
        dim=stage.dim,
        depth=stage.depth,
        mlp_ratios=_shortest_cycle(stage.block_ratios()),
        kernel_size=kernels(stage.kernel_size) if kernels else (7,),
        attention_depth=stage.attention_depth,
        attention_mlp_ratio=_ratio_of(stage.attention_hidden(), stage.dim) if stage.attention_depth else 4,
        block=stage.block,
        context=stage.context if kind.has_context else CONTEXT_PARTS,
        fusion=stage.fusion if kind.has_context else "mul",
    )


def _ratio_of(hidden: int, dim: int) -> float:
    """The least ratio whose product with `dim` is cut off to `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _shortest_cycle(ratios: tuple[int, ...]) -> tuple[int, ...]:
    """The shortest prefix that, repeated, gives `ratios`."""
    for length in range(1, len(ratios) + 1):
        if all(ratio == ratios[i % length] for i, ratio in enumerate(ratios)):
            return ratios[:length]
    return ratios
