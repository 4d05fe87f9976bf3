"""How many architectures meet limits, by uniform draws: for spaces beyond what `halves.py` counts exactly.

Draws are from the architectures whose widths keep their order, if the space asks for that: their number is exact, since
it depends on one width at a time, and so is the way to draw one of them uniformly. The share that meets the limits of
params and FLOPs is told as a 95 % interval: Wilson's score interval with continuity correction (Newcombe, Statistics in
Medicine 1998, method 4), which stays honest where few draws meet them, or none. The draws are seeded: the same space
always gives the same interval.

Shapes: N draws, S stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import Any

import numpy as np

from modscale.arrays import IntArray
from modscale.spaces.feasibility import ConstrainedSpace
from modscale.spaces.halves import MAX_WORK, BeyondReach, Progress, silent
from modscale.spaces.pair_counts import Limits
from modscale.spaces.space import Bounds
from modscale.spaces.tables import SpaceTables

MAX_DRAWS = 2_000_000
OPTIONS_DRAWN = 8_000_000
"""Options of all stages and draws together at most: a second or two."""
BATCH = 1 << 17
"""Architectures drawn at a time."""
CONFIDENCE = 0.95
Z_95 = 1.959964
"""Standard errors to either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Uniform draws and how many of them met the limits."""

    number: int
    """Architectures that were drawn from, exact."""
    draws: int
    hits: int
    """Draws that met the limits."""
    distinct_hits: int
    """Those of them that stand for their network: of the options that make the same network, the first."""

    def interval(self, hits: int) -> tuple[int, int]:
        """Between how many architectures `hits` stand for, with 95 % confidence."""
        low, high = share_interval(hits, self.draws)
        return floor(low * self.number), min(self.number, ceil(high * self.number))


def exactly(interval: tuple[int, int]) -> int | None:
    """The number that an interval of one number is; None for one of more."""
    return interval[0] if interval[0] == interval[1] else None


def share_interval(hits: int, draws: int) -> tuple[float, float]:
    """The 95 % interval of a share, of which `hits` of `draws` are a sample."""
    if not draws:
        return 0.0, 0.0
    twice, z2 = 2 * (draws + Z_95**2), Z_95**2
    share = hits / draws
    left = 0.0 if not hits else sqrt(max(0.0, z2 - 2 - 1 / draws + 4 * share * (draws - hits + 1)))
    right = 0.0 if hits == draws else sqrt(max(0.0, z2 + 2 - 1 / draws + 4 * share * (draws - hits - 1)))
    low = 0.0 if not hits else max(0.0, (2 * hits + z2 - 1 - Z_95 * left) / twice)
    high = 1.0 if hits == draws else min(1.0, (2 * hits + z2 + 1 + Z_95 * right) / twice)
    return low, high


def sample_within(tables: SpaceTables, limits: Sequence[tuple[int, int]], progress: Progress = silent) -> Sample:
    """Draws architectures of the space; `limits` are the closed intervals of params and of FLOPs."""
    widths = _Widths(tables)
    rng = np.random.default_rng(0)
    draws = min(MAX_DRAWS, OPTIONS_DRAWN // len(tables.stages)) if widths.number else 0
    hits = distinct = 0
    stands = [stage.stands for stage in tables.stages]
    for begin in range(0, draws, BATCH):
        progress(begin / draws)
        rows = widths.draw(rng, min(BATCH, draws - begin))
        met = np.ones(len(rows), dtype=np.bool_)
        for counts, (low, high) in zip(tables.count(rows), limits, strict=True):
            met &= (counts >= low) & (counts <= high)
        hits += int(met.sum())
        for i, own in enumerate(stands):
            met &= own.take(rows[:, i])
        distinct += int(met.sum())
    return Sample(number=widths.number, draws=draws, hits=hits, distinct_hits=distinct)


def numbers_within(tables: SpaceTables, limits: tuple[Limits, Limits]) -> tuple[Limits, Limits, int]:
    """Feasible combinations and networks within limits: exact, or by draws; each as an interval, and the draws.

    Exact as far as `halves.py` reaches.
    """
    params, flops = (Bounds(min=low, max=high) for low, high in limits)
    space = replace(tables.space, constraints=replace(tables.space.constraints, params=params, flops=flops))
    count = ConstrainedSpace(replace(tables, space=space))
    count.number("allowed", limits), count.number("distinct", limits)
    try:
        count.survey()
    except BeyondReach:
        sample = sample_within(tables, limits)
        return sample.interval(sample.hits), sample.interval(sample.distinct_hits), sample.draws
    return (count.number("allowed", limits),) * 2, (count.number("distinct", limits),) * 2, 0


def sampled(count: ConstrainedSpace, progress: Progress = silent) -> dict[str, Any]:
    """The fields of a census that can be told of a space beyond exact counting."""
    rule = f"too large to be counted exactly: more than {MAX_WORK:,} halves to go through"
    ends = [count.ends(axis, ordered=count.ordered) for axis in (0, 1)]
    if all(low <= least and most <= high for (low, high), (least, most) in zip(count.limits, ends, strict=True)):
        feasible, distinct = ((_Widths(count.tables, distinct=one).number,) * 2 for one in (False, True))
        return {"feasible_interval": feasible, "distinct_feasible_interval": distinct, "rule": rule}
    sample = sample_within(count.tables, count.limits, progress)
    if sample.draws:
        rule += f"; intervals of 95 % from {sample.draws:,} uniform draws, {sample.hits:,} of them feasible"
        rule += "" if sample.hits else "; there may be none at all"
    return {
        "feasible_interval": sample.interval(sample.hits),
        "distinct_feasible_interval": sample.interval(sample.distinct_hits),
        "rule": rule,
        "draws": sample.draws,
    }


class _Widths:
    """By stage and width, how many ways there are to go on from there."""

    def __init__(self, tables: SpaceTables, *, distinct: bool = False) -> None:
        """`distinct`: of the options that make the same network only the first."""
        self.ordered = tables.space.constraints.nondecreasing_widths
        self.stages = tables.stages
        self.options = [np.argsort(stage.dim, kind="stable") for stage in tables.stages]
        if distinct:
            stands = [stage.stands for stage in tables.stages]
            self.options = [some[own[some]] for some, own in zip(self.options, stands, strict=True)]
        self.dims = [
            np.unique(stage.dim[some], return_counts=True)
            for stage, some in zip(tables.stages, self.options, strict=True)
        ]
        self.ways: list[list[int]] = []
        """By stage, for each width: the ways from an option of it or of a wider one to the end of the network."""
        after = [1]
        start = np.zeros(len(self.dims[-1][0]), dtype=np.int64)
        for i in reversed(range(len(self.dims))):
            dims, numbers = self.dims[i]
            if i + 1 < len(self.dims):
                start = self._start(i + 1, dims)
                after = [*self.ways[0], 0]
            own = [int(number) * after[place] for number, place in zip(numbers, start, strict=True)]
            totals = [0]
            for ways in reversed(own):
                totals.append(totals[-1] + ways)
            self.ways.insert(0, totals[:0:-1])
        self.number = self.ways[0][0]

    def _start(self, i: int, widths: IntArray) -> IntArray:
        """The place of the narrowest width of stage `i` that may follow each of `widths`."""
        return np.searchsorted(self.dims[i][0], widths) if self.ordered else np.zeros(len(widths), dtype=np.int64)

    def draw(self, rng: np.random.Generator, n: int) -> IntArray:
        """[n, S] architectures drawn uniformly."""
        rows = np.empty((n, len(self.dims)), dtype=np.int64)
        start = np.zeros(n, dtype=np.int64)
        for i, ((_, numbers), options) in enumerate(zip(self.dims, self.options, strict=True)):
            share = np.array([ways / self.ways[i][0] for ways in self.ways[i]])
            place = np.searchsorted(-share, -share[start] * rng.random(n)) - 1
            first = np.cumsum(numbers) - numbers
            inside = (rng.random(n) * numbers[place]).astype(np.int64)
            rows[:, i] = options[first[place] + inside]
            if i + 1 < len(self.dims):
                start = self._start(i + 1, self.stages[i].dim.take(rows[:, i]))
        return rows
