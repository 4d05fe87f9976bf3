"""All architectures of a space within a tolerance of several budgets at once: how many, and the nearest ones.

The number is that of what is feasible where the budgets are constraints. The nearest come from the same halves: sorted
by one count, the partners with which a half keeps a budget lie side by side, in a window. The tolerance starts where
a handful is expected and doubles until enough are found, so that only as many pairs are looked at as it takes.

Ranking: by the sum of the relative distances from the budgets, `|params / P - 1| + |flops / F - 1|`; ties by params,
then FLOPs. Options that make the same network stand for one architecture in the ranking.

Shapes: N architectures, S stages; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from modscale.arrays import MAX_COUNT, FloatArray, IntArray
from modscale.document import check_choice, check_number
from modscale.errors import InputError
from modscale.spaces.halves import MAX_WORK, BeyondReach, Halves
from modscale.spaces.pair_counts import Limits
from modscale.spaces.sampling import numbers_within
from modscale.spaces.space import Space
from modscale.spaces.tables import SpaceTables, build_tables
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import ModelSpec

MAX_PAIRS = 100_000_000
"""Pairs that are looked at for one tolerance at most; a wider one is not tried."""
MAX_MISS_PAIRS = 5_000_000
"""The same where nothing is within the tolerance, and a nearest miss is only looked for."""
PAIRS_AT_ONCE = 1 << 19
"""Pairs that are looked at in one go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An architecture of the space and how well it keeps the budgets."""

    spec: ModelSpec
    params: int
    flops: int
    distance: float
    """Sum of the relative distances from the budgets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """What a space holds near several budgets."""

    space: str
    """Its name."""
    budgets: Mapping[str, float]
    """`params`, `flops` or both."""
    tolerance: float
    """Share of each budget by which an architecture may miss it."""
    count: tuple[int, int]
    """Feasible combinations of options within the tolerance: two equal numbers, or a 95 % interval."""
    distinct: tuple[int, int]
    """Networks among them: combinations that differ only where it has no effect count once."""
    draws: int
    """Architectures that were drawn for the intervals; 0 where both are exact."""
    best: tuple[Match, ...]
    """The nearest networks within the tolerance, nearest first."""
    complete: bool
    """Whether no nearer network can have been missed; False where `MAX_PAIRS` ended the search for them."""
    nearest_miss: Match | None
    """Where nothing is within the tolerance: a near feasible network beyond it, if the search came to one."""


def within_budgets(space: Space, budgets: Mapping[str, float], tolerance: float = 0.01, *, best: int = 10) -> Matches:
    """The architectures of `space` that meet its constraints and every budget within `tolerance`, a share of it.

    Args:
        space: the space; its constraints hold too.
        budgets: `params`, `flops` or both to their targets.
        best: how many of the nearest to give.

    Raises:
        InputError: no budget or an unknown one, a target of 0 or less, a space whose halves are too long to list.
    """
    if not budgets:
        raise InputError(f"give at least one of {', '.join(COUNT_METRICS)}", place="budgets")
    for metric, target in budgets.items():
        check_number(target, check_choice(metric, "budgets", COUNT_METRICS), above=0, high=float(MAX_COUNT))
    check_number(tolerance, "tolerance", low=0, below=1)
    if best < 0:
        raise InputError("must be 0 or more", place="best", value=best)
    tables, limits = build_tables(space), _limits(space, budgets, tolerance)
    halves = _listed(tables, limits) if best else None  # first: it may be refused
    count, distinct, draws = numbers_within(tables, limits)
    found, complete = list[Match](), True
    if halves is not None and distinct[1]:
        expected = tolerance * min(1.0, (4 * best / distinct[1]) ** (1 / len(budgets)))
        found, complete = _nearest(halves, budgets, expected, tolerance, best, MAX_PAIRS)
    elif halves is not None:
        halves = _listed(tables, _limits(space, budgets, 1.0))
        found, _ = _nearest(halves, budgets, max(2 * tolerance, 1e-6), 1.0, 1, MAX_MISS_PAIRS)
    return Matches(
        space=space.name,
        budgets=dict(budgets),
        tolerance=tolerance,
        count=count,
        distinct=distinct,
        draws=draws,
        best=tuple(found) if distinct[1] else (),
        complete=complete,
        nearest_miss=None if distinct[1] or not found else found[0],
    )


