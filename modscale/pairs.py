"""Counts over all pairs of points of two sets: how many sums of (params, flops) meet limits, and the extreme ones.

One limit is a binary search in a running sum; limits on both counts are a sweep over one set in blocks. Weights and
counts are whole numbers, added without rounding.

Shapes: n points, K limits; columns are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.stage_tables import MAX_COUNT, IntArray

BLOCK = 128
"""Points in a step of the sweep."""
ROW = 64
"""Ranks in a row of the sweep's running sum."""

Weights = NDArray[Any]
Limits = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Partial architectures that have their open width in common, equal ones merged."""

    cost: IntArray
    """[n, 2] params and FLOPs so far, sorted by params, then by FLOPs."""
    weight: Weights
    """[n] how many partial architectures each point stands for; int64, or float64 where rounded."""


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


def line_counts(asking: Points, swept: Points, axis: int, limits: Sequence[int]) -> list[int]:
    """Pairs whose summed count `axis` is at most each limit."""
    order = np.argsort(swept.cost[:, axis], kind="stable")
    values = swept.cost[order, axis]
    below = np.r_[np.zeros(1, dtype=swept.weight.dtype), np.cumsum(swept.weight[order])]
    queries = np.argsort(asking.cost[:, axis], kind="stable")
    own, weight = asking.cost[queries, axis], asking.weight[queries]
    return [
        weighted_sums(weight, below[np.searchsorted(values, limit - own, side="right")][None])[0] for limit in limits
    ]


def corner_counts(asking: Points, swept: Points, axis: int, limits: Sequence[int], bound: int) -> list[int]:
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
    able = np.flatnonzero((admitted > 0) & (asking.cost[:, axis] + values[0] <= max(limits)))
    queries = able[np.lexsort((asking.cost[able, axis], admitted[able] // BLOCK))]
    own, own_weight, admitted = asking.cost[queries, axis], asking.weight[queries], admitted[queries]
    starts = np.arange(0, len(rank) + 1, BLOCK)
    ends = np.searchsorted(admitted // BLOCK, starts // BLOCK, side="right")

    wanted = np.array(limits, dtype=np.int64)[:, None]
    # The running sum by rank in two levels, so that a block of points touches few of its rows.
    finished = np.zeros((len(rank) // ROW + 1, ROW), dtype=weight.dtype)
    before = np.zeros_like(finished)
    sums_by_row = np.zeros(len(finished), dtype=weight.dtype)
    totals = [0] * len(limits)
    asked = 0
    for start, end in zip(starts, ends, strict=True):
        part, part_weight = rank[start : start + BLOCK], weight[start : start + BLOCK]
        if end > asked:
            place = np.searchsorted(values, wanted - own[asked:end], side="right")
            counts = (sums_by_row.cumsum() - sums_by_row)[place // ROW] + before.ravel()[place]
            if len(part):
                local = np.argsort(part)
                square = np.zeros((len(part) + 1,) * 2, dtype=weight.dtype)
                square[1 + local, 1 + np.arange(len(part))] = part_weight[local]
                square = square.cumsum(axis=0).cumsum(axis=1)
                column = np.searchsorted(part[local], place, side="left")
                counts += square[admitted[asked:end] - start, column]
            sums = weighted_sums(own_weight[asked:end], counts)
            totals = [total + more for total, more in zip(totals, sums, strict=True)]
        finished[part // ROW, part % ROW] = part_weight
        touched = np.unique(part // ROW)
        inside = finished[touched].cumsum(axis=1)
        before[touched] = inside - finished[touched]
        sums_by_row[touched] = inside[:, -1]
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


def highest_pair(
    front: Points, back: Points, axis: int, own: Limits, other: Limits, floor: int | None, sign: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The (front, back) costs whose sum on `axis`, times `sign`, is highest within both intervals.

    None where no sum reaches `floor`. Each asking point starts at the highest swept point that `own` admits and goes
    down to the first that `other` admits too, in steps of powers of two over which no point can.
    """
    swept, asking = sorted((front, back), key=lambda points: len(points.weight))
    low, high = sorted((sign * own[0], sign * own[1]))
    low = low if floor is None else max(low, floor)
    order = np.argsort(sign * swept.cost[:, axis], kind="stable")
    values, others = sign * swept.cost[order, axis], swept.cost[order, 1 - axis]
    least, most = [others], [others]  # [level][j]: over the 2**level points that end at j
    while 1 << len(least) <= len(others):
        step = 1 << (len(least) - 1)
        least.append(np.r_[least[-1][:step], np.minimum(least[-1][step:], least[-1][:-step])])
        most.append(np.r_[most[-1][:step], np.maximum(most[-1][step:], most[-1][:-step])])

    asked, across = sign * asking.cost[:, axis], asking.cost[:, 1 - axis]
    start = np.searchsorted(values, high - asked, side="right") - 1
    promising = np.argsort(-(asked + values[np.maximum(start, 0)]), kind="stable")[:256]
    best: tuple[int, int] | None = None
    for ids in (promising, np.arange(len(asked))):  # the most promising first: they rule most others out
        at = start[ids]
        while len(ids):
            live = (at >= 0) & (asked[ids] + values[np.maximum(at, 0)] >= low)
            ids, at = ids[live], at[live]
            for level in range(len(least) - 1, -1, -1):
                here = np.maximum(at, 0)
                none = (least[level][here] + across[ids] > other[1]) | (most[level][here] + across[ids] < other[0])
                at = np.where(none & (at >= 0), at - (1 << level), at)
            ids, at = ids[at >= 0], at[at >= 0]
            reached, beside = asked[ids] + values[at], across[ids] + others[at]
            hit = (beside >= other[0]) & (beside <= other[1]) & (reached >= low)
            if hit.any():
                winner = int(np.flatnonzero(hit)[np.argmax(reached[hit])])
                best = int(ids[winner]), int(order[at[winner]])
                low = int(reached[winner]) + 1
            at = at - 1
    if best is None:
        return None
    costs = as_pair(asking.cost[best[0]]), as_pair(swept.cost[best[1]])
    return costs if asking is front else costs[::-1]


def total_weight(points: Points) -> int:
    return weighted_sums(points.weight, np.ones((1, len(points.weight)), dtype=points.weight.dtype))[0]


def as_pair(row: IntArray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
