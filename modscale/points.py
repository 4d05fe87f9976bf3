"""Partial architectures as weighted (params, flops) points, and exact sums over them.

Shapes: n points, C kinds of architectures that are counted side by side; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import MAX_COUNT, IntArray

Weights = NDArray[Any]
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


def combined(left: Points, right: Points) -> Points:
    """Every point of one set with every point of the other."""
    if len(right.weight) == 1 and not right.cost.any() and (right.weight == 1).all():
        return left
    cost = (left.cost[:, None, :] + right.cost).reshape(-1, 2)
    weight = (left.weight[:, None, :] * right.weight).reshape(len(cost), -1)
    return merged(Points(cost=cost, weight=weight))


def total_weight(points: Points) -> tuple[int, ...]:
    """[C] partial architectures of each kind."""
    return tuple(weighted_sum(column, np.ones_like(column)) for column in points.weight.T)


def weighted_sum(weight: Weights, counts: Weights) -> int:
    """Exact sum of weight [n] times counts [n]; products beyond int64 are split in limbs of 31 bits."""
    if weight.dtype != np.int64 or counts.dtype != np.int64:
        return int(counts.astype(float) @ weight.astype(float))
    if not len(counts):
        return 0
    if float(counts.max()) * float(weight.max()) * len(weight) < MAX_COUNT:
        return int(counts @ weight)
    mask = 2**31 - 1
    total = 0
    for i, left in enumerate((weight & mask, weight >> 31)):
        for j, right in enumerate((counts & mask, counts >> 31)):
            product = left * right
            total += (int((product & mask).sum()) + (int((product >> 31).sum()) << 31)) << (31 * (i + j))
    return total


def running_sum(weight: Weights) -> Weights:
    """[n + 1] the weight [n] of the first so many."""
    total = np.zeros(len(weight) + 1, dtype=weight.dtype)
    np.cumsum(weight, out=total[1:])
    return total


def as_pair(row: IntArray) -> tuple[int, int]:
    return int(row[0]), int(row[1])
