"""The kinds of block on paper: what of a stage has an effect on each. A new kind begins with its row in `BLOCKS`.

Every kind has the stage's channels and takes one of its `mlp_ratios` a block. What it is in torch stands in
`models/blocks.py`, what it costs in `counts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Kernels = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockKind:
    """What of a stage and its network has an effect on a kind of block; two specs that agree in it are one network."""

    kernels: Callable[[Kernels], Kernels] | None = None
    """From `kernel_size` to the block's kernels, the same for all that make the same block; None: it has no effect."""
    reach: Callable[[Kernels], int | None]
    """From the block's kernels to the places along an axis, besides its own, that one output sees; None: all."""
    has_context: bool = False
    """Whether `context` and `fusion` have an effect, and `kernel_size` only with `conv` in `context`."""
    has_layer_scale: bool = False
    """Whether the network's `layer_scale` has an effect."""


def parallel_kernels(sizes: Kernels) -> Kernels:
    """Branches that are summed: their order has no effect."""
    return tuple(sorted(sizes))


def focal_kernels(sizes: Kernels) -> Kernels:
    """The chain of depthwise kernels of a `focal` block: 3, 5, ... up to one size, or the list as it stands."""
    return sizes if len(sizes) > 1 else tuple(range(min(3, sizes[0]), sizes[0] + 1, 2))


def parallel_reach(kernels: Kernels) -> int:
    """Of branches side by side, the widest's."""
    return max(kernels) - 1


VAN_REACH = (5 - 1) + 3 * (7 - 1) + (3 - 1)
"""A 5x5, then a 7x7 of dilation 3, then a 3x3 in the MLP."""

BLOCKS: Mapping[str, BlockKind] = {
    "modulation": BlockKind(kernels=parallel_kernels, reach=parallel_reach, has_context=True, has_layer_scale=True),
    "mbconv": BlockKind(kernels=parallel_kernels, reach=parallel_reach),
    "van": BlockKind(reach=lambda kernels: VAN_REACH),
    "focal": BlockKind(kernels=focal_kernels, reach=lambda kernels: None),
    "separate_mlp": BlockKind(kernels=parallel_kernels, reach=parallel_reach, has_context=True, has_layer_scale=True),
}
"""Name in a spec to what it heeds."""
