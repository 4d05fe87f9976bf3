"""All architectures of a space within a tolerance of several budgets at once: how many, exactly, and the nearest ones.

Nothing is sampled, and no space is gone through whole. The number comes from `halves.py`, the nearest from pairs of the
halves that `half_lists.py` lists. The tolerance starts where a handful is expected and doubles until enough are found,
so that only as many pairs are looked at as it takes.

Ranking: by the sum of the relative distances from the budgets, `|params / P - 1| + |flops / F - 1|`; ties by params,
then FLOPs. Options that make the same network stand for one architecture in the ranking.

Shapes: N architectures, S stages; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np

from modscale.arrays import MAX_COUNT, FloatArray, IntArray
from modscale.counts import COUNT_METRICS
from modscale.document import check_choice, check_number
from modscale.errors import InputError
from modscale.half_lists import HalfLists
from modscale.halves import build_halves
from modscale.points import Corner
from modscale.space import SearchSpace
from modscale.spec import ModelSpec, spec_to_dict
from modscale.tables import build_tables, whole_bounds

MAX_PAIRS = 100_000_000
"""Pairs that are looked at for one tolerance at most; a wider one is not tried."""
MAX_MISS_PAIRS = 5_000_000
"""The same where nothing is within the tolerance, and a nearest miss is only looked for."""


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
    """Feasible combinations of options within the tolerance of every budget: two equal numbers, or bounds."""
    distinct: tuple[int, int]
    """Networks among them: combinations that differ only where it has no effect count once."""
    best: tuple[Match, ...]
    """The nearest networks within the tolerance, nearest first."""
    complete: bool
    """Whether no nearer network can have been missed; False where `MAX_PAIRS` ended the search for them."""
    nearest_miss: Match | None
    """Where nothing is within the tolerance: a near feasible network beyond it, if the search came to one."""


def within_budgets(
    space: SearchSpace, budgets: Mapping[str, float], tolerance: float = 0.01, *, best: int = 10
) -> Matches:
    """The architectures of `space` that meet its constraints and every budget within `tolerance`.

    Args:
        space: the space; its constraints hold too.
        budgets: `params`, `flops` or both to their targets.
        tolerance: share of each budget by which an architecture may miss it.
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
    tables = build_tables(space)
    params, flops = (_limits(space, budgets, metric, tolerance) for metric in COUNT_METRICS)
    ceiling = _ceiling(space, budgets, tolerance)
    ends = HalfLists(tables, ceiling) if best else None  # first: it may be refused
    halves = build_halves(tables, ceiling)
    count, distinct = (halves.enclose(params, flops, kind) for kind in ("allowed", "distinct"))
    found: list[Match] = []
    complete = True
    if ends is not None:
        if distinct[1]:
            expected = tolerance * min(1.0, (4 * best / distinct[1]) ** (1 / len(budgets)))
            found, complete = _nearest(ends, budgets, expected, tolerance, best, MAX_PAIRS)
        else:
            ends = HalfLists(tables, _ceiling(space, budgets, 1.0))
            found, _ = _nearest(ends, budgets, max(2 * tolerance, 1e-6), 1.0, 1, MAX_MISS_PAIRS)
    return Matches(
        space=space.name,
        budgets=dict(budgets),
        tolerance=tolerance,
        count=count,
        distinct=distinct,
        best=tuple(found) if distinct[1] else (),
        complete=complete,
        nearest_miss=None if distinct[1] or not found else found[0],
    )


def matches_to_json(matches: Matches) -> dict[str, Any]:
    """The matches as plain values, their specs whole; a count that is only bounded is null beside its bounds."""

    def one(match: Match) -> dict[str, Any]:
        relative = {metric: getattr(match, metric) / target - 1 for metric, target in matches.budgets.items()}
        return {
            "params": match.params,
            "flops": match.flops,
            "distance": match.distance,
            "relative_error": relative,
            "spec": spec_to_dict(match.spec),
        }

    def exact(bounds: tuple[int, int]) -> int | None:
        return bounds[0] if bounds[0] == bounds[1] else None

    return {
        "space": matches.space,
        "budgets": dict(matches.budgets),
        "tolerance": matches.tolerance,
        "count": exact(matches.count),
        "count_bounds": list(matches.count),
        "distinct": exact(matches.distinct),
        "distinct_bounds": list(matches.distinct),
        "complete": matches.complete,
        "best": [one(match) for match in matches.best],
        "nearest_miss": None if matches.nearest_miss is None else one(matches.nearest_miss),
    }


def _nearest(
    ends: HalfLists, budgets: Mapping[str, float], start: float, stop: float, best: int, most: int
) -> tuple[list[Match], bool]:
    """The `best` nearest architectures within `stop` of every budget, by a tolerance that doubles from `start`.

    At most `most` pairs are looked at for one tolerance; the second value is False where that ended the search.
    """
    tolerance = min(start, stop)
    found: list[Match] = []
    while True:
        limits = np.array([_limits(ends.tables.space, budgets, metric, tolerance) for metric in COUNT_METRICS])
        pairs = ends.pairs(limits, most)
        if pairs is None:
            return found, False
        rows = np.empty((0, len(ends.tables.stages)), dtype=np.int64)
        costs = np.empty((0, 2), dtype=np.int64)
        for more_rows, more_costs in pairs:
            rows, costs = np.concatenate([rows, more_rows]), np.concatenate([costs, more_costs])
            order = np.lexsort((costs[:, 1], costs[:, 0], _distance(costs, budgets)))[:best]
            rows, costs = rows[order], costs[order]
        distance = _distance(costs, budgets)
        found = [
            Match(
                spec=ends.tables.spec(row, name=f"{ends.tables.space.name}-{i + 1}"),
                params=int(cost[0]),
                flops=int(cost[1]),
                distance=float(off),
            )
            for i, (row, cost, off) in enumerate(zip(rows, costs, distance, strict=True))
        ]
        # Beyond a distance of the tolerance, networks outside the box of intervals may be nearer than those inside.
        if tolerance >= stop or (len(distance) == best and distance[-1] <= tolerance):
            return found, True
        tolerance = min(2 * tolerance, stop)


def _distance(costs: IntArray, budgets: Mapping[str, float]) -> FloatArray:
    """[N] sum of relative distances of costs [N, 2] from the budgets."""
    total = np.zeros(len(costs))
    for axis, metric in enumerate(COUNT_METRICS):
        if metric in budgets:
            total += np.abs(costs[:, axis] / budgets[metric] - 1)
    return total


def _ceiling(space: SearchSpace, budgets: Mapping[str, float], tolerance: float) -> Corner:
    """The most params and FLOPs that the space's constraints and the budgets leave."""
    params, flops = (_limits(space, budgets, metric, tolerance) for metric in COUNT_METRICS)
    return params[1], flops[1]


def _limits(space: SearchSpace, budgets: Mapping[str, float], metric: str, tolerance: float) -> tuple[int, int]:
    """The closed interval of one count that the space's constraint and the budget leave."""
    low, high = whole_bounds(getattr(space.constraints, metric))
    if metric in budgets:
        target = budgets[metric]
        low, high = max(low, ceil(target * (1 - tolerance))), min(high, floor(target * (1 + tolerance)))
    return low, high
