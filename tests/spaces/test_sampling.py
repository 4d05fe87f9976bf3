"""Draws and intervals against full lists and the binomial distribution."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from modscale.spaces import sampling
from modscale.spaces.sampling import sample_within, share_interval
from modscale.spaces.space import parse_space
from modscale.spaces.tables import SpaceTables, build_tables

BASE = {"resolution": 40, "num_classes": 5, "stem": {"kernel_size": 4, "stride": 4}}
STAGES = [
    {"dim": [16, 8, 12], "depth": [1, 2], "expansion": [1, 2]},
    {"dim": [8, 16], "depth": [1, 2, 3]},
    {"dim": [12, 16, 4], "depth": 1, "attention_depth": [0, 1], "attention_mlp_ratio": [2, 4]},
]


def tables_of(constraints: dict[str, object]) -> SpaceTables:
    return build_tables(parse_space({"base": BASE, "stages": STAGES, "constraints": constraints}))


def every_row(tables: SpaceTables) -> np.ndarray:
    return np.array(list(product(*(range(stage.size) for stage in tables.stages))))


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("draws", [20, 400])
def test_the_interval_holds_the_share_in_95_of_100_samples(share: float, draws: int) -> None:
    """Coverage by summing the binomial distribution over every outcome."""
    covered = 0.0
    for hits in range(draws + 1):
        low, high = share_interval(hits, draws)
        assert 0 <= low <= hits / draws <= high <= 1
        if low <= share <= high:
            covered += comb(draws, hits) * share**hits * (1 - share) ** (draws - hits)
    assert covered >= 0.95 - 1e-9


def test_no_hit_leaves_an_upper_bound_and_all_hits_a_lower_one() -> None:
    """No hit in a million draws may still be some of a million; newcombe's published example is met."""
    low, high = share_interval(0, 1_000_000)
    assert low == 0
    assert 3e-6 < high < 6e-6
    assert share_interval(1_000_000, 1_000_000) == (pytest.approx(1 - high), 1.0)
    assert share_interval(15, 148) == (pytest.approx(0.0598, abs=5e-5), pytest.approx(0.1644, abs=5e-5))


@pytest.mark.parametrize("constraints", [{}, {"widths": "nondecreasing"}])
def test_draws_are_uniform_over_what_keeps_the_order(constraints: dict[str, object], monkeypatch) -> None:
    """Their number is that of the full list, and each comes up about equally often."""
    tables = tables_of(constraints)
    rows = every_row(tables)
    kept = rows[tables.feasible(rows)]
    widths = sampling._Widths(tables)
    assert widths.number == len(kept)
    drawn = widths.draw(np.random.default_rng(0), 40 * len(kept))
    values, times = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(row) for row in values.tolist()} == {tuple(row) for row in kept.tolist()}
    assert ((times - 40) ** 2 / 40).sum() < len(kept) + 6 * (2 * len(kept)) ** 0.5


def test_a_sample_encloses_what_is_counted_and_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Combinations and networks within limits, against the full list; drawn twice, in whatever batches, alike."""
    monkeypatch.setattr(sampling, "OPTIONS_DRAWN", 60_000)
    monkeypatch.setattr(sampling, "BATCH", 3000)
    tables = tables_of({"widths": "nondecreasing"})
    rows = every_row(tables)
    rows = rows[tables.feasible(rows)]
    params, flops = tables.count(rows)
    limits = ((int(np.quantile(params, 0.2)), int(np.quantile(params, 0.8))), (0, int(np.median(flops))))
    met = (params >= limits[0][0]) & (params <= limits[0][1]) & (flops <= limits[1][1])
    own = np.logical_and.reduce([stage.network[rows[:, i]] == rows[:, i] for i, stage in enumerate(tables.stages)])
    told: list[float] = []
    sample = sample_within(tables, limits, told.append)
    for hits, true in ((sample.hits, met.sum()), (sample.distinct_hits, (met & own).sum())):
        low, high = sample.interval(hits)
        assert low <= true <= high
        assert high - low < 0.05 * len(rows)
    assert sample.draws == 20_000
    assert told == sorted(told)
    assert sample_within(tables, limits) == sample


def test_where_no_widths_fit_nothing_is_drawn() -> None:
    """A space whose stages can only narrow has no architecture to draw."""
    stages = [{"dim": [32, 40], "depth": 1}, {"dim": [8, 16], "depth": 1}]
    tables = build_tables(parse_space({"base": BASE, "stages": stages, "constraints": {"widths": "nondecreasing"}}))
    sample = sample_within(tables, ((0, 10**9), (0, 10**9)))
    assert (sample.number, sample.draws, sample.interval(sample.hits)) == (0, 0, (0, 0))
