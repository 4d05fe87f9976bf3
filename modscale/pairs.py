"""Counts over all pairs of points of two sets: how many sums of (params, flops) meet limits, and the extreme ones.

One limit is a binary search in a running sum; limits on both counts are a look-up in a wavelet matrix.
Weights and counts are whole numbers, added without rounding.

Shapes: n points, m look-ups, C kinds of architectures that are counted side by side; columns of costs are params (0)
and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import MAX_COUNT, IntArray
from modscale.points import (
    Corner,
    Limits,
    Points,
    Weights,
    as_pair,
    running_sum,
    total_weight,
    weighted_sum,
)

DIGIT_BITS = 2
"""Of a rank, looked up at a time."""
CHUNK = 1 << 14
"""Look-ups done at a time: their intermediate arrays stay in the cache."""
KEPT = 2
"""Limits of one count whose ranks are kept: neighbouring corners share one limit."""
PROMISING = 256
"""Points that `highest_pair` tries first."""

Columns = tuple[int, ...]
"""Kinds of architectures, by their column of the weights."""
Totals = tuple[int | None, ...]
"""[C] a number for each kind, None where it was not asked for."""


def corner_counts(one: Points, other: Points, corners: Sequence[Corner], columns: Sequence[Columns]) -> list[Totals]:
    """For each corner, the pairs whose summed params and summed FLOPs are both at most the corner's.

    The points of the larger set ask which of the smaller set they admit. By one count alone that is a rank, and a
    running sum has the answer; it is the answer for both limits where all that are admitted by one count keep the
    other limit too. Params and FLOPs grow together, so few points are left to look up in the `QuadrantIndex`.

    Args:
        one: points of one side.
        other: points of the other side.
        corners: what is asked.
        columns: for each corner, the kinds that are asked for; other kinds get None.
    """
    if not corners:
        return []
    swept, asking = sorted((one, other), key=lambda points: len(points.weight))
    ends = [(*as_pair(points.cost.min(axis=0)), *as_pair(points.cost.max(axis=0))) for points in (swept, asking)]
    low_params, low_flops, high_params, high_flops = (sum(pair) for pair in zip(*ends, strict=True))
    axes = [_Axis(asking, swept, axis) for axis in (0, 1)]
    index: QuadrantIndex | None = None
    whole = [a * b for a, b in zip(total_weight(asking), total_weight(swept), strict=True)]
    totals: list[Totals] = []
    for (params, flops), kinds in zip(corners, columns, strict=True):
        found: dict[int, int]
        if params < low_params or flops < low_flops:
            found = dict.fromkeys(kinds, 0)
        elif params >= high_params and flops >= high_flops:
            found = {k: whole[k] for k in kinds}
        elif params >= high_params or flops >= high_flops:
            found = axes[0].line(params, kinds) if flops >= high_flops else axes[1].line(flops, kinds)
        else:
            by_params, by_flops = axes[0].admitted(params), axes[1].admitted(flops)
            found, left = axes[0].decided(by_params, flops, None, kinds)
            more, left = axes[1].decided(by_flops, params, left, kinds)
            left = left[(by_params[left] > 0) & (by_flops[left] > 0)]
            if len(left):
                order = axes[0].order
                index = index or QuadrantIndex(axes[1].order.argsort()[order], swept.weight[order])
                counts = index.count(by_params[left], by_flops[left], kinds)
                more = {k: more[k] + weighted_sum(asking.weight[left, k], counts[k]) for k in kinds}
            found = {k: found[k] + more[k] for k in kinds}
        totals.append(tuple(found.get(k) for k in range(len(whole))))
    return totals


class _Axis:
    """The swept points by one count, and what the asking points admit of them."""

    def __init__(self, asking: Points, swept: Points, axis: int) -> None:
        self.order = np.argsort(swept.cost[:, axis], kind="stable")
        self.values = swept.cost[self.order, axis]
        self.weights = [np.ascontiguousarray(column) for column in swept.weight[self.order].T]
        self.below = [running_sum(column) for column in self.weights]
        self.most_of_other = np.r_[-MAX_COUNT, np.maximum.accumulate(swept.cost[self.order, 1 - axis])]
        self.queries = np.argsort(asking.cost[:, axis], kind="stable")  # neighbours look where the cache still is
        self.own = asking.cost[self.queries, axis]
        self.own_below = [running_sum(column) for column in asking.weight[self.queries].T]
        self.other_cost = np.ascontiguousarray(asking.cost[:, 1 - axis])
        self.asking_weights = [np.ascontiguousarray(column) for column in asking.weight.T]
        self.known: dict[int, IntArray] = {}

    def line(self, limit: int, kinds: Columns) -> dict[int, int]:
        """Pairs whose sum is at most `limit`: here the smaller set asks."""
        admitted = np.searchsorted(self.own, limit - self.values, side="right")
        return {k: weighted_sum(self.weights[k], self.own_below[k].take(admitted)) for k in kinds}

    def admitted(self, limit: int) -> IntArray:
        """[asking points] how many swept points keep the sum at or below `limit`."""
        ranks = self.known.pop(limit, None)
        if ranks is None:
            ranks = np.empty(len(self.own), dtype=np.int64)
            ranks[self.queries] = np.searchsorted(self.values, limit - self.own, side="right")
            if len(self.known) >= KEPT:
                del self.known[next(iter(self.known))]
        self.known[limit] = ranks  # the last used comes last
        return ranks

    def decided(
        self, admitted: IntArray, other_limit: int, which: IntArray | None, kinds: Columns
    ) -> tuple[dict[int, int], IntArray]:
        """Pairs of those asking points all of whose admitted points keep the other limit, and the points left over.

        `which` [k] are the places of the asking points in question, None for all.
        """
        cost = self.other_cost
        if which is not None:
            admitted, cost = admitted[which], cost[which]
        whole = self.most_of_other.take(admitted) <= other_limit - cost
        counted = np.where(whole, admitted, 0)
        totals = {}
        for k in kinds:
            weight = self.asking_weights[k] if which is None else self.asking_weights[k][which]
            totals[k] = weighted_sum(weight, self.below[k].take(counted))
        left = np.flatnonzero(~whole)
        return totals, left if which is None else which[left]


class QuadrantIndex:
    """The weight of the points that are among the first i by one count and among the first j by another.

    A wavelet matrix (Claude and Navarro, SPIRE 2012) of radix 4: level by level, from the highest digit of the second
    rank, the points are put in the order of that digit, those of equal digit in the order they had. With running sums,
    by digit, of the number of points and of the weight of smaller digits, a look-up follows the digits of j and carries
    the first i along as an interval.
    """

    def __init__(self, rank: IntArray, weight: Weights) -> None:
        """rank [n]: the second rank of each point, in the order of the first; weight [n, C]: theirs, in that order."""
        n, radix = len(rank), 1 << DIGIT_BITS
        self.levels: list[tuple[int, IntArray, NDArray[np.int32], list[Weights]]] = []
        places = np.arange(1, n + 1)
        for level in reversed(range(-(-n.bit_length() // DIGIT_BITS))):
            digit = ((rank >> (level * DIGIT_BITS)) & (radix - 1)).astype(np.uint8)
            points = np.zeros((n + 1, radix), dtype=np.int32)
            points[places, digit] = 1
            np.cumsum(points, axis=0, out=points)
            smaller = [self._smaller(digit, column) for column in weight.T]
            begins = np.cumsum(points[-1], dtype=np.int64) - points[-1]
            self.levels.append((level * DIGIT_BITS, begins, points.ravel(), smaller))
            order = np.argsort(digit, kind="stable")
            rank, weight = rank.take(order), weight.take(order, axis=0)

    @staticmethod
    def _smaller(digit: NDArray[np.uint8], weight: Weights) -> Weights:
        """[(n + 1) * radix] of the first so many points, the weight of those with a smaller digit."""
        total = np.zeros((len(weight) + 1, 1 << DIGIT_BITS), dtype=weight.dtype)
        for d in range(1, 1 << DIGIT_BITS):
            np.cumsum(np.where(digit < d, weight, 0), out=total[1:, d])
        return total.ravel()

    def count(self, first: IntArray, second: IntArray, kinds: Columns) -> dict[int, Weights]:
        """By kind, [m] the weight of the points among the first `first` [m] and the first `second` [m], each 0 to n."""
        totals = {k: np.zeros(len(first), dtype=self.levels[0][3][k].dtype) for k in kinds}
        for begin in range(0, len(first), CHUNK):
            part = slice(begin, begin + CHUNK)
            self._count(first[part], second[part], {k: totals[k][part] for k in kinds})
        return totals

    def _count(self, first: IntArray, second: IntArray, totals: dict[int, Weights]) -> None:
        start, stop = np.zeros_like(first), first
        for shift, begins, points, smaller in self.levels:
            digit = (second >> shift) & ((1 << DIGIT_BITS) - 1)
            low, high = (start << DIGIT_BITS) + digit, (stop << DIGIT_BITS) + digit
            for k, total in totals.items():
                total += smaller[k].take(high)
                total -= smaller[k].take(low)
            if shift:
                begin = begins.take(digit)
                start, stop = begin + points.take(low), begin + points.take(high)


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
