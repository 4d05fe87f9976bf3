"""How many pairs of halves lie at or below a corner of params and FLOPs, and the pair that goes furthest.

The halves of the longer list ask, those of the shorter are sorted by either count. By one count alone, the number
that a half may be paired with is a rank, found by binary search; that is the answer for both counts where all of them
keep the other limit too, which a running maximum tells. That leaves few for the wavelet matrix.

Shapes: n halves of the shorter list, m of the longer; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from modscale.arrays import MAX_COUNT, IntArray
from modscale.spaces.wavelet_matrix import WaveletMatrix

CHUNK = 1 << 14
"""Halves that ask at a time: what they look at stays in the cache."""
PROMISING = 256
"""Halves that are looked at first for the pair that goes furthest."""

Limits = tuple[int, int]
"""The least and the most, both allowed."""
Corner = tuple[int, int]
"""The most params and the most FLOPs, both allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extreme:
    """What is sought among all architectures: the one with the highest (or lowest) count within both intervals."""

    axis: int
    own: Limits
    """Of the count that is sought."""
    other: Limits
    """Of the other count."""
    lowest: bool = False


class Ranks:
    """Halves, 1 or more, in the order of their params and in that of their FLOPs."""

    def __init__(self, cost: IntArray, weight: IntArray) -> None:
        """cost [n, 2], weight [n]"""
        self.cost, self.weight = np.ascontiguousarray(cost), np.ascontiguousarray(weight)
        self.order = [np.argsort(cost[:, axis], kind="stable") for axis in (0, 1)]
        self.values = [cost[order, axis] for axis, order in enumerate(self.order)]
        self.below = [np.r_[0, np.cumsum(weight[order])] for order in self.order]

    @cached_property
    def most_of_other(self) -> list[IntArray]:
        """By count, [n + 1] the most of the other count among the first so many."""
        others = [self.cost[order, 1 - axis] for axis, order in enumerate(self.order)]
        return [np.r_[-MAX_COUNT, np.maximum.accumulate(other)] for other in others]

    @cached_property
    def matrix(self) -> WaveletMatrix:
        by_params, by_flops = self.order
        return WaveletMatrix(np.argsort(by_flops)[by_params], self.weight[by_params])


def interval_corners(params: Limits, flops: Limits) -> dict[Corner, int]:
    """Corners whose counts, each times its sign, add up to the count within both closed intervals."""
    signs: dict[Corner, int] = {}
    for limit, sign in ((params[1], 1), (params[0] - 1, -1)):
        for bound, other in ((flops[1], 1), (flops[0] - 1, -1)):
            if limit >= 0 and bound >= 0:  # no architecture lies below
                signs[limit, bound] = signs.get((limit, bound), 0) + sign * other
    return signs


def count_pairs(longer: Ranks, shorter: Ranks, corners: Sequence[Corner]) -> list[int]:
    """For each corner, the pairs whose summed params and FLOPs are both at most the corner's."""
    totals = [0] * len(corners)
    both: dict[int, Corner] = {}
    for i, corner in enumerate(corners):
        limiting = [axis for axis in (0, 1) if corner[axis] < longer.values[axis][-1] + shorter.values[axis][-1]]
        if len(limiting) == 2:
            both[i] = corner
        elif limiting:  # by one count the shorter list asks
            (axis,) = limiting
            admitted = np.searchsorted(longer.values[axis], corner[axis] - shorter.values[axis], side="right")
            totals[i] = int(shorter.weight[shorter.order[axis]] @ longer.below[axis].take(admitted))
        else:
            totals[i] = int(longer.below[0][-1]) * int(shorter.below[0][-1])
    for begin in range(0, len(longer.cost) if both else 0, CHUNK):
        which = longer.order[0][begin : begin + CHUNK]  # neighbours ask alike
        counts = _count_chunk(longer.cost.take(which, axis=0), longer.weight.take(which), shorter, list(both.values()))
        for i, number in zip(both, counts, strict=True):
            totals[i] += number
    return totals


