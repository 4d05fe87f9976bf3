"""The two sides of every architecture as points, kept apart by the width of the stage in which they meet.

A space of 1e12 architectures has a front half and a back half of some 1e6 partial architectures each. Both are built
stage by stage as (params, flops) points with a weight, points that coincide are merged, and they are kept apart by
the width of the stage in the middle, since the transitions' cost depends on it. The options of that stage are shared
out between the two sides: of each width, what its attention blocks add is the same whatever its other blocks are.
Where the sides would grow past `MAX_POINTS` or `MAX_MET`, the points are rounded down to a grid.

Three kinds of architectures are counted side by side, for the work is mostly in the points and not in their weights:
`all`, `allowed` (stages not narrower than those before them, where the space asks for that) and `distinct` (of the
allowed ones that are the same network, one). Kinds that are the same in a space share a column.

Shapes: n points, C kinds of architectures that differ; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import MAX_COUNT, IntArray
from modscale.points import Corner, Points, Weights, as_pair, combined, merged, total_weight
from modscale.stage_tables import StageTable
from modscale.tables import SpaceTables

MAX_POINTS = 12_000_000
"""Points that are held at once: of a half before it meets the other, and of one side of one meeting."""
MAX_MET = 40_000_000
"""Points of both sides over all meetings: half a minute of counting. More are rounded to a grid."""
COARSE_STEP = 8_000_000
"""Points that one step may make, over all widths, where points are rounded before it."""
COARSE_OPTIONS = 400
"""Points of one stage and width that are kept where points are rounded."""


class TooManyPoints(Exception):
    """The halves have more distinct points than are counted exactly: a signal to round, which `halves.py` heeds."""


KINDS = ("all", "allowed", "distinct")
Groups = Mapping[int, Points]
"""Points by their open width: the last stage's of a front half, the first stage's of a back half."""


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

    def size(self) -> tuple[int, ...]:
        """[C] number of architectures of each kind."""
        return tuple(prod(column) for column in zip(*map(total_weight, self.parts), strict=True))

    def lengths(self) -> tuple[int, int]:
        """Points of the two sides, before any merge."""
        return len(self.front.weight) * len(self.near.weight), len(self.far.weight) * len(self.back.weight)

    def sides(self) -> tuple[Points, Points]:
        """Front with near part, far part with back: built when they are needed, for together they are large."""
        return combined(self.front, self.near), combined(self.back, self.far)


def _columns(tables: SpaceTables) -> dict[str, int]:
    """The column of each kind: a new one only where it can differ from the kind before."""
    dims = [stage.dim for stage in tables.stages]
    narrows = any(before.max() > after.min() for before, after in pairwise(dims))
    repeats = any((stage.network != np.arange(stage.size)).any() for stage in tables.stages)
    allowed = int(tables.space.constraints.nondecreasing_widths and narrows)
    return {"all": 0, "allowed": allowed, "distinct": allowed + int(repeats)}


def build_meetings(
    tables: SpaceTables, ceiling: Corner, *, coarse: bool
) -> tuple[int, tuple[Meeting, ...], dict[str, int], tuple[int, int]]:
    """The sides of every architecture by the width at which they meet, both grown towards the middle stage.

    Args:
        tables: the space.
        ceiling: params and FLOPs above which nothing is asked for; heeded where `coarse`.
        coarse: round the points so that they stay few.

    Returns:
        The middle stage, the meetings, the column of each kind, and the slack of params and of FLOPs.

    Raises:
        TooManyPoints: not `coarse`, and the points would be more than are counted exactly.
    """
    column = _columns(tables)
    slack = np.zeros(2, dtype=np.int64)

    def settled(groups: Groups, most: int) -> Groups:
        """The points as they are, or, where `coarse`, rounded to at most `most` a width."""
        if not coarse:
            return groups
        rounded, moved = _rounded(_below(groups, ceiling), max(1, most))
        slack[:] += moved
        return rounded

    def grown(joined: Groups, stage: Groups) -> Groups:
        options = max(len(points.weight) for points in stage.values())
        return _grown(settled(joined, COARSE_STEP // (len(stage) * options)), stage, coarse)

    def entering(front: Groups, i: int) -> dict[int, Points]:
        """By width of stage `i`, all front halves with the transition into it."""
        return joined(front, {dim: {w: w * slopes[i][dim] for w in front} for dim in stages[i]}, before=True)

    def leaving(back: Groups, i: int) -> dict[int, Points]:
        """By width of stage `i`, all back halves with the transition into them."""
        return joined(back, {dim: {w: dim * slopes[i + 1][w] for w in back} for dim in stages[i]}, before=False)

    def joined(end: Groups, transitions: Mapping[int, Mapping[int, IntArray]], *, before: bool) -> dict[int, Points]:
        end = settled(end, COARSE_STEP // (len(end) * len(transitions)))
        if sum(len(points.weight) for points in end.values()) * len(transitions) > MAX_POINTS and not coarse:
            raise TooManyPoints
        return {
            dim: _union(
                (_passing(p, column, narrowing=w > dim if before else dim > w), added[w]) for w, p in end.items()
            )
            for dim, added in transitions.items()
        }

    stages = [settled(_stage_groups(tables, i, column, coarse), COARSE_OPTIONS) for i in range(len(tables.stages))]
    slopes = [entry_slopes(tables, i) for i in range(len(stages))]
    first, last = 0, len(stages) - 1
    front: Groups = stages[0]
    back: Groups = stages[-1]
    while last - first > 2:
        if _work(front, stages[first + 1]) <= _work(back, stages[last - 1]):
            first += 1
            front = grown(entering(front, first), stages[first])
        else:
            last -= 1
            back = grown(leaving(back, last), stages[last])
    middle = min(first + 1, len(stages) - 1)
    widths = stages[middle]
    alone = dict.fromkeys(widths, _nothing(column, coarse))
    entered: Groups = entering(front, middle) if middle else alone
    left: Groups = leaving(back, middle) if middle + 1 < len(stages) else alone
    if coarse:  # both sides in full, for what they round to is known only then
        sides = settled(grown(entered, widths), COARSE_STEP // len(widths))
        left = settled(left, COARSE_STEP // len(widths))
        options = {dim: (_nothing(column, coarse), _nothing(column, coarse)) for dim in widths}
    else:
        sides = entered
        options = {
            dim: _divided(tables, middle, dim, widths[dim], len(entered[dim].weight), len(left[dim].weight), column)
            for dim in widths
        }
    meetings = tuple(
        Meeting(width=dim, front=sides[dim], near=options[dim][0], far=options[dim][1], back=left[dim])
        for dim in widths
    )
    lengths = [meeting.lengths() for meeting in meetings]
    weights = [total_weight(part)[0] for meeting in meetings for part in meeting.parts]
    if not coarse and (
        sum(map(sum, lengths)) > MAX_MET
        or max(map(max, lengths)) > MAX_POINTS
        or max(prod(weights[i : i + 2]) for i in range(0, len(weights), 2)) >= MAX_COUNT
    ):
        raise TooManyPoints
    return middle, meetings, column, as_pair(slack)


def _divided(
    tables: SpaceTables, i: int, dim: int, options: Points, front: int, back: int, column: Mapping[str, int]
) -> tuple[Points, Points]:
    """The options of one stage and width in two parts that add up to them, so that both sides hold few points.

    Args:
        tables: the space.
        i: the stage.
        dim: its width.
        options: the stage's options of that width as points.
        front: points before the stage; the first part is added to them.
        back: points after the stage; the second part is added to them.
        column: of each kind.
    """
    nothing = _nothing(column, coarse=False)
    ways = [(options, nothing), (nothing, options)]
    parts = _summed_parts(tables, i, dim, column)
    if parts is not None:
        ways += [parts, parts[::-1]]
    return min(ways, key=lambda way: front * len(way[0].weight) + back * len(way[1].weight))


def _summed_parts(tables: SpaceTables, i: int, dim: int, column: Mapping[str, int]) -> tuple[Points, Points] | None:
    """A stage's options of one width as (all but attention, attention), if each is a sum of one of either kind."""
    stage = tables.stages[i]
    places = np.unravel_index(np.arange(stage.size), [len(p.options) for p in stage.parameters] or [1])
    code = np.zeros((2, stage.size), dtype=np.int64)
    for parameter, place in zip(stage.parameters, places, strict=False):
        row = int(parameter.field(parameter.options[0])[0].startswith("attention"))
        code[row] = code[row] * len(parameter.options) + place
    order = np.lexsort((code[1], code[0]))
    order = order[stage.dim[order] == dim]
    convs, attentions = (len(np.unique(row[order])) for row in code)
    cost = tables.cost[i][order].reshape(convs, attentions, 2)
    weight = _weights(stage, order, column, np.int64).reshape(convs, attentions, -1)
    conv, attention = weight.max(axis=1), weight.max(axis=0)
    sums = (cost == cost[:, :1] + cost[:1] - cost[0, 0]).all() and (weight == conv[:, None] * attention).all()
    if not sums:
        return None
    return merged(Points(cost=cost[:, 0], weight=conv)), merged(Points(cost=cost[0] - cost[0, 0], weight=attention))


