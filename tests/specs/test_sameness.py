"""Which specs are the same network, in other words, and which are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn_specs import specs
from hypothesis import given

from modscale.specs.block_kinds import focal_kernels
from modscale.specs.sameness import canonical_stage, network_key
from modscale.specs.spec import ModelSpec, StageSpec

STAGE = StageSpec(dim=32, depth=4)


@given(specs())
def test_canonical_is_settled(spec):
    """The canonical form of a stage is its own canonical form."""
    for stage in spec.stages:
        assert canonical_stage(canonical_stage(stage)) == canonical_stage(stage)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"depth": 1, "mlp_ratios": (1, 6)}, {"depth": 1, "mlp_ratios": (1,)}),
        ({"mlp_ratios": (1, 6, 1, 6)}, {"mlp_ratios": (1, 6)}),
        ({"context": ("f", "g"), "kernel_size": (5,)}, {"context": ("f", "g")}),
        ({"attention_mlp_ratio": 2}, {}),
        ({"kernel_size": (3, 5)}, {"kernel_size": (5, 3)}),
        ({"block": "van", "kernel_size": (3,), "fusion": "sum", "context": ("f",)}, {"block": "van"}),
        ({"block": "mbconv", "fusion": "sum", "context": ("g",)}, {"block": "mbconv"}),
        ({"block": "focal", "fusion": "sum", "kernel_size": (3, 5, 7)}, {"block": "focal"}),
    ],
)
def test_different_words_for_the_same_network(one, other):
    """Fields without effect, longer cycles and the order of parallel kernels make no other network."""
    first, second = (ModelSpec(stages=(STAGE, replace(STAGE, **changes))) for changes in (one, other))
    assert first.stages != second.stages
    assert network_key(first) == network_key(second)


def test_layer_scale_of_nobody():
    """LayerScale belongs to modulation blocks: where there is none, its value makes no other network."""
    spec = ModelSpec(stages=(replace(STAGE, block="van"),))
    assert network_key(replace(spec, layer_scale=None)) == network_key(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 5},
        {"dim": 40},
        {"mlp_ratios": (6, 1)},
        {"kernel_size": (5,)},
        {"kernel_size": (7, 7)},
        {"attention_depth": 1},
        {"block": "separate_mlp"},
        {"block": "mbconv"},
        {"context": ("conv",)},
        {"fusion": "sum"},
    ],
)
def test_different_networks(changes):
    """Whatever changes the network changes its key."""
    assert network_key(ModelSpec(stages=(STAGE,))) != network_key(ModelSpec(stages=(replace(STAGE, **changes),)))


@pytest.mark.parametrize(
    "changes",
    [{"resolution": 192}, {"in_chans": 1}, {"num_classes": 10}, {"layer_scale": None}, {"drop_path_rate": 0.1}],
)
def test_fields_of_the_whole_network_matter(changes):
    """So do the fields that all stages share; a name does not."""
    spec = ModelSpec(stages=(STAGE,))
    assert network_key(replace(spec, **changes)) != network_key(spec)
    assert network_key(replace(spec, name="other")) == network_key(spec)


def test_the_focal_chain():
    """One size is FocalNet's chain up to it, a list is the chain; order matters there."""
    chains = {(1,): (1,), (3,): (3,), (7,): (3, 5, 7), (9,): (3, 5, 7, 9), (7, 3): (7, 3)}
    for sizes, chain in chains.items():
        assert focal_kernels(sizes) == chain
    one, other = (replace(STAGE, block="focal", kernel_size=sizes) for sizes in ((3, 5), (5, 3)))
    assert canonical_stage(one) != canonical_stage(other)
