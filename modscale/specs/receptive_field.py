"""How much of the image a network can see, on paper: its theoretical receptive field."""

from __future__ import annotations

from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import ModelSpec, StageSpec

DOWNSAMPLING_REACH = 2
"""Of the 3x3, stride-2 conv between two stages, in pixels of its input."""


def share_seen(spec: ModelSpec) -> float:
    """The share of the image's side that one place of the last stage depends on, above 0 and at most 1.

    1 where any block looks at the whole map, as attention does. Padding is not counted off: at the border less is seen.
    """
    field, jump = spec.stem.kernel_size, spec.stem.stride
    for i, stage in enumerate(spec.stages):
        reach = _reach(stage)
        if reach is None or stage.attention_depth:
            return 1.0
        field += stage.depth * reach * jump
        if i + 1 < len(spec.stages):
            field += DOWNSAMPLING_REACH * jump
            jump *= 2
    return min(1.0, field / spec.resolution)


def _reach(stage: StageSpec) -> int | None:
    """Of one convolutional block, in places of its map; None: the whole map."""
    kind = BLOCKS[stage.block]
    if kind.has_context and "conv" not in stage.context:
        return 0
    return kind.reach(stage.kernel_size)