def _listed(tables: SpaceTables, limits: tuple[Limits, Limits]) -> Halves:
    """Halves of options that stand for their network. Raises InputError where they are too many."""
    ordered = tables.space.constraints.nondecreasing_widths
    try:
        ceiling = limits[0][1], limits[1][1]
        return Halves(tables, ordered=ordered, distinct=True, merged=False, ceiling=ceiling)
    except BeyondReach:
        rule = f"the nearest architectures are listed where half of the stages have at most {MAX_WORK:,}"
        rule += " options within the budgets; without a list (`--best 0`) their number is given"
        raise InputError(rule, place="stages", value=tables.space.size()) from None


def _nearest(
    halves: Halves, budgets: Mapping[str, float], start: float, stop: float, best: int, most: int
) -> tuple[list[Match], bool]:
    """The `best` nearest architectures within `stop` of every budget, by a tolerance that doubles from `start`.

    At most `most` pairs are looked at for one tolerance; the second value is False where that ended the search.
    """
    tables, tolerance = halves.tables, min(start, stop)
    found: list[Match] = []
    while True:
        limits = _limits(tables.space, budgets, tolerance)
        pairs = [sum(_Windows(halves, i, limits, axis).pairs for i in halves.groups) for axis in (0, 1)]
        if min(pairs) > most:
            return found, False
        near = np.empty((0, len(tables.stages) + 2), dtype=np.int64)  # the options, params and FLOPs of each
        for i in halves.groups:
            for more in _Windows(halves, i, limits, pairs.index(min(pairs))).blocks():
                near = np.concatenate([near, more])
                near = near[np.lexsort((near[:, -1], near[:, -2], _distance(near[:, -2:], budgets)))[:best]]
        rows, costs = near[:, :-2], near[:, -2:]
        distance = _distance(costs, budgets)
        specs = [tables.spec(row, name=f"{tables.space.name}-{i}") for i, row in enumerate(rows, 1)]
        found = [
            Match(spec=spec, params=int(params), flops=int(flops), distance=float(off))
            for spec, (params, flops), off in zip(specs, costs, distance, strict=True)
        ]
        # Beyond a distance of the tolerance, networks outside the box of intervals may be nearer than those inside.
        if tolerance >= stop or (len(distance) == best and distance[-1] <= tolerance):
            return found, True
        tolerance = min(2 * tolerance, stop)


class _Windows:
    """Of one width at the cut, for each half of the longer list those of the shorter that keep one limit with it."""

    def __init__(self, halves: Halves, i: int, limits: tuple[Limits, Limits], axis: int) -> None:
        self.halves, self.limits = halves, np.array(limits)
        self.longer, shorter = halves.group(i)
        self.shorter = shorter[np.argsort(shorter["cost"][:, axis], kind="stable")]
        values, own = self.shorter["cost"][:, axis].copy(), self.longer["cost"][:, axis]
        self.begin = np.searchsorted(values, limits[axis][0] - own, side="left")
        self.length = np.maximum(np.searchsorted(values, limits[axis][1] - own, side="right") - self.begin, 0)
        self.pairs = int(self.length.sum())

    def blocks(self) -> Iterator[IntArray]:
        """[N, S + 2] the options, params and FLOPs of the pairs within both limits, in blocks."""
        ends = np.cumsum(self.length)
        cuts = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, self.pairs, PAIRS_AT_ONCE))
        for part in np.split(np.arange(len(ends)), cuts):
            lengths = self.length[part]
            one = np.repeat(part, lengths)
            other = self.begin[one] + np.arange(len(one)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            totals = self.longer["cost"][one] + self.shorter["cost"][other]
            hit = np.flatnonzero(((totals >= self.limits[:, 0]) & (totals <= self.limits[:, 1])).all(axis=1))
            yield np.hstack([self.halves.rows(self.longer[one[hit]], self.shorter[other[hit]]), totals[hit]])


def _distance(costs: IntArray, budgets: Mapping[str, float]) -> FloatArray:
    """[N] sum of relative distances of costs [N, 2] from the budgets."""
    off = (np.abs(costs[:, COUNT_METRICS.index(metric)] / target - 1) for metric, target in budgets.items())
    return sum(off, np.zeros(len(costs)))


def _limits(space: Space, budgets: Mapping[str, float], tolerance: float) -> tuple[Limits, Limits]:
    """The closed intervals of params and FLOPs that the space's constraints and the budgets leave."""
    found = {metric: getattr(space.constraints, metric).whole() for metric in COUNT_METRICS}
    for metric, target in budgets.items():
        low, high = found[metric]
        found[metric] = max(low, ceil(target * (1 - tolerance))), min(high, floor(target * (1 + tolerance)))
    return found["params"], found["flops"]
