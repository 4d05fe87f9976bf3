"""The pieces of a network against its counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn_specs import specs
from hypothesis import given

from modscale.errors import InputError
from modscale.specs.counts import count_model
from modscale.specs.pieces import network_pieces, placed_pieces
from modscale.specs.published import published


@given(specs())
def test_pieces_cost_together_what_the_network_does(spec):
    """Params and FLOPs of a network are those of its pieces, to the last one."""
    pieces = network_pieces(spec)
    count = count_model(spec)
    assert (sum(piece.params for piece in pieces), sum(piece.flops for piece in pieces)) == (count.params, count.flops)


def test_pieces_of_the_same_shapes_are_the_same():
    """xxs has 12 conv and 3 attention blocks, of which 8 and 2 are different; its order is that of the network."""
    pieces = network_pieces(published("xxs"))
    places = [place for place, _ in placed_pieces(published("xxs"))]
    assert len(pieces) == 1 + 12 + 3 + 3 + 1
    assert len(set(pieces)) == 1 + 8 + 2 + 3 + 1
    assert places[:4] == [("stem",), ("block", 0, 0), ("block", 0, 1), ("downsample", 0)]
    assert places[-1] == ("head",)


def test_what_has_an_effect_on_a_piece_makes_it_another():
    """Resolution, LayerScale, kernels and the fusion are told apart; a name is not."""
    spec = published("xxs")
    stage = spec.stages[0]
    same = replace(spec, name="other", drop_path_rate=0.1)
    assert network_pieces(same) == network_pieces(spec)
    for other in (
        replace(spec, resolution=192),
        replace(spec, layer_scale=None),
        replace(spec, stages=(replace(stage, kernel_size=(5,)), *spec.stages[1:])),
        replace(spec, stages=(replace(stage, fusion="sum"), *spec.stages[1:])),
    ):
        assert not set(network_pieces(other)[1:3]) & set(network_pieces(spec))


def test_masks_are_not_cut():
    """A network under Semantic FPN is refused."""
    with pytest.raises(InputError, match="must be classifier"):
        network_pieces(replace(published("xxs"), head="semantic_fpn"))
