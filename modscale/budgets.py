"""All architectures of a space within a tolerance of several budgets at once: how many, exactly, and the nearest ones.

Nothing is sampled, and no space is gone through whole. The number comes from `halves.py`. The nearest
are found by meeting in the middle: front and back halves are lists of (params, flops), and for each front half the
back halves that keep one budget lie side by side in a sorted list. The tolerance starts where a handful is expected
and doubles until enough are found, so that only as many pairs are looked at as it takes.

Ranking: by the sum of the relative distances from the budgets, `|params / P - 1| + |flops / F - 1|`; ties by params,
then FLOPs. Options that make the same network stand for one architecture in the ranking.

Shapes: N pairs of halves, n halves of one end, S stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, prod
from typing import Any

import numpy as np

from modscale.document import check_choice, check_number
from modscale.errors import InputError
from modscale.halves import build_halves
from modscale.points import Corner
from modscale.ray import FloatArray
from modscale.space import SearchSpace
from modscale.spec import ModelSpec, spec_to_dict
from modscale.stage_tables import MAX_COUNT, IntArray
from modscale.tables import SpaceTables, build_tables, whole_bounds

METRICS = ("params", "flops")
MAX_HALF = 12_000_000
"""Partial architectures of one half that are listed at most."""
PAIRS_AT_ONCE = 1 << 19
"""Pairs of halves that are looked at in one go."""
MAX_PAIRS = 100_000_000
"""Pairs that are looked at for one tolerance at most; a wider one is not tried."""
SAMPLE = 50_000
"""Back halves by which the number of pairs is judged beforehand."""
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
        raise InputError(f"give at least one of {', '.join(METRICS)}", place="budgets")
    for metric, target in budgets.items():
        check_number(target, check_choice(metric, "budgets", METRICS), above=0, high=float(MAX_COUNT))
    check_number(tolerance, "tolerance", low=0, below=1)
    if best < 0:
        raise InputError("must be 0 or more", place="best", value=best)
    tables = build_tables(space)
    params, flops = (_limits(space, budgets, metric, tolerance) for metric in METRICS)
    ends = _Ends(tables, (params[1], flops[1])) if best else None  # first: it may be refused
    halves = build_halves(tables, (params[1], flops[1]))
    count, distinct = (halves.enclose(params, flops, kind) for kind in ("allowed", "distinct"))
    found: list[Match] = []
    complete = True
    if ends is not None:
        if distinct[1]:
            expected = tolerance * min(1.0, (4 * best / distinct[1]) ** (1 / len(budgets)))
            found, complete = _nearest(ends, budgets, expected, tolerance, best, MAX_PAIRS)
        else:
            ends = _Ends(tables, (_limits(space, budgets, "params", 1.0)[1], _limits(space, budgets, "flops", 1.0)[1]))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Windows:
    """Front halves of one width, and for each the back halves that keep one budget."""

    front: IntArray
    """[n] places in the list of front halves."""
    begin: IntArray
    """[n] first place of the window in `back`."""
    length: IntArray
    """[n] places of the window."""
    back: IntArray
    """[n] places in the list of back halves, sorted by the count in question."""
    back_cost: IntArray
    """[n, 2] their costs with the transition from this width."""


class _Ends:
    """The two lists of halves of a space, of options that stand for their network only.

    The split is where the longer list would be shortest. Halves that break the order of widths, if there is one, or
    that alone exceed the ceiling of params and FLOPs are left out.
    """

    def __init__(self, tables: SpaceTables, ceiling: Corner) -> None:
        self.tables = tables
        self.ordered = tables.space.constraints.nondecreasing_widths
        kept = [np.flatnonzero(stage.network == np.arange(stage.size)) for stage in tables.stages]
        lengths = [len(options) for options in kept]
        splits = range(1, len(kept) + 1)
        self.split = min(splits, key=lambda i: max(prod(lengths[:i]), prod(lengths[i:])))
        self.kept = kept
        self.front, self.front_cost = self._list(0, self.split, np.array(ceiling))
        least = self.front_cost.min(axis=0, initial=MAX_COUNT)
        self.back, self.back_cost = self._list(self.split, len(kept), np.array(ceiling) - least)

    def options(self, half: IntArray, start: int, stop: int) -> IntArray:
        """[n, stages] the options of halves [n] of the stages from `start` up to `stop`."""
        places = np.unravel_index(half, [len(options) for options in self.kept[start:stop]] or [1])
        columns = [options[place] for options, place in zip(self.kept[start:stop], places, strict=False)]
        return np.stack(columns, axis=1) if columns else np.empty((len(half), 0), dtype=np.int64)

    def _list(self, start: int, stop: int, ceiling: IntArray) -> tuple[IntArray, IntArray]:
        """Halves [n] and their costs [n, 2], without what enters the first stage."""
        half, cost = np.zeros(1, dtype=np.int64), np.zeros((1, 2), dtype=np.int64)
        width = np.zeros(1, dtype=np.int64)
        for i, options in enumerate(self.kept[start:stop], start):
            blocks: list[tuple[IntArray, IntArray, IntArray]] = []
            step = max(1, PAIRS_AT_ONCE // len(options))
            for begin in range(0, len(half), step):
                part = slice(begin, begin + step)
                blocks.append(self._extended(half[part], cost[part], width[part], i, options, ceiling, i > start))
                if sum(len(block[0]) for block in blocks) > MAX_HALF:
                    rule = f"the nearest architectures are listed where half of the stages have at most {MAX_HALF:,}"
                    rule += " options within the budgets; without a list (`--best 0`) their number is given"
                    raise InputError(rule, place="stages", value=prod(map(len, self.kept[start:stop])))
            if not blocks:
                break
            half, cost, width = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        return half, cost

    def _extended(
        self,
        half: IntArray,
        cost: IntArray,
        width: IntArray,
        i: int,
        options: IntArray,
        ceiling: IntArray,
        joined: bool,
    ) -> tuple[IntArray, IntArray, IntArray]:
        """The halves, their costs and last widths with every option of stage `i` that keeps the ceiling."""
        left, right = np.divmod(np.arange(len(half) * len(options)), len(options))
        dim = self.tables.stages[i].dim[options]
        if joined and self.ordered:
            legal = dim[right] >= width[left]
            left, right = left[legal], right[legal]
        total = cost[left] + self.tables.cost[i][options][right]
        if joined:
            total += width[left][:, None] * self.tables.slope[i][options][right]
        within = np.all(total <= ceiling, axis=1)
        left, right = left[within], right[within]
        return half[left] * len(options) + right, total[within], dim[right]

    def windows(self, limits: IntArray, axis: int, every: int = 1) -> Iterator[_Windows]:
        """For each width at which the ends meet: which back halves, or each `every`-th, keep `limits` of one count."""
        tables, first = self.tables, self.split
        width = tables.stages[first - 1].dim[self.options(self.front, 0, first)[:, -1]]
        for dim in np.unique(width):
            front = np.flatnonzero(width == dim)
            back, cost = np.arange(0, len(self.back), every), self.back_cost
            if first < len(tables.stages):
                option = self.options(self.back[back], first, len(self.kept))[:, 0]
                cost = cost[back] + dim * tables.slope[first][option]
                legal = (tables.stages[first].dim[option] >= dim) | (not self.ordered)
                back, cost = back[legal], cost[legal]
            else:
                cost = cost[back]
            order = np.argsort(cost[:, axis], kind="stable")
            back, cost = back[order], cost[order]
            values = np.ascontiguousarray(cost[:, axis])
            own = self.front_cost[front, axis]
            begin = np.searchsorted(values, limits[axis, 0] - own, side="left")
            end = np.searchsorted(values, limits[axis, 1] - own, side="right")
            length = np.maximum(end - begin, 0)
            yield _Windows(front=front, begin=begin, length=length, back=back, back_cost=cost)

    def pairs(self, limits: IntArray, most: int) -> Iterator[tuple[IntArray, IntArray]] | None:
        """Rows [N, S] and costs [N, 2] of all architectures with both counts within `limits` [2, 2], in blocks.

        None where more than about `most` would have to be looked at, whichever count the halves are sorted by.
        """
        every = max(1, len(self.back) // SAMPLE)
        work = [sum(int(w.length.sum()) for w in self.windows(limits, axis, every)) for axis in (0, 1)]
        if min(work) * every > most:
            return None
        windows = self.windows(limits, work.index(min(work)))
        return (block for window in windows for block in self._blocks(limits, window))

    def _blocks(self, limits: IntArray, windows: _Windows) -> Iterator[tuple[IntArray, IntArray]]:
        """Each front half with its window of back halves, as many at once as `PAIRS_AT_ONCE` allows."""
        length, ends = windows.length, np.cumsum(windows.length)
        done = 0
        while done < len(length):
            start = int(ends[done] - length[done])
            upto = max(done + 1, int(np.searchsorted(ends, start + PAIRS_AT_ONCE, side="right")))
            lengths = length[done:upto]
            left = np.repeat(np.arange(done, upto), lengths)
            inside = np.arange(len(left)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            front, place = windows.front[left], windows.begin[left] + inside
            totals = self.front_cost[front] + windows.back_cost[place]
            hit = ((totals >= limits[:, 0]) & (totals <= limits[:, 1])).all(axis=1)
            if hit.any():
                rows = (
                    self.options(self.front[front[hit]], 0, self.split),
                    self.options(self.back[windows.back[place[hit]]], self.split, len(self.kept)),
                )
                yield np.hstack(rows), totals[hit]
            done = upto


def _nearest(
    ends: _Ends, budgets: Mapping[str, float], start: float, stop: float, best: int, most: int
) -> tuple[list[Match], bool]:
    """The `best` nearest architectures within `stop` of every budget, by a tolerance that doubles from `start`.

    At most `most` pairs are looked at for one tolerance; the second value is False where that ended the search.
    """
    tolerance = min(start, stop)
    found: list[Match] = []
    while True:
        limits = np.array([_limits(ends.tables.space, budgets, metric, tolerance) for metric in METRICS])
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
    for axis, metric in enumerate(METRICS):
        if metric in budgets:
            total += np.abs(costs[:, axis] / budgets[metric] - 1)
    return total


def _limits(space: SearchSpace, budgets: Mapping[str, float], metric: str, tolerance: float) -> tuple[int, int]:
    """The closed interval of one count that the space's constraint and the budget leave."""
    low, high = whole_bounds(getattr(space.constraints, metric))
    if metric in budgets:
        target = budgets[metric]
        low, high = max(low, ceil(target * (1 - tolerance))), min(high, floor(target * (1 + tolerance)))
    return low, high
