"""The tables of a space against one closed-form count at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from modscale.errors import InputError
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import SpaceTables, build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import canonical_stage

MIXED = {
    "name": "mixed",
    "base": {"resolution": 32, "num_classes": 7, "in_chans": 2, "stem": {"kernel_size": 4, "stride": 4}},
    "stages": [
        {"dim": [8, 12], "depth": [1, 2, 5], "mlp_ratios": [[1, 6], [2], [1, 6, 1]], "block": ["modulation", "van"]},
        {"dim": [16, 10], "depth": [1, 3], "expansion": [1, 4], "attention_depth": [0, 2],
         "attention_mlp_ratio": [4, 2.5, 2.55, 4.01]},
        {"dim": 16, "depth": 2, "kernel_size": [[3], [3, 5]], "block": ["mbconv", "focal", "separate_mlp"],
         "context": [["f"], ["conv", "g"]], "fusion": ["mul", "sum"]},
    ],
    "constraints": {"params": {"min": 12000, "max": 30000}, "flops": {"max": 3.0e+5}, "widths": "nondecreasing"},
}  # fmt: skip


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space(MIXED)


@pytest.fixture(scope="module")
def tables(space: Space) -> SpaceTables:
    return build_tables(space)


def every_row(tables: SpaceTables) -> np.ndarray:
    return np.array(list(product(*(range(stage.size) for stage in tables.stages))))


def test_counts_equal_the_closed_form_of_each_architecture(tables: SpaceTables) -> None:
    """Every kind of block, kernel list, ratio list and attention is counted as `count_model` counts it."""
    rows = every_row(tables)[::7]
    params, flops = tables.count(rows)
    counts = [count_model(tables.spec(row)) for row in rows]
    assert [(c.params, c.flops) for c in counts] == list(zip(params, flops, strict=True))


def test_counts_with_semantic_fpn_equal_the_closed_form_too() -> None:
    """A lateral a stage, by its width, and what no width changes, once."""
    base = {"resolution": 64, "num_classes": 7, "head": "semantic_fpn", "stem": {"kernel_size": 7, "stride": 4}}
    tables = build_tables(parse_space(MIXED | {"base": base, "constraints": {}}))
    rows = every_row(tables)[::29]
    counts = [count_model(tables.spec(row)) for row in rows]
    assert [(c.params, c.flops) for c in counts] == list(zip(*tables.count(rows), strict=True))


def test_options_stand_in_the_order_of_itertools_product(space: Space, tables: SpaceTables) -> None:
    """Option i of a stage is the i-th combination of its parameters."""
    for i, stage in enumerate(tables.stages):
        combinations = list(product(*(p.options for p in space.stage_parameters(i))))
        assert [stage.values(k) for k in range(stage.size)] == combinations


def test_options_of_the_same_network_share_one_stand_in(tables: SpaceTables) -> None:
    """Two options have one stand-in exactly when their canonical stages are equal, and it is one of them."""
    for stage in tables.stages:
        canonical = [canonical_stage(stage.spec(k)) for k in range(stage.size)]
        first = [canonical.index(spec) for spec in canonical]
        groups = {}
        for k, stand_in in enumerate(stage.network):
            assert canonical[stand_in] == canonical[k]
            groups.setdefault(int(stand_in), set()).add(first[k])
        assert all(len(group) == 1 for group in groups.values())
        assert len(groups) == len(set(first))


def test_a_row_and_a_choice_stand_for_one_another(space: Space, tables: SpaceTables) -> None:
    """Rows survive the way through choices, and both make the same spec."""
    for row in tables.sample(np.random.default_rng(1), 40):
        assert (tables.row(tables.choice(row)) == row).all()
        spec = tables.spec(row)
        assert spec == space.spec(tables.choice(row))


def brute_feasible(space: Space, tables: SpaceTables, rows: np.ndarray) -> list[bool]:
    feasible = []
    for row in rows:
        spec = tables.spec(row)
        count = count_model(spec)
        dims = [stage.dim for stage in spec.stages]
        limits = space.constraints
        feasible.append(limits.params.allow(count.params) and limits.flops.allow(count.flops) and dims == sorted(dims))
    return feasible


def test_feasible_masks_what_meets_every_constraint(space: Space, tables: SpaceTables) -> None:
    """The mask is the constraints applied one architecture at a time."""
    rows = every_row(tables)
    mask = tables.feasible(rows)
    assert mask[::5].tolist() == brute_feasible(space, tables, rows[::5])
    one_by_one = ((tables.spec(row), *counts) for row, *counts in zip(rows[::5], *tables.count(rows[::5]), strict=True))
    assert mask[::5].tolist() == [space.constraints.allow(*network) for network in one_by_one]
    assert 0 < mask.sum() < len(rows)


def test_bounds_belong_to_the_interval(space: Space, tables: SpaceTables) -> None:
    """An architecture exactly at min and max is feasible; a limit half a unit off excludes it."""
    row = every_row(tables)[:1]
    params = int(tables.count(row)[0][0])
    for low, high, expected in ((params, params, True), (params + 0.5, None, False), (None, params - 0.5, False)):
        ends = {key: end for key, end in (("min", low), ("max", high)) if end is not None}
        at = build_tables(parse_space({**MIXED, "constraints": {"params": ends}}))
        assert at.feasible(row)[0] == expected


def test_a_stage_of_thousands_of_options_is_counted_like_one_of_few() -> None:
    """Ranges over every numeric key at once: sampled rows against the closed form."""
    wide = parse_space({"stages": [
        {"dim": {"low": 16, "high": 128, "step": 8}, "depth": {"low": 1, "high": 20}, "expansion": [1, 2, 3, 4, 6, 8],
         "attention_depth": {"low": 0, "high": 5}, "kernel_size": [3, 5, 7]},
        {"dim": 256, "depth": 1000, "mlp_ratios": [[1, 6, 2, 3, 4, 5, 7]]},
    ]})  # fmt: skip
    tables = build_tables(wide)
    assert tables.sizes.tolist() == [15 * 20 * 6 * 6 * 3, 1]
    rows = tables.sample(np.random.default_rng(2), 60)
    params, flops = tables.count(rows)
    for row, p, f in zip(rows, params, flops, strict=True):
        count = count_model(tables.spec(row))
        assert (count.params, count.flops) == (p, f)


def test_counts_that_could_leave_int64_are_refused() -> None:
    """The largest legal stages pass int64; one that comes near it (2.5e18) is still exact."""
    huge = {
        "base": {"resolution": 8192, "stem": {"kernel_size": 1, "stride": 1}},
        "stages": [{"dim": 16384, "depth": 1, "attention_depth": [0, 1000]}],
    }
    with pytest.raises(InputError, match="below"):
        build_tables(parse_space(huge))
    huge["stages"] = [{"dim": 16384, "depth": 10}]
    assert build_tables(parse_space(huge)).count(np.zeros((1, 1), dtype=np.int64))[1][0] == (
        count_model(parse_space(huge).base).flops
    )


def test_a_stage_with_too_many_combinations_is_refused() -> None:
    """Tables are for memory; the message gives the limit and the number."""
    stage = {"dim": {"low": 1, "high": 4000}, "depth": {"low": 1, "high": 1000}, "expansion": [1, 2]}
    with pytest.raises(InputError, match=r"5,000,000 combinations.*8000000"):
        build_tables(parse_space({"stages": [stage]}))


def test_ratios_with_one_hidden_width_make_one_network() -> None:
    """int(32 * 4.01) is 128 as 32 * 4 is: neither the census nor a search may take them for two networks."""
    ratios = {"attention_mlp_ratio": [4, 4.01, 4.04], "attention_depth": [0, 1]}
    tables = build_tables(parse_space({"stages": [{"dim": [32, 64], "depth": 1, **ratios}]}))
    (stage,) = tables.stages
    networks = {
        (s.dim, s.attention_depth, s.attention_depth and s.attention_hidden())
        for s in map(stage.spec, range(stage.size))
    }
    assert len(set(stage.network.tolist())) == len(networks) == 6
    assert len({canonical_stage(stage.spec(k)) for k in range(stage.size)}) == 6
