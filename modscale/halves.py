"""Every architecture of a space as pairs of points, and what can be asked of them all.

To count architectures within limits is to count pairs of points (`pairs.py`) of the sides that `partials.py` builds.
Whole numbers throughout: nothing is sampled or rounded. Where the sides would grow too large they were rounded down to
a grid instead; `slack` bounds how far each total may have moved, so that counts with the limits moved by it enclose
the true one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import MAX_COUNT, IntArray
from modscale.machine import available_cores
from modscale.pairs import Totals, corner_counts, highest_pair
from modscale.partials import Meeting, TooManyPoints, build_meetings, entry_slopes
from modscale.points import Corner, Limits, Points, as_pair
from modscale.space import Bounds
from modscale.tables import SpaceTables

MAX_THREADS = 4
"""Meetings gone through side by side."""
MAX_AT_ONCE = 12_000_000
"""Points of the meetings that are gone through side by side: about 2 GB."""
COARSE_SHARE = 1e-6
"""Bound on the relative error of rounded weights: sums of fewer than 1e8 float64 terms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extreme:
    """What is sought among all architectures: the one with the highest (or lowest) count within both intervals."""

    axis: int
    own: Limits
    """Of the count that is sought."""
    other: Limits
    """Of the other count."""
    lowest: bool = False
    kind: str = "allowed"
    """Among which architectures."""


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
class Halves:
    """A space as front and back halves that meet in a middle stage, one meeting for each width of it."""

    middle: int
    """The stage in which the halves meet."""
    meetings: tuple[Meeting, ...]
    column: Mapping[str, int]
    """The column of the weights that each of `KINDS` is counted in."""
    slack: tuple[int, int]
    """Upper bound of how much params and FLOPs of a total were rounded down; (0, 0) where counts are exact."""

    @property
    def exact(self) -> bool:
        return self.slack == (0, 0) and all(p.weight.dtype == np.int64 for m in self.meetings for p in m.parts)

    def size(self, kind: str = "all") -> int:
        """Number of architectures."""
        return sum(meeting.size()[self.column[kind]] for meeting in self.meetings)

    def survey(
        self, corners: Mapping[Corner, set[str]], extremes: Sequence[Extreme] = ()
    ) -> tuple[dict[tuple[Corner, str], int], dict[Extreme, Found | None]]:
        """How many architectures lie at or below each corner, of the kinds asked for, and where each extreme one lies.

        All is asked at once, since building the sides of a meeting and indexing them is much of the work. Meetings are
        gone through side by side, by threads: numpy lets go of Python's lock while it sorts and looks up.
        """
        best: dict[Extreme, Found | None] = dict.fromkeys(extremes)
        columns = [tuple(sorted({self.column[kind] for kind in kinds})) for kinds in corners.values()]
        lock = Lock()

        def visit(place: int) -> list[Totals]:
            sides = self.meetings[place].sides()
            held = {kind: [_of_kind(side, self.column[kind]) for side in sides] for kind in {e.kind for e in extremes}}
            for wanted in extremes:
                sign = -1 if wanted.lowest else 1
                rival = best[wanted]
                floor = None if rival is None else sign * rival.total[wanted.axis]
                near, far = held[wanted.kind]
                pair = highest_pair(near, far, wanted.axis, wanted.own, wanted.other, floor, sign)
                if pair is not None:
                    found = Found(meeting=place, near=pair[0], far=pair[1])
                    with lock:  # of equals the first meeting's, whichever thread was faster
                        best[wanted] = min(
                            (found, best[wanted] or found), key=lambda f: (-sign * f.total[wanted.axis], f.meeting)
                        )
            return corner_counts(*sides, list(corners), columns)

        largest = max(sum(meeting.lengths()) for meeting in self.meetings)
        with ThreadPoolExecutor(max(1, min(MAX_THREADS, available_cores(), MAX_AT_ONCE // largest))) as pool:
            counts = list(pool.map(visit, range(len(self.meetings))))
        totals = {
            (corner, kind): sum(count[place][self.column[kind]] or 0 for count in counts)
            for place, (corner, kinds) in enumerate(corners.items())
            for kind in kinds
        }
        return totals, best

    def count(self, params: Limits, flops: Limits, kind: str) -> int:
        """Architectures within both closed intervals."""
        corners = interval_corners(params, flops)
        totals, _ = self.survey({corner: {kind} for corner in corners})
        return sum(sign * totals[corner, kind] for corner, sign in corners.items())

    def enclose(self, params: Limits, flops: Limits, kind: str) -> tuple[int, int]:
        """The least and the most architectures that can lie within both intervals; equal where counts are exact."""
        if self.exact:
            return (self.count(params, flops, kind),) * 2
        inner = [(low, high - slack) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        outer = [(low - slack, high) for (low, high), slack in zip((params, flops), self.slack, strict=True)]
        margin = int(COARSE_SHARE * self.size(kind)) + 1
        least = self.count(inner[0], inner[1], kind) if all(low <= high for low, high in inner) else 0
        return max(0, least - margin), min(self.size(kind), self.count(outer[0], outer[1], kind)) + margin

    def locate(self, tables: SpaceTables, found: Found) -> IntArray:
        """[S] an allowed architecture with the costs that were found: its middle stage, then both halves by listing."""
        meeting = self.meetings[found.meeting]
        kept = self.column["allowed"]
        width, stage = meeting.width, tables.stages[self.middle]
        near, front = _summands(meeting.near, _of_kind(meeting.front, kept), found.near)
        far, back = _summands(meeting.far, _of_kind(meeting.back, kept), found.far)
        wanted = (tables.cost[self.middle] == np.add(near, far)).all(axis=1) & (stage.dim == width)
        row = np.flatnonzero(wanted)[:1]
        ordered = tables.space.constraints.nondecreasing_widths
        if self.middle:
            chain = _chain(tables, 0, self.middle)
            dims = chain.stages[-1].dim
            entry = dims[:, None] * entry_slopes(tables, self.middle)[width]
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


def build_halves(tables: SpaceTables, ceiling: Corner) -> Halves:
    """The halves of a space, rounded where they grow too large, and then without what lies above the ceiling."""
    try:
        middle, meetings, column, slack = build_meetings(tables, ceiling, coarse=False)
    except TooManyPoints:
        middle, meetings, column, slack = build_meetings(tables, ceiling, coarse=True)
    return Halves(middle=middle, meetings=meetings, column=column, slack=slack)


def _of_kind(points: Points, column: int) -> Points:
    """Those points that stand for an architecture of the kind."""
    held = points.weight[:, column] > 0
    return points if held.all() else Points(cost=points.cost[held], weight=points.weight[held])


def _summands(part: Points, rest: Points, total: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """A point of `part` and a point of `rest` that add up to `total`."""
    for cost in part.cost:
        wanted = np.array(total) - cost
        if (rest.cost == wanted).all(axis=1).any():
            return as_pair(cost), as_pair(wanted)
    raise AssertionError("a total that was found has no summands")


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
