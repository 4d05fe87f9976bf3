"""Architectures at random: every feasible network once, none other, whatever the kind of draw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from modscale.errors import InputError
from modscale.searching.draws import Draws, SpaceExhausted, iter_feasible
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import SpaceTables, build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key

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


def draws_of(tables: SpaceTables) -> Draws:
    return Draws(tables.space, tables, steps=1, seed=0)


def every_row(tables: SpaceTables) -> np.ndarray:
    return np.array(list(product(*(range(stage.size) for stage in tables.stages))))


def test_what_is_listed_is_what_is_feasible_in_the_order_of_the_product() -> None:
    """The list that leaves out hopeless beginnings is the mask over all architectures."""
    tables = build_tables(parse_space(SPACE))
    rows = every_row(tables)
    mask = tables.feasible(rows)
    assert 0 < mask.sum() < len(rows)
    assert np.array_equal(np.array(list(iter_feasible(tables))), rows[mask])


def test_feasible_draws_are_uniform() -> None:
    """Over many draws each feasible architecture comes up about equally often, by drawing and by listing."""
    tables = build_tables(parse_space(SPACE))
    for scarce in (False, True):
        params, _ = tables.count(every_row(tables))
        limits = {"params": {"max": int(np.sort(params)[3])}} if scarce else SPACE["constraints"]
        limited = build_tables(parse_space({**SPACE, "constraints": limits}))
        rows = every_row(limited)[limited.feasible(every_row(limited))]
        drawn = draws_of(limited).rows(np.random.default_rng(0), 20 * len(rows))
        assert limited.feasible(drawn).all()
        _, times = np.unique(drawn, axis=0, return_counts=True)
        assert len(times) == len(rows)
        chi_square = ((times - 20) ** 2 / 20).sum()
        assert chi_square < len(rows) + 6 * (2 * len(rows)) ** 0.5


def test_nothing_feasible_is_an_error_and_not_a_loop() -> None:
    """Drawing from an empty set ends."""
    hopeless = build_tables(parse_space({**SPACE, "constraints": {"params": {"max": 10}}}))
    with pytest.raises(InputError, match="no architecture satisfies"):
        draws_of(hopeless).rows(np.random.default_rng(0), 5)


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


def test_neighbours_are_feasible_and_differ_in_one_or_two_parameters() -> None:
    """Every network one step away is found, none that breaks a constraint, and none is the one itself."""
    space = parse_space(SPACE)
    tables = build_tables(space)
    draws = draws_of(tables)
    start = next(iter_feasible(tables))
    own = tables.choice(start)
    found = [tables.choice(row) for row in draws.neighbours(np.random.default_rng(0), start[None], 2000)]
    distances = [sum(options[name] != own[name] for name in own) for options in found]
    assert set(distances) == {1, 2}
    assert all(draws.is_feasible(options) for options in found)
    listed = [tables.choice(row) for row in iter_feasible(tables)]
    near = [options for options in listed if 1 <= sum(options[name] != own[name] for name in own) <= 2]
    assert {tuple(options.values()) for options in found} == {tuple(options.values()) for options in near}
