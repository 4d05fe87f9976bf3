"""Two halves of every architecture, and exact counts of the pairs that stay within limits.

A space of 1e12 architectures has a front half and a back half of about 1e6 partial architectures each. Both are built
stage by stage as (params, flops) points with a weight, points that coincide are merged, and they are kept apart by
the width at which the halves meet, since the transition's cost depends on it. To count architectures within limits is
then to count pairs of points: one limit by binary search, limits on both counts by a sweep (`_corner_counts`).

Whole numbers throughout: nothing is sampled or rounded. Where the halves would grow past `MAX_POINTS`, the points are
rounded down to a grid instead; `slack` bounds how far each total may have moved, so that counts with the limits moved
by it enclose the true one.

Shapes: n points, K limits; columns are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.stage_tables import MAX_COUNT, IntArray
from modscale.tables import SpaceTables

MAX_POINTS = 12_000_000
"""Points of either half, counted once for each width at which it may meet the other; more are rounded to a grid."""
COARSE_POINTS = 2_500
"""Points of one width that are kept where points are rounded."""
COARSE_SHARE = 1e-6
"""Bound on the relative error of rounded weights: sums of fewer than 1e8 float64 terms."""

Weights = NDArray[Any]
Limits = tuple[int, int]


class _TooManyPoints(Exception):
    """The halves have more distinct points than are counted exactly: a signal to round, never seen outside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Partial architectures that have their open width in common, equal ones merged."""

    cost: IntArray
    """[n, 2] params and FLOPs so far, sorted by params, then by FLOPs."""
    weight: Weights
    """[n] how many partial architectures each point stands for; int64, or float64 where rounded."""


Groups = Mapping[int, Points]
"""Points by their open width: the last stage's of a front half, the first stage's of a back half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """A space as pairs of point sets: each architecture is one point of each set of one pair, added up."""

    pairs: tuple[tuple[Points, Points], ...]
    """(front with its transition, back) for each width at which they meet."""
    slack: tuple[int, int]
    """Upper bound of how much params and FLOPs of a total were rounded down; (0, 0) where counts are exact."""

    @property
    def exact(self) -> bool:
        return self.slack == (0, 0) and all(p.weight.dtype == np.int64 for pair in self.pairs for p in pair)

    def size(self) -> int:
        """Number of architectures."""
        return sum(_total(front) * _total(back) for front, back in self.pairs)

    def cumulative(self, axis: int, limits: Sequence[int], other: Limits) -> list[int]:
        """Architectures whose count `axis` is at most each limit, and whose other count lies in `other`."""
        low, high = other
        totals = [0] * len(limits)
        for pair in self.pairs:
            least = sum(int(points.cost[:, 1 - axis].min()) for points in pair)
            most = sum(int(points.cost[:, 1 - axis].max()) for points in pair)
            for sign, bound in ((1, high), (-1, low - 1)):
                if bound < least:
                    continue
                # The larger set asks and the smaller is swept over: the sweep's cost grows faster.
                swept, asking = sorted(pair, key=lambda points: len(points.weight))
                counts = (
                    _line_counts(asking, swept, axis, limits)
                    if bound >= most
                    else _corner_counts(asking, swept, axis, limits, bound)
                )
                totals = [total + sign * count for total, count in zip(totals, counts, strict=True)]
        return totals

    def count(self, params: Limits, flops: Limits) -> int:
        """Architectures within both closed intervals."""
        below, within = self.cumulative(0, [params[0] - 1, params[1]], flops)
        return within - below

    def enclose(self, params: Limits, flops: Limits) -> tuple[int, int]:
        """The least and the most architectures that can lie within both intervals; equal where counts are exact."""
        if self.exact:
            return (self.count(params, flops),) * 2
        inner = [(low, high - slack) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        outer = [(low - slack, high) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        margin = int(COARSE_SHARE * self.size()) + 1
        least = self.count(inner[0], inner[1]) if all(low <= high for low, high in inner) else 0
        return max(0, least - margin), min(self.size(), self.count(outer[0], outer[1])) + margin

    def highest(self, axis: int, own: Limits, other: Limits, *, lowest: bool = False) -> tuple[int, int] | None:
        """(params, flops) of an architecture with the highest (or lowest) count `axis` within both intervals."""
        best: tuple[int, int] | None = None
        for front, back in self.pairs:
            best = _highest_pair(front, back, axis, own, other, best, -1 if lowest else 1)
        return best


def build_halves(tables: SpaceTables, *, ordered: bool, distinct: bool = False) -> Halves:
    """The halves of a space, those of networks that differ only where `distinct`; rounded where they grow too large.

    Args:
        tables: the space.
        ordered: leave out architectures in which a stage is narrower than the one before it.
        distinct: of the options of a stage that are the same network, take one.
    """
    try:
        return _build(tables, ordered, distinct, coarse=False)
    except _TooManyPoints:
        return _build(tables, ordered, distinct, coarse=True)


def _build(tables: SpaceTables, ordered: bool, distinct: bool, *, coarse: bool) -> Halves:
    """Both ends grow towards each other, the one whose next step is cheaper first."""
    slack = np.zeros(2, dtype=np.int64)

    def settled(groups: Groups, most: int) -> Groups:
        if not coarse:
            return groups
        rounded, moved = _rounded(groups, most)
        slack[:] += moved
        return rounded

    stages = [
        settled(_stage_groups(tables, i, distinct, coarse), COARSE_POINTS // 4) for i in range(len(tables.stages))
    ]
    slopes = [_slopes(tables, i) for i in range(len(stages))]
    first, last = 0, len(stages) - 1
    front, back = stages[0], stages[-1]
    if last == 0:
        nothing = Points(cost=np.zeros((1, 2), dtype=np.int64), weight=np.ones(1, dtype=np.int64))
        return Halves(pairs=tuple((points, nothing) for points in front.values()), slack=_pair(slack))
    while last - first > 1:
        if _work(front, stages[first + 1]) <= _work(back, stages[last - 1]):
            first += 1
            joined = _joined((dim, _entering(front, dim, slopes[first], ordered)) for dim in stages[first])
            front = settled(_grown(settled(joined, COARSE_POINTS), stages[first], coarse), COARSE_POINTS)
        else:
            joined = _joined((dim, _leaving(back, dim, slopes[last], ordered)) for dim in stages[last - 1])
            last -= 1
            back = settled(_grown(settled(joined, COARSE_POINTS), stages[last], coarse), COARSE_POINTS)
    met = _joined((dim, _entering(front, dim, slopes[last], ordered)) for dim in back)
    if not coarse and sum(len(points.weight) for points in met.values()) > MAX_POINTS:
        raise _TooManyPoints
    return Halves(pairs=tuple((points, back[dim]) for dim, points in met.items()), slack=_pair(slack))


def merged(points: Points) -> Points:
    """The points sorted, coinciding ones as one of their summed weight."""
    cost, weight = points.cost, points.weight
    low = cost.min(axis=0)
    params, flops = (cost - low).T
    width = int(flops.max()) + 1
    if int(params.max()) * width < MAX_COUNT:  # one key sorts in a third of the time of two
        order = np.argsort(params * width + flops)
    else:
        order = np.lexsort((flops, params))
    cost, weight = cost[order], weight[order]
    starts = np.flatnonzero(np.r_[True, (cost[1:] != cost[:-1]).any(axis=1)])
    return Points(cost=cost[starts], weight=np.add.reduceat(weight, starts))


def _stage_groups(tables: SpaceTables, i: int, distinct: bool, coarse: bool) -> dict[int, Points]:
    """One stage's options as points by width."""
    stage = tables.stages[i]
    kept = np.flatnonzero(stage.network == np.arange(stage.size)) if distinct else np.arange(stage.size)
    kept = kept[np.argsort(stage.dim[kept], kind="stable")]
    dims, starts = np.unique(stage.dim[kept], return_index=True)
    kind = np.float64 if coarse else np.int64
    return {
        int(dim): merged(Points(cost=tables.cost[i][options], weight=np.ones(len(options), dtype=kind)))
        for dim, options in zip(dims, np.split(kept, starts[1:]), strict=True)
    }


def _slopes(tables: SpaceTables, i: int) -> dict[int, IntArray]:
    """[2] what each entering channel costs, by the stage's width."""
    dims, first = np.unique(tables.stages[i].dim, return_index=True)
    return {int(dim): tables.slope[i][place] for dim, place in zip(dims, first, strict=True)}


def _entering(front: Groups, dim: int, slopes: Mapping[int, IntArray], ordered: bool) -> Points | None:
    """All front halves that may enter a stage of `dim` channels, with the transition into it."""
    return _union((p, width * slopes[dim]) for width, p in front.items() if width <= dim or not ordered)


def _leaving(back: Groups, dim: int, slopes: Mapping[int, IntArray], ordered: bool) -> Points | None:
    """All back halves that may follow a stage of `dim` channels, with the transition into them."""
    return _union((p, dim * slopes[width]) for width, p in back.items() if dim <= width or not ordered)


def _union(shifted: Iterable[tuple[Points, IntArray]]) -> Points | None:
    parts = [(points.cost + shift, points.weight) for points, shift in shifted]
    if not parts:
        return None
    return Points(cost=np.concatenate([c for c, _ in parts]), weight=np.concatenate([w for _, w in parts]))


def _joined(points: Iterable[tuple[int, Points | None]]) -> dict[int, Points]:
    """The widths that anything leads to, with coinciding points merged."""
    return {dim: merged(union) for dim, union in points if union is not None}


def _grown(joined: Groups, stage: Groups, coarse: bool) -> dict[int, Points]:
    """Each width's partial architectures with every option of the stage of that width."""
    if not coarse:
        points = sum(len(part.weight) * len(stage[dim].weight) for dim, part in joined.items())
        weight = sum(_total(part) * _total(stage[dim]) for dim, part in joined.items())
        if points > MAX_POINTS or weight >= MAX_COUNT:
            raise _TooManyPoints
    grown: dict[int, Points] = {}
    for dim, part in joined.items():
        cost = (part.cost[:, None, :] + stage[dim].cost).reshape(-1, 2)
        grown[dim] = merged(Points(cost=cost, weight=(part.weight[:, None] * stage[dim].weight).reshape(-1)))
    return grown


def _work(end: Groups, stage: Groups) -> int:
    """Points that a step would make, before any merge."""
    return sum(len(points.weight) for points in end.values()) * sum(len(points.weight) for points in stage.values())


def _rounded(groups: Groups, most: int) -> tuple[dict[int, Points], IntArray]:
    """The points rounded down to a grid of at most `most` cells a width, and the largest move of each count."""
    moved = np.zeros(2, dtype=np.int64)
    rounded = dict(groups)
    for dim, points in groups.items():
        if len(points.weight) > most:
            low = points.cost.min(axis=0)
            cell = (points.cost.max(axis=0) - low) // int(most**0.5) + 1
            rounded[dim] = merged(Points(cost=low + (points.cost - low) // cell * cell, weight=points.weight))
            moved = np.maximum(moved, cell - 1)
    return rounded, moved


def _line_counts(asking: Points, swept: Points, axis: int, limits: Sequence[int]) -> list[int]:
    """Pairs whose summed count `axis` is at most each limit."""
    order = np.argsort(swept.cost[:, axis], kind="stable")
    values = swept.cost[order, axis]
    below = np.r_[np.zeros(1, dtype=swept.weight.dtype), np.cumsum(swept.weight[order])]
    queries = np.argsort(asking.cost[:, axis], kind="stable")
    own, weight = asking.cost[queries, axis], asking.weight[queries]
    return [
        weighted_sums(weight, below[np.searchsorted(values, limit - own, side="right")][None])[0] for limit in limits
    ]


def _corner_counts(asking: Points, swept: Points, axis: int, limits: Sequence[int], bound: int) -> list[int]:
    """Pairs whose summed count `axis` is at most each limit, and whose other count is at most `bound`.

    Of the swept points, sorted by the other count, each asking point admits a prefix; of the prefix, those below the
    limit are wanted. The sweep goes through the prefix in blocks: what lies in finished blocks is one look-up in a
    running sum by rank, and what lies in the current block is one look-up in a small square table.
    """
    others = np.argsort(swept.cost[:, 1 - axis], kind="stable")
    ranked = np.argsort(swept.cost[:, axis], kind="stable")
    values = swept.cost[ranked, axis]
    rank = np.empty(len(ranked), dtype=np.int64)
    rank[ranked] = np.arange(len(ranked))
    rank, weight = rank[others], swept.weight[others]

    admitted = np.searchsorted(swept.cost[others, 1 - axis], bound - asking.cost[:, 1 - axis], side="right")
    block = 128 if len(rank) < 1 << 16 else 512
    queries = np.lexsort((asking.cost[:, axis], admitted // block))
    own, own_weight, admitted = asking.cost[queries, axis], asking.weight[queries], admitted[queries]
    starts = np.arange(0, len(rank) + 1, block)
    ends = np.searchsorted(admitted // block, starts // block, side="right")

    wanted = np.array(limits, dtype=np.int64)[:, None]
    finished = np.zeros(len(rank), dtype=weight.dtype)
    totals = [0] * len(limits)
    asked = 0
    for start, end in zip(starts, ends, strict=True):
        part, part_weight = rank[start : start + block], weight[start : start + block]
        if end > asked and not (start == 0 and admitted[end - 1] == 0):
            place = np.searchsorted(values, wanted - own[asked:end], side="right")
            counts = np.r_[np.zeros(1, dtype=weight.dtype), np.cumsum(finished)][place]
            if len(part):
                local = np.argsort(part)
                square = np.zeros((len(part) + 1,) * 2, dtype=weight.dtype)
                square[1 + local, 1 + np.arange(len(part))] = part_weight[local]
                square = square.cumsum(axis=0).cumsum(axis=1)
                column = np.searchsorted(part[local], place, side="left")
                counts += square[admitted[asked:end] - start, column]
            sums = weighted_sums(own_weight[asked:end], counts)
            totals = [total + more for total, more in zip(totals, sums, strict=True)]
        finished[part] = part_weight
        asked = end
    return totals


def weighted_sums(weight: Weights, counts: NDArray[Any]) -> list[int]:
    """Exact sums of weight [n] times counts [K, n]; int64 products that could overflow are split into 31-bit limbs."""
    if weight.dtype != np.int64 or counts.dtype != np.int64:
        return [int(total) for total in counts.astype(float) @ weight.astype(float)]
    if not counts.size:
        return [0] * len(counts)
    if float(counts.max()) * float(weight.sum(dtype=float)) < MAX_COUNT:
        return [int(total) for total in counts @ weight]
    mask = 2**31 - 1
    totals = [0] * len(counts)
    for i, left in enumerate((weight & mask, weight >> 31)):
        for j, right in enumerate((counts & mask, counts >> 31)):
            product = left * right
            halves = zip((product & mask).sum(axis=1), (product >> 31).sum(axis=1), strict=True)
            for k, (low, high) in enumerate(halves):
                totals[k] += (int(low) + (int(high) << 31)) << (31 * (i + j))
    return totals


def _highest_pair(
    front: Points, back: Points, axis: int, own: Limits, other: Limits, best: tuple[int, int] | None, sign: int
) -> tuple[int, int] | None:
    """The better of `best` and the pair whose sum on `axis`, times `sign`, is highest within both intervals."""
    swept, asking = sorted((front, back), key=lambda points: len(points.weight))
    if len(swept.weight) < 64:
        swept, asking = asking, swept
    low, high = sorted((sign * own[0], sign * own[1]))
    order = np.argsort(sign * swept.cost[:, axis], kind="stable")
    values, others = sign * swept.cost[order, axis], swept.cost[order, 1 - axis]
    # least[l][j], most[l][j]: over the 2**l entries that end at j
    least, most = [others], [others]
    while 1 << len(least) <= len(others):
        step = 1 << (len(least) - 1)
        least.append(np.r_[least[-1][:step], np.minimum(least[-1][step:], least[-1][:-step])])
        most.append(np.r_[most[-1][:step], np.maximum(most[-1][step:], most[-1][:-step])])

    asked, across = sign * asking.cost[:, axis], asking.cost[:, 1 - axis]
    place = np.searchsorted(values, high - asked, side="right") - 1
    floor = low if best is None else max(low, sign * best[axis] + 1)
    first = np.argsort(-(asked + values[np.maximum(place, 0)]), kind="stable")[:256]
    for chosen in (first, np.arange(len(asked))):  # the most promising alone first: they rule most others out
        mine, theirs, at = asked[chosen], across[chosen], place[chosen]
        while len(at):
            live = (at >= 0) & (mine + values[np.maximum(at, 0)] >= floor)
            mine, theirs, at = mine[live], theirs[live], at[live]
            for level in range(len(least) - 1, -1, -1):
                here = np.maximum(at, 0)
                none = (least[level][here] + theirs > other[1]) | (most[level][here] + theirs < other[0])
                at = np.where(none & (at >= 0), at - (1 << level), at)
            inside = at >= 0
            mine, theirs, at = mine[inside], theirs[inside], at[inside]
            across_sum = theirs + others[at]
            hit = (across_sum >= other[0]) & (across_sum <= other[1]) & (mine + values[at] >= floor)
            if hit.any():
                winner = np.flatnonzero(hit)[np.argmax((mine + values[at])[hit])]
                value = int(sign * (mine[winner] + values[at[winner]]))
                pair = (value, int(across_sum[winner]))
                best = pair if axis == 0 else pair[::-1]
                floor = sign * value + 1
            at = at - 1
    return best


def _total(points: Points) -> int:
    return weighted_sums(points.weight, np.ones((1, len(points.weight)), dtype=points.weight.dtype))[0]


def _pair(slack: IntArray) -> tuple[int, int]:
    return int(slack[0]), int(slack[1])