def _nothing(column: Mapping[str, int], coarse: bool) -> Points:
    """A single point that adds nothing."""
    weight = np.ones((1, max(column.values()) + 1), dtype=np.float64 if coarse else np.int64)
    return Points(cost=np.zeros((1, 2), dtype=np.int64), weight=weight)


def _weights(stage: StageTable, options: IntArray, column: Mapping[str, int], dtype: type) -> Weights:
    """[n, C] a stage's options, one each; of kind `distinct`, those that stand for their network."""
    weight: Weights = np.ones((len(options), max(column.values()) + 1), dtype=dtype)
    if column["distinct"] != column["allowed"]:
        weight[:, column["distinct"]] = stage.network[options] == options
    return weight


def _stage_groups(tables: SpaceTables, i: int, column: Mapping[str, int], coarse: bool) -> dict[int, Points]:
    """One stage's options as points by width."""
    stage = tables.stages[i]
    groups = {}
    for dim in np.unique(stage.dim):
        options = np.flatnonzero(stage.dim == dim)
        weight = _weights(stage, options, column, np.float64 if coarse else np.int64)
        groups[int(dim)] = merged(Points(cost=tables.cost[i][options], weight=weight))
    return groups


def entry_slopes(tables: SpaceTables, i: int) -> dict[int, IntArray]:
    """[2] what each entering channel costs, by the stage's width."""
    dims, first = np.unique(tables.stages[i].dim, return_index=True)
    return {int(dim): tables.slope[i][place] for dim, place in zip(dims, first, strict=True)}


