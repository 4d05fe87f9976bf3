"""Architectures at random: every feasible network once, none other, whatever the kind of draw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from modscale.searching.draws import Draws, SpaceExhausted
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.spec import network_key

SPACE = {
    "base": {"resolution": 32},
    # attention_mlp_ratio has no effect without attention: some architectures are the same network
    "stages": [
        {"dim": [8, 16, 24], "depth": [1, 2]},
        {"dim": [16, 24], "depth": 1, "attention_depth": [0, 1], "attention_mlp_ratio": [2, 4]},
    ],
    "constraints": {"params": {"max": 60_000}, "widths": "nondecreasing"},
}


def feasible_networks(space: Space) -> set[Any]:
    """By brute force, from the spec of every combination of options."""
    found = set()
    for options in product(*(parameter.options for parameter in space.searched)):
        spec = space.spec(dict(zip((p.name for p in space.searched), options, strict=True)))
        widths = [stage.dim for stage in spec.stages]
        if count_model(spec).params <= 60_000 and widths == sorted(widths):
            found.add(network_key(spec))
    return found


@pytest.mark.parametrize("draw", [Draws.uniform, lambda draws, rng: draws.spread(rng, len(draws.taken))])
def test_every_feasible_network_is_drawn_once(draw: Callable[..., dict[str, Any]]) -> None:
    """Uniform draws and those spread over the sizes give all that is feasible, no network twice, and then say so."""
    space = parse_space(SPACE)
    draws = Draws(space, build_tables(space), steps=4, seed=1)
    expected = feasible_networks(space)
    assert 5 < len(expected) < space.size()
    drawn = []
    for number in range(len(expected)):
        options = draw(draws, np.random.default_rng(number))
        assert draws.is_new(options)
        assert draws.is_feasible(options)
        spec = space.spec(options)
        drawn.append(network_key(spec))
        draws.take(spec)
        assert not draws.is_new(options)
    assert set(drawn) == expected
    assert len(drawn) == len(expected)
    with pytest.raises(SpaceExhausted):
        draw(draws, np.random.default_rng(0))
