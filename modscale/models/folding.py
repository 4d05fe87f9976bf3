"""What training needs of a network and a device does not: LayerScale, which goes into the layer before it.

`gamma * (W x + b)` is `(gamma W) x + gamma b`, to the rounding of one product. A folded network answers and is not
trained.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from modscale.models.blocks import Block

SCALES = ("gamma_1", "gamma_2")
"""The LayerScale [C] of a block's first and second branch, where they have one."""


def fold_layer_scale(network: nn.Module) -> nn.Module:
    """`network`, changed in place: every LayerScale is folded into the last layer of its branch, and is gone."""
    with torch.no_grad():
        for block in network.modules():
            if not isinstance(block, Block):
                continue
            for scale, end in zip(SCALES, block.branch_ends, strict=False):
                gamma: Tensor | None = getattr(block, scale, None)
                if gamma is not None:
                    layer = cast("nn.Linear", block.get_submodule(end))
                    layer.weight.mul_(gamma[:, None])
                    layer.bias.mul_(gamma)
                    setattr(block, scale, None)
    return network
