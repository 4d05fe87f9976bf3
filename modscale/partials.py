"""Two halves of every architecture, and exact counts of the pairs that stay within limits.

A space of 1e12 architectures has a front half and a back half of some 1e6 partial architectures each. Both are built
stage by stage as (params, flops) points with a weight, points that coincide are merged, and they are kept apart by
the width of the stage in the middle, since the transitions' cost depends on it. The options of that stage are shared
out between the two sides: of each width, what its attention blocks add is the same whatever its other blocks are. To
count architectures within limits is then to count pairs of points (`pairs.py`).

Whole numbers throughout: nothing is sampled or rounded. Where the halves would grow past `MAX_POINTS` or `MAX_MET`,
the points are rounded down to a grid instead; `slack` bounds how far each total may have moved, so that counts with
the limits moved by it enclose the true one.

Shapes: n points; columns are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from modscale.pairs import (
    Corner,
    Limits,
    Points,
    as_pair,
    corner_counts,
    highest_pair,
    merged,
    total_weight,
)
from modscale.settings import available_cores
from modscale.space import Bounds
from modscale.stage_tables import MAX_COUNT, IntArray, StageTable
from modscale.tables import SpaceTables

MAX_POINTS = 12_000_000
"""Points that are held at once: of a half before it meets the other, and of one side of one meeting."""
MAX_MET = 60_000_000
"""Points of both sides over all meetings: about a minute of counting. Beyond it they are rounded to a grid."""
MAX_THREADS = 4
"""Meetings gone through side by side, each with up to half a gigabyte."""
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
class Extreme:
    """What is sought among all architectures: the one with the highest (or lowest) count within both intervals."""

    axis: int
    own: Limits
    """Of the count that is sought."""
    other: Limits
    """Of the other count."""
    lowest: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Where an architecture lies in the halves."""

    meeting: int
    """The place of its halves in `Halves.meetings`."""
    near: tuple[int, int]
    """Params and FLOPs of its front half, with the near part of the middle stage."""
    far: tuple[int, int]
    """Params and FLOPs of its back half, with the far part of the middle stage."""

    @property
    def total(self) -> tuple[int, int]:
        return self.near[0] + self.far[0], self.near[1] + self.far[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """All architectures whose middle stage has one width: one point of each of four sets, added up."""

    width: int
    front: Points
    """The stages before the middle one, with the transition into it."""
    near: Points
    """One part of the middle stage's options."""
    far: Points
    """The other part: each option is one point of `near` and one of `far`."""
    back: Points
    """The stages after the middle one, with the transition into them."""

    @property
    def parts(self) -> tuple[Points, Points, Points, Points]:
        return self.front, self.near, self.far, self.back

    def size(self) -> int:
        """Number of architectures."""
        return prod(total_weight(part) for part in self.parts)

    def lengths(self) -> tuple[int, int]:
        """Points of the two sides, before any merge."""
        return len(self.front.weight) * len(self.near.weight), len(self.far.weight) * len(self.back.weight)

    def sides(self) -> tuple[Points, Points]:
        """Front with near part, far part with back: built when they are needed, for together they are large."""
        return _added(self.front, self.near), _added(self.back, self.far)


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """A space as front and back halves that meet in a middle stage, one meeting for each width of it."""

    middle: int
    """The stage in which the halves meet."""
    meetings: tuple[Meeting, ...]
    slack: tuple[int, int]
    """Upper bound of how much params and FLOPs of a total were rounded down; (0, 0) where counts are exact."""

    @property
    def exact(self) -> bool:
        return self.slack == (0, 0) and all(p.weight.dtype == np.int64 for m in self.meetings for p in m.parts)

    def size(self) -> int:
        """Number of architectures."""
        return sum(meeting.size() for meeting in self.meetings)

    def survey(
        self, corners: Sequence[Corner], extremes: Sequence[Extreme] = ()
    ) -> tuple[list[int], list[Found | None]]:
        """How many architectures lie at or below each corner, and where each extreme one lies.

        All is asked at once, since building the sides of a meeting and indexing them is half of the work. Meetings are
        gone through side by side, by threads: numpy lets go of Python's lock while it sorts and looks up.
        """
        best: list[Found | None] = [None] * len(extremes)

        def visit(place: int) -> list[int]:
            sides = self.meetings[place].sides()
            counts = corner_counts(*sides, corners)
            for i, wanted in enumerate(extremes):
                sign = -1 if wanted.lowest else 1
                rival = best[i]
                floor = None if rival is None else sign * rival.total[wanted.axis]
                pair = highest_pair(*sides, wanted.axis, wanted.own, wanted.other, floor, sign)
                if pair is not None:
                    found = Found(meeting=place, near=pair[0], far=pair[1])
                    with lock:  # of equals the first meeting's, whichever thread was faster
                        best[i] = min(
                            (found, best[i] or found), key=lambda f: (-sign * f.total[wanted.axis], f.meeting)
                        )
            return counts

        lock = Lock()
        with ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as pool:
            totals = [sum(column) for column in zip(*pool.map(visit, range(len(self.meetings))), strict=True)]
        return totals or [0] * len(corners), best

    def count(self, params: Limits, flops: Limits) -> int:
        """Architectures within both closed intervals."""
        corners = interval_corners(params, flops)
        totals, _ = self.survey(list(corners))
        return sum(sign * total for sign, total in zip(corners.values(), totals, strict=True))

    def enclose(self, params: Limits, flops: Limits) -> tuple[int, int]:
        """The least and the most architectures that can lie within both intervals; equal where counts are exact."""
        if self.exact:
            return (self.count(params, flops),) * 2
        inner = [(low, high - slack) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        outer = [(low - slack, high) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        margin = int(COARSE_SHARE * self.size()) + 1
        least = self.count(inner[0], inner[1]) if all(low <= high for low, high in inner) else 0
        return max(0, least - margin), min(self.size(), self.count(outer[0], outer[1])) + margin

    def locate(self, tables: SpaceTables, found: Found) -> IntArray:
        """[S] an architecture with the costs that were found: first its middle stage, then both halves by listing."""
        meeting = self.meetings[found.meeting]
        width, stage = meeting.width, tables.stages[self.middle]
        near, front = _summands(meeting.near, meeting.front, found.near)
        far, back = _summands(meeting.far, meeting.back, found.far)
        wanted = (tables.cost[self.middle] == np.add(near, far)).all(axis=1) & (stage.dim == width)
        row = np.flatnonzero(wanted)[:1]
        ordered = tables.space.constraints.nondecreasing_widths
        if self.middle:
            chain = _chain(tables, 0, self.middle)
            dims = chain.stages[-1].dim
            entry = dims[:, None] * _slopes(tables, self.middle)[width]
            row = np.r_[_first_with(chain, -1, entry, (dims > width) & ordered, front), row]
        if self.middle + 1 < len(tables.stages):
            chain = _chain(tables, self.middle + 1, len(tables.stages))
            entry = width * chain.slope[0]
            row = np.r_[row, _first_with(chain, 0, entry, (chain.stages[0].dim < width) & ordered, back)]
        return row


def interval_corners(params: Limits, flops: Limits) -> dict[Corner, int]:
    """Corners whose counts, each times its sign, add up to the count within both closed intervals."""
    signs: dict[Corner, int] = {}
    for limit, sign in ((params[1], 1), (params[0] - 1, -1)):
        for bound, other in ((flops[1], 1), (flops[0] - 1, -1)):
            signs[limit, bound] = signs.get((limit, bound), 0) + sign * other
    return signs


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
    while last - first > 2:
        if _work(front, stages[first + 1]) <= _work(back, stages[last - 1]):
            first += 1
            joined = _joined((dim, _entering(front, dim, slopes[first], ordered)) for dim in stages[first])
            front = grown(joined, stages[first])
        else:
            joined = _joined((dim, _leaving(back, dim, slopes[last], ordered)) for dim in stages[last - 1])
            last -= 1
            back = grown(joined, stages[last])
    middle = min(first + 1, len(stages) - 1)
    widths = stages[middle]
    alone = dict.fromkeys(widths, _nothing(coarse))
    entered: Groups = (
        _joined((dim, _entering(front, dim, slopes[middle], ordered)) for dim in widths) if middle else alone
    )
    left: Groups = (
        _joined((dim, _leaving(back, dim, slopes[middle + 1], ordered)) for dim in widths)
        if middle + 1 < len(stages)
        else alone
    )
    met = [dim for dim in widths if dim in entered and dim in left]
    if coarse:  # both sides in full, for what they round to is known only then
        most = COARSE_STEP // max(1, len(met))
        sides = settled(grown({dim: entered[dim] for dim in met}, {dim: widths[dim] for dim in met}), most)
        left = settled({dim: left[dim] for dim in met}, most)
        options = {dim: (_nothing(coarse), _nothing(coarse)) for dim in met}
    else:
        sides = entered
        options = {
            dim: _divided(tables, middle, dim, widths[dim], len(entered[dim].weight), len(left[dim].weight), distinct)
            for dim in met
        }
    meetings = tuple(
        Meeting(width=dim, front=sides[dim], near=options[dim][0], far=options[dim][1], back=left[dim]) for dim in met
    )
    lengths = [meeting.lengths() for meeting in meetings]
    weights = [total_weight(part) for meeting in meetings for part in meeting.parts]
    if not coarse and (
        sum(map(sum, lengths)) > MAX_MET
        or max((max(pair) for pair in lengths), default=0) > MAX_POINTS
        or max((prod(weights[i : i + 2]) for i in range(0, len(weights), 2)), default=0) >= MAX_COUNT
    ):
        raise _TooManyPoints
    return Halves(middle=middle, meetings=meetings, slack=as_pair(slack))


def _divided(
    tables: SpaceTables, i: int, dim: int, options: Points, front: int, back: int, distinct: bool
) -> tuple[Points, Points]:
    """The options of one stage and width in two parts that add up to them, so that both sides hold few points.

    Args:
        tables: the space.
        i: the stage.
        dim: its width.
        options: the stage's options of that width as points.
        front: points before the stage; the first part is added to them.
        back: points after the stage; the second part is added to them.
        distinct: of the options that are the same network, take one.
    """
    nothing = _nothing(coarse=False)
    ways = [(options, nothing), (nothing, options)]
    convs, attention = _summed_parts(tables.stages[i], _kept(tables.stages[i], dim, distinct), tables.cost[i])
    ways += [(convs, attention), (attention, convs)]
    return min(ways, key=lambda way: front * len(way[0].weight) + back * len(way[1].weight))


def _summed_parts(stage: StageTable, kept: IntArray, cost: IntArray) -> tuple[Points, Points]:
    """The kept options as (all but attention, attention), where every option's cost is the sum of one of each."""
    sizes = [len(parameter.options) for parameter in stage.parameters]
    places = np.unravel_index(kept, sizes) if sizes else ()
    code = np.zeros((2, len(kept)), dtype=np.int64)
    for parameter, size, place in zip(stage.parameters, sizes, places, strict=True):
        row = int(parameter.field(parameter.options[0])[0].startswith("attention"))
        code[row] = code[row] * size + place
    order = np.lexsort((code[1], code[0]))
    convs, attentions = (len(np.unique(row)) for row in code)
    whole = merged(Points(cost=cost[kept], weight=np.ones(len(kept), dtype=np.int64)))
    if convs * attentions != len(kept):
        return whole, _nothing(coarse=False)
    grid = cost[kept[order]].reshape(convs, attentions, 2)
    conv, attention = grid[:, 0], grid[0] - grid[0, 0]
    if (grid != conv[:, None] + attention).any():
        return whole, _nothing(coarse=False)
    return (
        merged(Points(cost=conv, weight=np.ones(convs, dtype=np.int64))),
        merged(Points(cost=attention, weight=np.ones(attentions, dtype=np.int64))),
    )


def _nothing(coarse: bool) -> Points:
    """A single point that adds nothing."""
    weight = np.ones(1, dtype=np.float64 if coarse else np.int64)
    return Points(cost=np.zeros((1, 2), dtype=np.int64), weight=weight)


def _kept(stage: StageTable, dim: int, distinct: bool) -> IntArray:
    """The options of one width; one for each network of them where `distinct`."""
    kept = stage.dim == dim
    if distinct:
        kept &= stage.network == np.arange(stage.size)
    return np.flatnonzero(kept)


def _stage_groups(tables: SpaceTables, i: int, distinct: bool, coarse: bool) -> dict[int, Points]:
    """One stage's options as points by width."""
    kind = np.float64 if coarse else np.int64
    groups = {}
    for dim in np.unique(tables.stages[i].dim):
        kept = _kept(tables.stages[i], int(dim), distinct)
        groups[int(dim)] = merged(Points(cost=tables.cost[i][kept], weight=np.ones(len(kept), dtype=kind)))
    return groups


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
        grown[dim] = _added(part, stage[dim])
    return grown


def _added(left: Points, right: Points) -> Points:
    """Every point of one set with every point of the other."""
    if len(right.weight) == 1 and not right.cost.any() and right.weight[0] == 1:
        return left
    cost = (left.cost[:, None, :] + right.cost).reshape(-1, 2)
    return merged(Points(cost=cost, weight=(left.weight[:, None] * right.weight).reshape(-1)))


def _summands(part: Points, rest: Points, total: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """A point of `part` and a point of `rest` that add up to `total`."""
    for cost in part.cost:
        wanted = np.array(total) - cost
        if (rest.cost == wanted).all(axis=1).any():
            return as_pair(cost), as_pair(wanted)
    raise AssertionError("a total that was found has no summands")


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
