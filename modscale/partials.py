"""Two halves of every architecture, and exact counts of the pairs that stay within limits.

A space of 1e12 architectures has a front half and a back half of about 1e6 partial architectures each. Both are built
stage by stage as (params, flops) points with a weight, points that coincide are merged, and they are kept apart by
the width at which the halves meet, since the transition's cost depends on it. To count architectures within limits is
then to count pairs of points: one limit by binary search, limits on both counts by a sweep (`corner_counts`).

Whole numbers throughout: nothing is sampled or rounded. Where the halves would grow past `MAX_POINTS`, the points are
rounded down to a grid instead; `slack` bounds how far each total may have moved, so that counts with the limits moved
by it enclose the true one.

Shapes: n points, K limits; columns are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modscale.pairs import Limits, Points, as_pair, corner_counts, highest_pair, line_counts, merged, total_weight
from modscale.space import Bounds
from modscale.stage_tables import MAX_COUNT, IntArray
from modscale.tables import SpaceTables

MAX_POINTS = 12_000_000
"""Points of either half, counted once for each width at which it may meet the other; more are rounded to a grid."""
COARSE_STEP = 1_500_000
"""Points that one step may make, over all widths, where points are rounded before it."""
COARSE_OPTIONS = 1_000
"""Points of one stage and width that are kept where points are rounded."""
COARSE_SHARE = 1e-6
"""Bound on the relative error of rounded weights: sums of fewer than 1e8 float64 terms."""


class _TooManyPoints(Exception):
    """The halves have more distinct points than are counted exactly: a signal to round, never seen outside."""


Groups = Mapping[int, Points]
"""Points by their open width: the last stage's of a front half, the first stage's of a back half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Where an architecture lies in the halves."""

    width: int
    """The width at which its halves meet."""
    front: tuple[int, int]
    """Params and FLOPs of its front half, transition included."""
    back: tuple[int, int]
    """Params and FLOPs of its back half."""

    @property
    def total(self) -> tuple[int, int]:
        return self.front[0] + self.back[0], self.front[1] + self.back[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """A space as pairs of point sets: each architecture is one point of each set of one pair, added up."""

    meet: int
    """The first stage of the back half; the number of stages where there is none."""
    widths: tuple[int, ...]
    """The widths of stage `meet` (of the only stage where there is no back half)."""
    pairs: tuple[tuple[Points, Points], ...]
    """For each width (front with its transition, back)."""
    slack: tuple[int, int]
    """Upper bound of how much params and FLOPs of a total were rounded down; (0, 0) where counts are exact."""

    @property
    def exact(self) -> bool:
        return self.slack == (0, 0) and all(p.weight.dtype == np.int64 for pair in self.pairs for p in pair)

    def size(self) -> int:
        """Number of architectures."""
        return sum(total_weight(front) * total_weight(back) for front, back in self.pairs)

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
                    line_counts(asking, swept, axis, limits)
                    if bound >= most
                    else corner_counts(asking, swept, axis, limits, bound)
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

    def highest(self, axis: int, own: Limits, other: Limits, *, lowest: bool = False) -> Found | None:
        """Where the architecture with the highest (or lowest) count `axis` within both intervals lies."""
        best: Found | None = None
        for width, (front, back) in zip(self.widths, self.pairs, strict=True):
            sign = -1 if lowest else 1
            floor = None if best is None else sign * best.total[axis] + 1
            pair = highest_pair(front, back, axis, own, other, floor, sign)
            best = best if pair is None else Found(width=width, front=pair[0], back=pair[1])
        return best

    def locate(self, tables: SpaceTables, found: Found) -> IntArray:
        """[S] an architecture with the costs that were found, by listing each half within exact limits."""
        front = _chain(tables, 0, self.meet)
        dims = front.stages[-1].dim
        only = self.meet == len(tables.stages)
        entry = dims[:, None] * (np.zeros(2, dtype=np.int64) if only else _slopes(tables, self.meet)[found.width])
        ordered = tables.space.constraints.nondecreasing_widths
        barred = dims != found.width if only else (dims > found.width) & ordered
        row = _first_with(front, -1, entry, barred, found.front)
        if only:
            return row
        back = _chain(tables, self.meet, len(tables.stages))
        other = back.stages[0].dim != found.width
        return np.r_[row, _first_with(back, 0, np.zeros_like(back.cost[0]), other, found.back)]


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
        """The points as they are, or, where `coarse`, rounded to at most `most` a width."""
        if not coarse:
            return groups
        rounded, moved = _rounded(groups, most)
        slack[:] += moved
        return rounded

    def grown(joined: Groups, stage: Groups) -> Groups:
        options = max(len(points.weight) for points in stage.values())
        return _grown(settled(joined, COARSE_STEP // (len(stage) * options)), stage, coarse)

    stages = [settled(_stage_groups(tables, i, distinct, coarse), COARSE_OPTIONS) for i in range(len(tables.stages))]
    slopes = [_slopes(tables, i) for i in range(len(stages))]
    first, last = 0, len(stages) - 1
    front: Groups = stages[0]
    back: Groups = stages[-1]
    if last == 0:
        nothing = Points(cost=np.zeros((1, 2), dtype=np.int64), weight=np.ones(1, dtype=np.int64))
        pairs = tuple((points, nothing) for points in front.values())
        return Halves(widths=tuple(front), meet=1, pairs=pairs, slack=as_pair(slack))
    while last - first > 1:
        if _work(front, stages[first + 1]) <= _work(back, stages[last - 1]):
            first += 1
            joined = _joined((dim, _entering(front, dim, slopes[first], ordered)) for dim in stages[first])
            front = grown(joined, stages[first])
        else:
            joined = _joined((dim, _leaving(back, dim, slopes[last], ordered)) for dim in stages[last - 1])
            last -= 1
            back = grown(joined, stages[last])
    met: Groups = _joined((dim, _entering(front, dim, slopes[last], ordered)) for dim in back)
    met, back = settled(met, COARSE_STEP // max(1, len(back))), settled(back, COARSE_STEP // max(1, len(back)))
    if not coarse and sum(len(points.weight) for points in met.values()) > MAX_POINTS:
        raise _TooManyPoints
    pairs = tuple((points, back[dim]) for dim, points in met.items())
    return Halves(widths=tuple(met), meet=last, pairs=pairs, slack=as_pair(slack))


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
        weight = sum(total_weight(part) * total_weight(stage[dim]) for dim, part in joined.items())
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
    """The points rounded down to a grid so that at most `most` a width are left, and the largest move of each count."""
    moved = np.zeros(2, dtype=np.int64)
    rounded = dict(groups)
    for dim, points in groups.items():
        low = points.cost.min(axis=0)
        steps = 8 * int(most**0.5)  # the points lie along a diagonal: a grid holds far fewer than its cells
        while len(rounded[dim].weight) > most and steps > 1:
            cell = (points.cost.max(axis=0) - low) // steps + 1
            rounded[dim] = merged(Points(cost=low + (points.cost - low) // cell * cell, weight=points.weight))
            steps = steps * 2 // 3
            if len(rounded[dim].weight) <= most:
                moved = np.maximum(moved, cell - 1)
    return rounded, moved


def _chain(tables: SpaceTables, start: int, stop: int) -> SpaceTables:
    """The stages from `start` up to `stop` as tables of their own."""
    part = slice(start, stop)
    return replace(tables, stages=tables.stages[part], cost=tables.cost[part], slope=tables.slope[part])


def _first_with(
    chain: SpaceTables, end: int, extra: IntArray, barred: NDArray[np.bool_], total: tuple[int, int]
) -> IntArray:
    """The first row of options whose cost, with `extra` at stage `end` and without its barred options, is `total`."""
    changed = np.where(barred[:, None], MAX_COUNT // 2, chain.cost[end] + extra)
    cost = list(chain.cost)
    cost[end] = changed
    limits = replace(
        chain.space.constraints,
        params=Bounds(min=total[0], max=total[0]),
        flops=Bounds(min=total[1], max=total[1]),
    )
    return next(replace(chain, space=replace(chain.space, constraints=limits), cost=tuple(cost)).iter_feasible())
