"""What the context branch sees: the mean over channels of the context by which a block modulates its values.

Source: "Efficient Modulation for Vision Networks" (ICLR 2024), section 4.2 and Figure 4: the context layer's output
(Eq. 5) in the forward pass, averaged over its channels. The paper does not say of which block; here it is the last
modulating one of each stage. `van` and `focal` have such a context too, `mbconv` has none.

Shapes: B batch, R resolution, H x W tokens of a stage, C its channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from modscale.errors import InputError
from modscale.models.blocks import Block
from modscale.models.efficientmod import Network, Stage


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ContextMap:
    """The context of one stage."""

    stage: int
    """Number of the stage, from 1."""
    block: int
    """Number of the block in it, from 1."""
    values: Tensor
    """[B, H, W]: the mean over the C channels."""


@torch.inference_mode()
def context_maps(network: Network, images: Tensor) -> list[ContextMap]:
    """The contexts of normalised images [B, in_chans, R, R], one for each stage that has a context branch.

    The network is run in the mode that it is in.

    Raises:
        InputError: no stage has one.
    """
    chosen = {}
    for number, stage in enumerate(cast("list[Stage]", network.layers), 1):
        modulating = [
            (i, block) for i, block in enumerate(stage.blocks, 1) if isinstance(block, Block) and block.context_layer
        ]
        if modulating:
            chosen[number] = modulating[-1]
    if not chosen:
        raise InputError("has no block with a context branch (mbconv and attention blocks have none)")
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_layer: nn.Module, _given: Any, context: Tensor) -> None:
            found[number] = context.mean(dim=-1)

        return hook

    handles = [
        block.get_submodule(block.context_layer).register_forward_hook(keep(number))
        for number, (_, block) in chosen.items()
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [ContextMap(stage=number, block=i, values=found[number]) for number, (i, _) in chosen.items()]