def _passing(points: Points, column: Mapping[str, int], *, narrowing: bool) -> Points:
    """The points behind a transition: after one that narrows, none of them is allowed, where the space forbids that."""
    if not narrowing or column["allowed"] == column["all"]:
        return points
    kept = [place == column["all"] for place in range(points.weight.shape[1])]
    return Points(cost=points.cost, weight=points.weight * np.array(kept))


def _union(shifted: Iterable[tuple[Points, IntArray]]) -> Points:
    parts = [(points.cost + shift, points.weight) for points, shift in shifted]
    return merged(Points(cost=np.concatenate([c for c, _ in parts]), weight=np.concatenate([w for _, w in parts])))


def _grown(joined: Groups, stage: Groups, coarse: bool) -> dict[int, Points]:
    """Each width's partial architectures with every option of the stage of that width."""
    if not coarse:
        points = sum(len(part.weight) * len(stage[dim].weight) for dim, part in joined.items())
        weight = sum(total_weight(part)[0] * total_weight(stage[dim])[0] for dim, part in joined.items())
        if points > MAX_POINTS or weight >= MAX_COUNT:
            raise TooManyPoints
    return {dim: combined(part, stage[dim]) for dim, part in joined.items()}


def _work(end: Groups, stage: Groups) -> int:
    """Points that a step would make, before any merge."""
    return sum(len(points.weight) for points in end.values()) * sum(len(points.weight) for points in stage.values())


def _rounded(groups: Groups, most: int) -> tuple[dict[int, Points], IntArray]:
    """The points rounded down to a grid so that at most `most` a width are left, and the largest move of each count."""
    moved = np.zeros(2, dtype=np.int64)
    rounded = dict(groups)
    for dim, points in groups.items():
        low, high = points.cost.min(axis=0), points.cost.max(axis=0)
        cell = (high - low) // (16 * int(most**0.5)) + 1  # points lie along a diagonal: a grid holds few of its cells
        while len(rounded[dim].weight) > most:
            coarser = rounded[dim]
            cost = low + (coarser.cost - low) // cell * cell
            rounded[dim] = merged(Points(cost=cost, weight=coarser.weight))
            moved = np.maximum(moved, cell - 1)
            cell = 2 * cell  # the next grid's lines are among this one's: rounding twice moves no further
    return rounded, moved


def _below(groups: Groups, ceiling: Corner) -> Groups:
    """The points at or below the ceiling, or the first where none is."""
    kept: dict[int, NDArray[np.bool_]] = {
        dim: np.all(points.cost <= np.array(ceiling), axis=1) for dim, points in groups.items()
    }
    for mask in kept.values():
        mask[0] |= not mask.any()
    return {dim: Points(cost=p.cost[kept[dim]], weight=p.weight[kept[dim]]) for dim, p in groups.items()}