def _count_chunk(cost: IntArray, weight: IntArray, ranks: Ranks, corners: Sequence[Corner]) -> list[int]:
    """The same for some halves of the longer list, of cost [m, 2], sorted by params, and weight [m]."""
    params, flops = np.ascontiguousarray(cost[:, 0]), np.ascontiguousarray(cost[:, 1])
    by_flops = np.argsort(flops)  # what is looked up in its order is found in a fraction of the time
    least = params[0] + ranks.values[0][0], flops[by_flops[0]] + ranks.values[1][0]
    known: dict[int, IntArray] = {}

    def number(corner: Corner) -> int:
        if corner[0] < least[0] or corner[1] < least[1]:
            return 0
        if corner[0] not in known:
            known[corner[0]] = np.searchsorted(ranks.values[0], corner[0] - params, side="right")
        first = known[corner[0]]
        counted = ranks.below[0].take(first)
        left = by_flops[(ranks.most_of_other[0].take(first) > corner[1] - flops).take(by_flops)]
        second = np.searchsorted(ranks.values[1], corner[1] - flops.take(left), side="right")
        counted[left] = ranks.below[1].take(second)
        undecided = np.flatnonzero(ranks.most_of_other[1].take(second) > corner[0] - params.take(left))
        left, second = left.take(undecided), second.take(undecided)
        counted[left] = ranks.matrix.weight(first.take(left), second)
        return int(weight @ counted)

    return [number(corner) for corner in corners]


def furthest_pair(longer: Ranks, shorter: Ranks, wanted: Extreme) -> tuple[int, int, int] | None:
    """The count that is sought, and the places of its pair in the longer and the shorter list; None without a pair.

    Of pairs with the same count, the first that is come upon: always the same one.
    """
    axis, sign = wanted.axis, -1 if wanted.lowest else 1
    (low, high), values = wanted.own, shorter.values[axis]
    best: tuple[int, int, int] | None = None
    for begin in range(0, len(longer.cost), CHUNK):
        ids = longer.order[axis][::-sign][begin : begin + CHUNK]
        own = longer.cost[ids, axis]
        # What each goes to at best, the other count aside.
        if wanted.lowest:
            goal = own + np.r_[values, MAX_COUNT][np.searchsorted(values, low - own, side="left")]
        else:
            goal = own + np.r_[-2 * MAX_COUNT, values][np.searchsorted(values, high - own, side="right")]
        asking = np.flatnonzero((goal >= low) & (goal <= high))
        asking = asking[np.argsort(-sign * goal[asking], kind="stable")]
        size = PROMISING
        while len(asking):
            some, asking = ids[asking[:size]], asking[size:]
            found = _furthest_of(longer.cost[some], shorter, replace(wanted, own=(low, high)))
            if found is not None:
                best = found[0], int(some[found[1]]), found[2]
                low, high = (low, best[0] - 1) if wanted.lowest else (best[0] + 1, high)
                asking = asking[sign * goal[asking] > sign * best[0]]
            size *= 4
    return best


def _furthest_of(cost: IntArray, ranks: Ranks, wanted: Extreme) -> tuple[int, int, int] | None:
    """The same for some halves of the longer list, of cost [m, 2]."""
    axis, weight = wanted.axis, ranks.matrix.weight

    def ranked(by: int, limits: Limits) -> IntArray:
        """[2, m] the ranks from .. to before that keep the limits."""
        values, (low, high) = ranks.values[by], (limit - cost[:, by] for limit in limits)
        return np.stack([np.searchsorted(values, low, side="left"), np.searchsorted(values, high, side="right")])

    def held(start: IntArray, stop: IntArray) -> IntArray:
        """[m] the weight of the ranks from `start` to before `stop` that keep the other limits too."""
        (left, right), (low, high) = ((start, stop), beside) if axis == 0 else (beside, (start, stop))
        return weight(right, high) - weight(left, high) - weight(right, low) + weight(left, low)

    (start, stop), beside = ranked(axis, wanted.own), ranked(1 - axis, wanted.other)
    stop, beside = np.maximum(start, stop), np.maximum(beside, beside[0])
    which = np.flatnonzero(held(start, stop))
    if not len(which):
        return None
    start, stop, beside = start[which], stop[which], beside[:, which]
    while (stop - start > 1).any():  # halve the ranks, and go on in the further half if it holds any
        middle = (start + stop) // 2
        lower = (held(start, middle) > 0) if wanted.lowest else (held(middle, stop) == 0)
        start, stop = np.where(lower, start, middle), np.where(lower, middle, stop)
    totals = cost[which, axis] + ranks.values[axis][start]
    winner = int((-totals if wanted.lowest else totals).argmax())
    return int(totals[winner]), int(which[winner]), int(ranks.order[axis][start[winner]])
