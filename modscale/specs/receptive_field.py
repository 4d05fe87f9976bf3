"""What of the image a network can see, on paper: its theoretical receptive field, and where its tokens look."""

from __future__ import annotations

from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import ModelSpec, StageSpec

DOWNSAMPLING_REACH = 2
"""Of the 3x3, stride-2 conv between two stages, in pixels of its input."""


def token_places(spec: ModelSpec, stage: int) -> tuple[float, int]:
    """Where the tokens of a stage (from 1) look, along a side: the middle of the first one's field, and their distance.

    In pixels from the image's edge, so that the middle of its first pixel lies at 0.5. A block keeps the middle of a
    token's field where it is, and so does a downsampling that pads by one: a stem that pads has its first token at the
    very edge, and not half a stride from it.

    >>> from modscale.specs.published import published
    >>> token_places(published("xxs"), 4)
    (0.5, 32)
    """
    stem = spec.stem
    return stem.kernel_size / 2 - stem.padding, stem.stride * 2 ** (stage - 1)


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
