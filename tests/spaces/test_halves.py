"""Pairs of listed halves against all architectures, one row each."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from modscale.spaces import halves as halves_module
from modscale.spaces.halves import BeyondReach, Halves
from modscale.spaces.pair_counts import Extreme
from modscale.spaces.space import parse_space
from modscale.spaces.tables import SpaceTables, build_tables

BASE = {"resolution": 40, "num_classes": 5, "stem": {"kernel_size": 4, "stride": 4}}
WIDE = {"dim": [8, 12, 16], "depth": [1, 2], "expansion": [1, 2]}
ATTENTIVE = {"attention_mlp_ratio": [2, 4], "dim": [12, 8], "depth": [1, 3], "attention_depth": [0, 1, 2],
             "kernel_size": [3, 5], "expansion": [2, 3]}  # fmt: skip
SPACES = {
    "one stage": [ATTENTIVE],
    "cut between": [WIDE, WIDE, WIDE],
    "cut inside": [WIDE, ATTENTIVE, {"dim": [8, 16], "depth": [1, 2, 3, 4, 5]}],
    "last inside": [{"dim": 8, "depth": 1}, ATTENTIVE],
    "long tail": [{"dim": [8, 16], "depth": 1}, {"dim": [8, 12], "depth": [1, 2, 3, 4]}],
    "four": [{"dim": [8, 16], "depth": [1, 2]}, ATTENTIVE, {"dim": [4, 12], "depth": 1}, {"dim": [8, 16], "depth": 2}],
}


@pytest.fixture(autouse=True)
def _cut_small_spaces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces so small are not worth the overhead of a cut, which is what is tested here."""
    monkeypatch.setattr(halves_module, "WORK_A_WIDTH", 0)


def tables_of(name: str) -> SpaceTables:
    return build_tables(parse_space({"base": BASE, "stages": SPACES[name]}))


def every_row(tables: SpaceTables) -> np.ndarray:
    return np.array(list(product(*(range(stage.size) for stage in tables.stages))))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("distinct", [False, True])
def test_the_pairs_are_all_architectures_once(name: str, ordered: bool, distinct: bool) -> None:
    """Not merged, each pair is one architecture with its costs; together they are all of the kind, none twice."""
    tables = tables_of(name)
    rows = every_row(tables)
    widths = np.stack([stage.dim[rows[:, i]] for i, stage in enumerate(tables.stages)], axis=1)
    wanted = np.ones(len(rows), dtype=bool)
    if ordered:
        wanted &= (np.diff(widths, axis=1) >= 0).all(axis=1)
    if distinct:
        for i, stage in enumerate(tables.stages):
            wanted &= stage.network[rows[:, i]] == rows[:, i]
    halves = Halves(tables, ordered=ordered, distinct=distinct, merged=False)
    found = []
    for group in halves.groups:
        longer, shorter = halves.group(group)
        one, other = (places.reshape(-1) for places in np.indices((len(longer), len(shorter))))
        pairs = halves.rows(longer[one], shorter[other])
        assert np.array_equal(np.stack(tables.count(pairs), axis=1), longer["cost"][one] + shorter["cost"][other])
        found += [tuple(row) for row in pairs.tolist()]
    assert len(set(found)) == len(found)
    assert set(found) == {tuple(row) for row in rows[wanted].tolist()}


def test_each_way_to_cut_is_tried() -> None:
    """The examples above do cut between stages and inside one, and make either half the longer."""
    cuts = {name: Halves(tables_of(name), ordered=False) for name in SPACES}
    assert {halves.inside for halves in cuts.values()} == {True, False}
    assert {halves.head_longer for halves in cuts.values()} == {True, False}
    assert not cuts["cut between"].inside
    assert cuts["last inside"].inside


@pytest.mark.parametrize("name", SPACES)
def test_a_ceiling_leaves_out_nothing_below_it(name: str) -> None:
    """With halves above it left out, and few made at a time, counts at and below the ceiling stay the same."""
    tables = tables_of(name)
    params, flops = (int(np.median(counts)) for counts in tables.count(every_row(tables)))
    corners = [(params, flops), (params - 500, flops), (params, flops // 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halves_module, "PAIRS_AT_ONCE", 7)
        bounded = Halves(tables, ordered=False, ceiling=(params, flops))
    assert bounded.survey(corners) == Halves(tables, ordered=False).survey(corners)


@pytest.mark.parametrize("threads", [1, 4])
def test_of_equal_extremes_the_same_is_found_on_any_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds of fusion cost the same: 64 architectures share each extreme, and one of them is always the one."""
    stage = {"dim": [8, 12, 16], "depth": [1, 2], "fusion": ["mul", "sum"]}
    tables = build_tables(parse_space({"base": BASE, "stages": [stage] * 6}))
    extremes = [
        Extreme(axis=axis, own=(20_000, 40_000), other=(0, 10**9), lowest=lowest)
        for axis in (0, 1)
        for lowest in (True, False)
    ]
    monkeypatch.setattr(halves_module, "available_cores", lambda: 1)
    _, expected = Halves(tables, ordered=False).survey((), extremes)
    monkeypatch.setattr(halves_module, "available_cores", lambda: threads)
    for _ in range(5):
        _, found = Halves(tables, ordered=False).survey((), extremes)
        for one, other in zip(found, expected, strict=True):
            assert one is None if other is None else (one[0] == other[0] and (one[1] == other[1]).all())
    assert any(found is not None for found in expected)


def test_what_is_too_large_is_a_signal_before_anything_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen stages of 512 options, and weights that would leave int64, end before a half is made."""
    stage = {"dim": {"low": 8, "high": 64, "step": 8}, "depth": {"low": 1, "high": 64}}
    deep = build_tables(parse_space({"base": {"resolution": 65536 // 2**3}, "stages": [stage] * 8}))
    monkeypatch.setattr(Halves, "_list", None)
    with pytest.raises(BeyondReach):
        Halves(deep, ordered=False)
    monkeypatch.setattr(halves_module, "_options", None)  # which sorts them
    monkeypatch.setattr(halves_module, "MAX_WORK", 511)
    with pytest.raises(BeyondReach):
        Halves(deep, ordered=False)
