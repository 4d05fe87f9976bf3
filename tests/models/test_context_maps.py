"""The context of each stage: what the values are in fact multiplied by, whatever kind of block does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_specs import SMALL, small
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.errors import InputError
from modscale.models.context_maps import context_maps
from modscale.models.efficientmod import build_network

VALUES: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "modulation": ("mlp.fc1", "mlp.fc2", lambda x: x),
    "separate_mlp": ("modulation.fc1", "modulation.fc2", lambda x: x),
    "van": ("attn.proj_1", "attn.proj_2", F.gelu),
    "focal": ("modulation.f", "modulation.proj", lambda x: x[..., :8]),
}
"""Kind of block to the layer that gives the values, the one that takes the product, and what lies between."""


def watch(layer: nn.Module, into: list[tuple[Tensor, Tensor]]) -> None:
    layer.register_forward_hook(lambda _layer, given, out: into.append((given[0].detach(), out.detach())))


@pytest.mark.parametrize("block", VALUES)
def test_the_map_is_the_mean_of_the_product_over_the_values(block: str) -> None:
    """At ratio 1 what the last layer takes is value times context, so that their quotient is the context."""
    values, product, between = VALUES[block]
    spec = small({"dim": 8, "depth": 2, "mlp_ratios": [1], "block": block})
    network = build_network(spec, seed=0).double().eval()
    given: list[tuple[Tensor, Tensor]] = []
    taken: list[tuple[Tensor, Tensor]] = []
    last = network.layers[0].blocks[1]  # type: ignore[union-attr,index]
    watch(last.get_submodule(values), given)
    watch(last.get_submodule(product), taken)
    (found,) = context_maps(network, torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0)).double())
    expected = (taken[0][0] / between(given[0][1])).mean(-1)
    assert (found.stage, found.block, found.values.shape) == (1, 2, (2, 8, 8))
    assert expected.std() > 0
    assert torch.allclose(found.values, expected, rtol=1e-6, atol=1e-9)


def test_each_stage_is_seen_by_its_last_modulating_block() -> None:
    """Attention blocks come later in a stage and have no context; a stage of mbconv alone has none at all."""
    spec = small({"dim": 8, "depth": 1, "block": "mbconv"}, {"dim": 8, "depth": 3, "attention_depth": 2})
    (found,) = context_maps(build_network(spec, seed=0).eval(), torch.zeros(1, 3, 32, 32))
    assert (found.stage, found.block, found.values.shape) == (2, 3, (1, 4, 4))
    network = build_network(SMALL, seed=0).eval()
    assert [(one.stage, one.block) for one in context_maps(network, torch.zeros(1, 3, 32, 32))] == [(1, 2), (2, 2)]
    hooks: list[Any] = [hook for module in network.modules() for hook in module._forward_hooks.values()]
    assert hooks == []


def test_a_network_without_a_context_branch_is_refused() -> None:
    spec = small({"dim": 8, "depth": 1, "block": "mbconv", "attention_depth": 1})
    with pytest.raises(InputError, match="has no block with a context branch"):
        context_maps(build_network(spec, seed=0).eval(), torch.zeros(1, 3, 32, 32))
