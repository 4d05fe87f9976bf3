"""The proxy's recipe: where weights start, and how fast each of them moves."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import ModelSpec, StageSpec, parse_spec
from modscale.training.recipe import (
    branch_ends,
    damp_branches,
    learning_rate_factor,
    parameter_groups,
    replace_batch_norm,
    rescale_weights,
)

SETTINGS = ProxySettings(resolution=16, epochs=2, batch_size=8, device="cpu", threads=1)


def test_rates_follow_fan_in_and_vectors_do_not_decay() -> None:
    """Every parameter is in one group; a matrix of fan-in n trains at min(1, 64 / n), vectors without weight decay."""
    stages = (StageSpec(dim=16, depth=2), StageSpec(dim=128, depth=1, kernel_size=(9,), attention_depth=1))
    spec = ModelSpec(stages=stages)
    network = build_network(spec, seed=0)
    found = {}
    for group in parameter_groups(network, SETTINGS):
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["scale"], group["weight_decay"])
    names = {name: found.pop(id(parameter)) for name, parameter in network.named_parameters()}
    assert not found
    decay = SETTINGS.weight_decay
    assert names["patch_embed.proj.weight"] == (64 / (3 * 49), decay)
    assert names["layers.0.downsample.proj.weight"] == (64 / (16 * 9), decay)
    assert names["layers.0.blocks.0.mlp.fc1.weight"] == (1.0, decay)
    assert names["layers.0.blocks.1.mlp.fc2.weight"] == (64 / 96, decay)
    assert names["layers.1.blocks.0.mlp.context_layer.context_list.0.weight"] == (1.0, decay)
    assert names["layers.1.blocks.1.attn.qkv.weight"] == (0.5, decay)
    assert names["head.weight"] == (0.5, decay)
    for name in ("layers.0.blocks.0.gamma_1", "norm.weight", "head.bias", "layers.0.blocks.0.mlp.fc1.bias"):
        assert names[name] == (1.0, 0.0)


def test_weights_start_at_unit_gain() -> None:
    """Linear layers and dense convs have variance 1 / fan_in; the head and the depthwise convs are left alone."""
    spec = ModelSpec(stages=(StageSpec(dim=64, depth=1), StageSpec(dim=128, depth=1)))
    network, before = build_network(spec, seed=0), build_network(spec, seed=0)
    rescale_weights(network)
    for (name, module), (_, old) in zip(network.named_modules(), before.named_modules(), strict=True):
        if name == "head" or (isinstance(module, nn.Conv2d) and module.groups > 1):
            assert torch.equal(module.weight, old.weight)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.std().item() * math.sqrt(module.weight[0].numel()) == pytest.approx(1, rel=0.05)
            assert torch.equal(module.bias, old.bias)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    """Linear over the warm-up, 1 at its end, half way down at the middle of the rest, near 0 at the last step."""
    factors = [learning_rate_factor(step, 110, 10 / 110) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-3
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert [learning_rate_factor(step, 1, 0.5) for step in range(1)] == [1]


@pytest.mark.parametrize("block", [*BLOCKS, "attention"])
@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_a_branch_without_layer_scale_is_damped(block: str, layer_scale: float | None) -> None:
    """At a share of 0 such a branch is silent and the block passes its input on; one with LayerScale is not touched."""
    kind = {"block": "modulation", "attention_depth": 1} if block == "attention" else {"block": block}
    spec = parse_spec({"stages": [{"dim": 8, "depth": 1, **kind}], "layer_scale": layer_scale, "resolution": 32})
    network = build_network(spec, seed=0).eval()
    module = network.layers[0].blocks[-1]
    x = torch.randn(2, 5, 5, 8, generator=torch.Generator().manual_seed(0))
    before = module(x)
    damp_branches(network, 0.0)
    if block in BLOCKS and BLOCKS[block].has_layer_scale and layer_scale is not None:
        assert torch.equal(module(x), before)
    elif block == "van":  # its attention has a shortcut of its own, which BatchNorm's initial statistics leave as it is
        torch.testing.assert_close(module(x), 2 * x, rtol=1e-4, atol=1e-4)
    else:
        assert not torch.equal(before, x)
        assert torch.equal(module(x), x)


@pytest.mark.parametrize("block", ["modulation", "separate_mlp", "focal", "van", "attention"])
def test_a_damped_branch_learns_as_behind_a_constant_layer_scale(block: str) -> None:
    """Adam's steps do not depend on the gradient's size: a share of weight and rate is that share of the output."""
    kind = {"block": "modulation", "attention_depth": 2} if block == "attention" else {"block": block}
    spec = parse_spec({"stages": [{"dim": 16, "depth": 2, **kind}], "resolution": 32, "num_classes": 4})
    spec = replace(spec, layer_scale=None)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    share = SETTINGS.layer_scale

    def trained(*, damped: bool) -> torch.Tensor:
        network = build_network(spec, seed=0).train()
        settings = replace(SETTINGS, weight_decay=0.0, layer_scale=share if damped else 1.0)
        if damped:
            damp_branches(network, share)
        else:
            for end in branch_ends(network):
                end.register_forward_hook(lambda _module, _inputs, output: share * output)
        optimiser = torch.optim.AdamW(parameter_groups(network, settings), eps=1e-12)
        for _ in range(4):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), torch.arange(8) % 4).backward()
            optimiser.step()
        return network(images)

    torch.testing.assert_close(trained(damped=True), trained(damped=False), rtol=1e-3, atol=1e-3)


def test_batch_norm_is_replaced_by_a_norm_that_needs_no_batch() -> None:
    """With its scale and shift; one image then gives the same alone and in a batch, in training too."""
    network = build_network(ModelSpec(stages=(StageSpec(dim=8, depth=2, block="mbconv"),), num_classes=3), seed=0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(3.0)
    replace_batch_norm(network)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert len(norms) == 6
    assert all(bool((norm.weight == 3.0).all()) for norm in norms)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network.train()(images)[:1], network(images[:1]))
