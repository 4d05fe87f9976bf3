"""Which networks a calibration exports and times."""

from __future__ import annotations

from itertools import islice

from modscale.latency.plan import plan_exports, plan_networks, shrunk
from modscale.specs.pieces import network_pieces, piece_keys
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec


def test_few_small_networks_have_every_piece():
    """The exports hold all pieces of the networks, none of them twice the same, and each adds one."""
    dims = [(8, 16), (8, 24), (16, 24), (8, 16)]
    specs = [
        ModelSpec(stages=tuple(StageSpec(dim=dim, depth=depth, mlp_ratios=(1, 4)) for dim in pair))
        for pair, depth in zip(dims, (5, 1, 3, 4), strict=True)
    ]
    exports = list(plan_exports(specs))
    assert {p for spec in exports for p in network_pieces(spec)} == {p for spec in specs for p in network_pieces(spec)}
    assert len(exports) == 3


def test_a_shrunk_network_has_the_same_pieces():
    """Of each kind of block in a stage one is left."""
    spec = published("s")
    small = shrunk(spec)
    assert set(network_pieces(small)) == set(network_pieces(spec))
    assert [stage.depth for stage in small.stages] == [3, 3, 3, 3]
    assert small.num_blocks() <= spec.num_blocks() / 2


def test_networks_are_timed_whose_pieces_were_seen_least():
    """After one with width 8 comes one with width 16, and what cannot be put together is passed over."""
    eight, more, sixteen, absent = (
        ModelSpec(stages=(StageSpec(dim=dim, depth=depth, mlp_ratios=(1,)),))
        for dim, depth in ((8, 1), (8, 2), (16, 1), (24, 1))
    )
    pieces = {key for spec in (eight, sixteen) for key in piece_keys(spec)}
    assert list(islice(plan_networks([eight, more, sixteen, absent], pieces), 2)) == [eight, sixteen]
    assert list(plan_networks([absent], pieces)) == []
