"""How many pairs of halves lie at or below a corner of params and FLOPs, and the pair that goes furthest.

The halves of the longer list ask, those of the shorter are sorted by either count. By one count alone, the number
that a half may be paired with is a rank, found by binary search; that is the answer for both counts where all of them
keep the other limit too, which a running maximum tells. Params and FLOPs grow together, so that few are left for the
wavelet matrix.

Shapes: n halves of the shorter list, m of the longer; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from modscale.arrays import MAX_COUNT, BoolArray, IntArray
from modscale.wavelet_matrix import WaveletMatrix

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


def interval_corners(params: Limits, flops: Limits) -> dict[Corner, int]:
    """Corners whose counts, each times its sign, add up to the count within both closed intervals."""
    signs: dict[Corner, int] = {}
    for limit, sign in ((params[1], 1), (params[0] - 1, -1)):
        for bound, other in ((flops[1], 1), (flops[0] - 1, -1)):
            if limit >= 0 and bound >= 0:  # no architecture lies below
                signs[limit, bound] = signs.get((limit, bound), 0) + sign * other
    return signs


class Ranks:
    """Halves in the order of their params and in that of their FLOPs."""

    def __init__(self, cost: IntArray, weight: IntArray) -> None:
        """cost [n, 2], weight [n]; n is 1 or more."""
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
        rank = np.empty_like(by_flops)
        rank[by_flops] = np.arange(len(rank))
        return WaveletMatrix(rank[by_params], self.weight[by_params])

    def within(self, first: tuple[IntArray, IntArray], second: tuple[IntArray, IntArray]) -> IntArray:
        """[m] the weight of ranks from .. to before by params (`first`) and by FLOPs (`second`)."""
        weight = self.matrix.weight
        (left, right), (low, high) = first, second
        return weight(right, high) - weight(left, high) - weight(right, low) + weight(left, low)


def count_pairs(longer: Ranks, shorter: Ranks, corners: Sequence[Corner]) -> list[int]:
    """For each corner, the pairs whose summed params and FLOPs are both at most the corner's."""
    most = [longer.values[axis][-1] + shorter.values[axis][-1] for axis in (0, 1)]
    totals = [0] * len(corners)
    both: dict[int, Corner] = {}
    for i, corner in enumerate(corners):
        limiting = [axis for axis in (0, 1) if corner[axis] < most[axis]]
        if len(limiting) == 2:
            both[i] = corner
        elif limiting:  # one limit: the shorter list asks
            (axis,) = limiting
            admitted = np.searchsorted(longer.values[axis], corner[axis] - shorter.values[axis], side="right")
            totals[i] = int(shorter.weight[shorter.order[axis]] @ longer.below[axis].take(admitted))
        else:
            totals[i] = int(longer.below[0][-1]) * int(shorter.below[0][-1])
    order = longer.order[0]  # neighbours ask alike: many chunks are decided as a whole
    for begin in range(0, len(order) if both else 0, CHUNK):
        which = order[begin : begin + CHUNK]
        counts = _count_chunk(longer.cost.take(which, axis=0), longer.weight.take(which), shorter, list(both.values()))
        for i, number in zip(both, counts, strict=True):
            totals[i] += number
    return totals


def _count_chunk(cost: IntArray, weight: IntArray, ranks: Ranks, corners: Sequence[Corner]) -> list[int]:
    """The same for some halves of the longer list, of cost [m, 2], sorted by params, and weight [m]."""
    params, flops = np.ascontiguousarray(cost[:, 0]), np.ascontiguousarray(cost[:, 1])
    by_flops = np.argsort(flops)  # what is looked up in its order is found in a fraction of the time
    ends = [(int(params[0]), int(params[-1])), (int(flops[by_flops[0]]), int(flops[by_flops[-1]]))]
    known: dict[int, IntArray] = {}

    def number(corner: Corner) -> int:
        if any(limit - least < values[0] for limit, (least, _), values in zip(corner, ends, ranks.values, strict=True)):
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
    values = shorter.values[axis]
    low, high = wanted.own
    best: tuple[int, int, int] | None = None

    order = longer.order[axis] if wanted.lowest else longer.order[axis][::-1]
    for begin in range(0, len(order), CHUNK):
        ids = order[begin : begin + CHUNK]
        own = longer.cost[ids, axis]
        # What each goes to at best, the other count aside.
        if wanted.lowest:
            place = np.searchsorted(values, low - own, side="left")
            goal = own + values.take(place, mode="clip")
            asking = np.flatnonzero((place < len(values)) & (goal <= high))
        else:
            place = np.searchsorted(values, high - own, side="right")
            goal = own + values.take(place - 1, mode="clip")
            asking = np.flatnonzero((place > 0) & (goal >= low))
        asking = asking[np.argsort(-sign * goal[asking], kind="stable")]
        size = PROMISING
        while len(asking):
            some, asking = asking[:size], asking[size:]
            found = _furthest_of(longer.cost[ids[some]], shorter, replace(wanted, own=(low, high)))
            if found is not None:
                best = found[0], int(ids[some[found[1]]]), found[2]
                low, high = (low, best[0] - 1) if wanted.lowest else (best[0] + 1, high)
                asking = asking[sign * goal[asking] > sign * best[0]]
            size *= 4
    return best


def _furthest_of(cost: IntArray, ranks: Ranks, wanted: Extreme) -> tuple[int, int, int] | None:
    """The same for some halves of the longer list, of cost [m, 2]."""
    axis = wanted.axis
    own = cost[:, axis]

    def ranked(by: int, limits: Limits) -> tuple[IntArray, IntArray]:
        """[m] the ranks from .. to before that keep the limits."""
        low, high = (limit - cost[:, by] for limit in limits)
        return np.searchsorted(ranks.values[by], low, side="left"), np.searchsorted(
            ranks.values[by], high, side="right"
        )

    def held(start: IntArray, stop: IntArray) -> BoolArray:
        """[m] whether any of the ranks from `start` to before `stop` keeps the other limits too."""
        weight = ranks.within((start, stop), beside) if axis == 0 else ranks.within(beside, (start, stop))
        return (start < stop) & (weight > 0)

    (start, stop), beside = ranked(axis, wanted.own), ranked(1 - axis, wanted.other)
    which = np.flatnonzero(held(start, stop))
    if not len(which):
        return None
    start, stop, beside = start[which], stop[which], (beside[0][which], beside[1][which])
    while (stop - start > 1).any():  # halve the ranks, and go on in the further half if it holds any
        middle = (start + stop) // 2
        if wanted.lowest:
            some = held(start, middle)
            start, stop = np.where(some, start, middle), np.where(some, middle, stop)
        else:
            some = held(middle, stop)
            start, stop = np.where(some, middle, start), np.where(some, stop, middle)
    totals = own[which] + ranks.values[axis][start]
    winner = int((-totals if wanted.lowest else totals).argmax())
    return int(totals[winner]), int(which[winner]), int(ranks.order[axis][start[winner]])
