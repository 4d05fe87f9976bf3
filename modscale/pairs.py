"""Counts over all pairs of points of two sets: how many sums of (params, flops) meet limits, and the extreme ones.

One limit is a binary search in a running sum; limits on both counts are a look-up in a wavelet matrix.
Weights and counts are whole numbers, added without rounding.

Shapes: n points, m look-ups, C kinds of architectures that are counted side by side; columns of costs are params (0)
and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.stage_tables import MAX_COUNT, IntArray

CHUNK = 1 << 14
"""Look-ups done at a time: their intermediate arrays stay in the cache."""
PROMISING = 256
"""Points that `highest_pair` tries first."""

Weights = NDArray[Any]
Totals = tuple[int, ...]
"""[C] a whole number for each kind of architecture, of any size."""
Limits = tuple[int, int]
"""The least and the most, both allowed."""
Corner = tuple[int, int]
"""Upper limits of params and FLOPs, both allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Partial architectures that have their open width in common, equal ones merged."""

    cost: IntArray
    """[n, 2] params and FLOPs so far, sorted by params, then by FLOPs."""
    weight: Weights
    """[n, C] how many partial architectures of each kind a point stands for; int64, or float64 where rounded."""


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
    if len(starts) < len(weight):
        cost, weight = cost[starts], np.add.reduceat(weight, starts, axis=0)
    return Points(cost=cost, weight=weight)


def corner_counts(one: Points, other: Points, corners: Sequence[Corner]) -> list[Totals]:
    """For each corner, by kind, the pairs whose summed params and summed FLOPs are both at most the corner's.

    The points of the larger set ask which of the smaller set they admit. By one count alone that is a rank, and a
    running sum has the answer; it is the answer for both limits where all that are admitted by one count keep the
    other limit too. Params and FLOPs grow together, so few points are left to look up in the `QuadrantIndex`.
    """
    swept, asking = sorted((one, other), key=lambda points: len(points.weight))
    ends = [(*as_pair(points.cost.min(axis=0)), *as_pair(points.cost.max(axis=0))) for points in (swept, asking)]
    low_params, low_flops, high_params, high_flops = (sum(pair) for pair in zip(*ends, strict=True))
    axes = [_Axis(asking, swept, axis) for axis in (0, 1)]
    index: QuadrantIndex | None = None
    totals: list[Totals] = []
    for params, flops in corners:
        if params < low_params or flops < low_flops:
            totals.append((0,) * asking.weight.shape[1])
        elif params >= high_params and flops >= high_flops:
            totals.append(multiplied(total_weight(asking), total_weight(swept)))
        elif params >= high_params or flops >= high_flops:
            totals.append(axes[0].line(params) if flops >= high_flops else axes[1].line(flops))
        else:
            by_params, by_flops = axes[0].admitted(params), axes[1].admitted(flops)
            total, left = axes[0].decided(by_params, flops, None)
            more, left = axes[1].decided(by_flops, params, left)
            left = left[(by_params[left] > 0) & (by_flops[left] > 0)]
            if len(left):
                order = axes[0].order
                index = index or QuadrantIndex(axes[1].order.argsort()[order], swept.weight[order])
                counts = index.count(by_params[left], by_flops[left])
                more = added(more, weighted_sums(asking.weight[left], counts))
            totals.append(added(total, more))
    return totals


class _Axis:
    """The swept points by one count, and what the asking points admit of them."""

    def __init__(self, asking: Points, swept: Points, axis: int) -> None:
        self.asking, self.axis = asking, axis
        self.order = np.argsort(swept.cost[:, axis], kind="stable")
        self.values = swept.cost[self.order, axis]
        self.below = _running_sum(swept.weight[self.order])
        self.most_of_other = np.r_[-MAX_COUNT, np.maximum.accumulate(swept.cost[self.order, 1 - axis])]
        self.queries = np.argsort(asking.cost[:, axis], kind="stable")  # neighbours look where the cache still is
        self.own = asking.cost[self.queries, axis]
        self.own_below = _running_sum(asking.weight[self.queries])
        self.swept_weight = swept.weight[self.order]
        self.known: dict[int, IntArray] = {}

    def line(self, limit: int) -> Totals:
        """Pairs whose sum is at most `limit`: here the smaller set asks."""
        return weighted_sums(
            self.swept_weight, self.own_below[np.searchsorted(self.own, limit - self.values, side="right")]
        )

    def admitted(self, limit: int) -> IntArray:
        """[asking points] how many swept points keep the sum at or below `limit`."""
        if limit not in self.known:
            self.known[limit] = np.empty(len(self.own), dtype=np.int64)
            self.known[limit][self.queries] = np.searchsorted(self.values, limit - self.own, side="right")
        return self.known[limit]

    def decided(self, admitted: IntArray, other_limit: int, which: IntArray | None) -> tuple[Totals, IntArray]:
        """Pairs of those asking points all of whose admitted points keep the other limit, and the points left over.

        `which` [k] are the places of the asking points in question, None for all.
        """
        weight, cost = self.asking.weight, self.asking.cost[:, 1 - self.axis]
        if which is not None:
            admitted, weight, cost = admitted[which], weight[which], cost[which]
        whole = self.most_of_other[admitted] <= other_limit - cost
        total = weighted_sums(weight * whole[:, None], self.below[admitted])
        left = np.flatnonzero(~whole)
        return total, left if which is None else which[left]


class QuadrantIndex:
    """The weight of the points that are among the first i by one count and among the first j by another.

    A wavelet matrix (Claude and Navarro, SPIRE 2012): level by level, from the highest bit of the second rank, the
    points whose bit is 0 go before those whose bit is 1, each kind in the order it had. With running sums of the number
    and of the weight of the zeros, a look-up follows the bits of j and carries the first i along as an interval.
    """

    def __init__(self, rank: IntArray, weight: Weights) -> None:
        """rank [n]: the second rank of each point, in the order of the first; weight [n, C]: theirs, in that order."""
        self.levels: list[tuple[int, int, NDArray[np.int32], Weights]] = []
        for bit in reversed(range(len(rank).bit_length())):
            is_one = (rank >> bit) & 1
            zeros = np.zeros(len(rank) + 1, dtype=np.int32)
            np.cumsum(1 - is_one, out=zeros[1:])
            self.levels.append((bit, int(zeros[-1]), zeros, _running_sum(weight * (1 - is_one)[:, None])))
            order = np.concatenate([np.flatnonzero(is_one == 0), np.flatnonzero(is_one)])
            rank, weight = rank.take(order), weight.take(order, axis=0)

    def count(self, first: IntArray, second: IntArray) -> Weights:
        """[m, C] the weight of the points among the first `first` [m] and the first `second` [m], each 0 to n."""
        return np.concatenate(
            [
                self._count(first[i : i + CHUNK].astype(np.int32), second[i : i + CHUNK].astype(np.int32))
                for i in range(0, len(first), CHUNK)
            ]
        )

    def _count(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> Weights:
        below = self.levels[0][3]
        total = np.zeros((len(first), below.shape[1]), dtype=below.dtype)
        start, stop = np.zeros_like(first), first
        for bit, number, zeros, below in self.levels:
            is_one = (second >> bit) & 1 == 1
            total += (below.take(stop, axis=0) - below.take(start, axis=0)) * is_one[:, None]
            zeros_before, zeros_within = zeros.take(start), zeros.take(stop)
            start = np.where(is_one, start - zeros_before + np.int32(number), zeros_before)
            stop = np.where(is_one, stop - zeros_within + np.int32(number), zeros_within)
        return total


def weighted_sums(weight: Weights, counts: Weights) -> Totals:
    """Exact sums [C] of weight [n, C] times counts [n, C]; int64 products that could overflow are split in limbs."""
    if weight.dtype != np.int64 or counts.dtype != np.int64:
        return tuple(int(total) for total in (counts.astype(float) * weight).sum(axis=0))
    if not counts.size:
        return (0,) * weight.shape[1]
    if float(counts.max()) * float(weight.max()) * len(weight) < MAX_COUNT:
        return tuple(int(total) for total in np.einsum("nc,nc->c", weight, counts))
    mask = 2**31 - 1
    totals = [0] * weight.shape[1]
    for i, left in enumerate((weight & mask, weight >> 31)):
        for j, right in enumerate((counts & mask, counts >> 31)):
            product = left * right
            halves = zip((product & mask).sum(axis=0), (product >> 31).sum(axis=0), strict=True)
            for k, (low, high) in enumerate(halves):
                totals[k] += (int(low) + (int(high) << 31)) << (31 * (i + j))
    return tuple(totals)


def _running_sum(weight: Weights) -> Weights:
    """[n + 1, C] the weight [n, C] of the first so many."""
    total = np.zeros((len(weight) + 1, weight.shape[1]), dtype=weight.dtype)
    np.cumsum(weight, axis=0, out=total[1:])
    return total


def highest_pair(
    front: Points, back: Points, axis: int, own: Limits, other: Limits, floor: int | None, sign: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The (front, back) costs whose sum on `axis`, times `sign`, is highest within both intervals.

    None where no sum reaches `floor`. Each asking point starts at the highest swept point that `own` admits and goes
    down to the first that `other` admits too, in steps of powers of two over which no point can.
    """
    swept, asking = sorted((front, back), key=lambda points: len(points.weight))
    if not len(swept.weight):
        return None
    low, high = sorted((sign * own[0], sign * own[1]))
    low = low if floor is None else max(low, floor)
    order = np.argsort(sign * swept.cost[:, axis], kind="stable")
    values, others = sign * swept.cost[order, axis], swept.cost[order, 1 - axis]
    asked, across = sign * asking.cost[:, axis], asking.cost[:, 1 - axis]
    start = np.searchsorted(values, high - asked, side="right") - 1
    bound = np.where(start >= 0, asked + values[np.maximum(start, 0)], low - 1)
    best: tuple[int, int] | None = None
    promising = np.argpartition(-bound, min(PROMISING, len(bound)) - 1)[:PROMISING]
    promising = promising[np.argsort(-bound[promising], kind="stable")]
    promising = promising[bound[promising] >= low]
    beside = across[promising] + others[start[promising]]
    hits = np.flatnonzero((beside >= other[0]) & (beside <= other[1]))
    if len(hits):  # no search needed: the first is the highest
        winner = int(promising[hits[0]])
        best = winner, int(order[start[winner]])
        low = int(bound[winner]) + 1
    rest = np.flatnonzero(bound >= low)
    least, most = _extremes(others) if len(rest) else ([], [])
    for ids in (promising, rest):  # the most promising first: they rule most others out
        at = start[ids]
        while len(ids):
            live = (at >= 0) & (asked[ids] + values[np.maximum(at, 0)] >= low)
            ids, at = ids[live], at[live]
            if not len(ids):
                break
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


def _extremes(values: IntArray) -> tuple[list[IntArray], list[IntArray]]:
    """[level][j]: the least and the most over the 2**level values that end at j."""
    least, most = [values], [values]
    while 1 << len(least) <= len(values):
        step = 1 << (len(least) - 1)
        least.append(np.r_[least[-1][:step], np.minimum(least[-1][step:], least[-1][:-step])])
        most.append(np.r_[most[-1][:step], np.maximum(most[-1][step:], most[-1][:-step])])
    return least, most


def total_weight(points: Points) -> Totals:
    """[C] partial architectures of each kind."""
    return weighted_sums(points.weight, np.ones_like(points.weight))


def added(left: Totals, right: Totals) -> Totals:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def multiplied(left: Totals, right: Totals) -> Totals:
    return tuple(a * b for a, b in zip(left, right, strict=True))


def as_pair(row: IntArray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
