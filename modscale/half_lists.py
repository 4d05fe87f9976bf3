"""The architectures of a space as two lists of halves, met in the middle: those near given counts, listed.

For each front half, the back halves that keep one budget lie side by side in a sorted list (a window).

Shapes: N pairs of halves, n halves of one end, S stages; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from modscale.arrays import MAX_COUNT, IntArray
from modscale.errors import InputError
from modscale.points import Corner
from modscale.tables import SpaceTables

MAX_HALF = 12_000_000
"""Partial architectures of one half that are listed at most."""
PAIRS_AT_ONCE = 1 << 19
"""Pairs of halves that are looked at in one go."""
SAMPLE = 50_000
"""Back halves by which the number of pairs is judged beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Front halves of one width, and for each the back halves that keep one budget."""

    front: IntArray
    """[n] places in the list of front halves."""
    begin: IntArray
    """[n] first place of the window in `back`."""
    length: IntArray
    """[n] places of the window."""
    back: IntArray
    """[n] places in the list of back halves, sorted by the count in question."""
    back_cost: IntArray
    """[n, 2] their costs with the transition from this width."""


class HalfLists:
    """The two lists of halves of a space, of options that stand for their network only.

    The split is where the longer list would be shortest. Halves that break the order of widths, if there is one, or
    that alone exceed the ceiling of params and FLOPs are left out.
    """

    def __init__(self, tables: SpaceTables, ceiling: Corner) -> None:
        self.tables = tables
        self.ordered = tables.space.constraints.nondecreasing_widths
        kept = [np.flatnonzero(stage.network == np.arange(stage.size)) for stage in tables.stages]
        lengths = [len(options) for options in kept]
        splits = range(1, len(kept) + 1)
        self.split = min(splits, key=lambda i: max(prod(lengths[:i]), prod(lengths[i:])))
        self.kept = kept
        self.front, self.front_cost = self._list(0, self.split, np.array(ceiling))
        least = self.front_cost.min(axis=0, initial=MAX_COUNT)
        self.back, self.back_cost = self._list(self.split, len(kept), np.array(ceiling) - least)

    def options(self, half: IntArray, start: int, stop: int) -> IntArray:
        """[n, stages] the options of halves [n] of the stages from `start` up to `stop`."""
        places = np.unravel_index(half, [len(options) for options in self.kept[start:stop]] or [1])
        columns = [options[place] for options, place in zip(self.kept[start:stop], places, strict=False)]
        return np.stack(columns, axis=1) if columns else np.empty((len(half), 0), dtype=np.int64)

    def _list(self, start: int, stop: int, ceiling: IntArray) -> tuple[IntArray, IntArray]:
        """Halves [n] and their costs [n, 2], without what enters the first stage."""
        half, cost = np.zeros(1, dtype=np.int64), np.zeros((1, 2), dtype=np.int64)
        width = np.zeros(1, dtype=np.int64)
        for i, options in enumerate(self.kept[start:stop], start):
            blocks: list[tuple[IntArray, IntArray, IntArray]] = []
            step = max(1, PAIRS_AT_ONCE // len(options))
            for begin in range(0, len(half), step):
                part = slice(begin, begin + step)
                blocks.append(self._extended(half[part], cost[part], width[part], i, options, ceiling, i > start))
                if sum(len(block[0]) for block in blocks) > MAX_HALF:
                    rule = f"the nearest architectures are listed where half of the stages have at most {MAX_HALF:,}"
                    rule += " options within the budgets; without a list (`--best 0`) their number is given"
                    raise InputError(rule, place="stages", value=prod(map(len, self.kept[start:stop])))
            if not blocks:
                break
            half, cost, width = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        return half, cost

    def _extended(
        self,
        half: IntArray,
        cost: IntArray,
        width: IntArray,
        i: int,
        options: IntArray,
        ceiling: IntArray,
        joined: bool,
    ) -> tuple[IntArray, IntArray, IntArray]:
        """The halves, their costs and last widths with every option of stage `i` that keeps the ceiling."""
        left, right = np.divmod(np.arange(len(half) * len(options)), len(options))
        dim = self.tables.stages[i].dim[options]
        if joined and self.ordered:
            legal = dim[right] >= width[left]
            left, right = left[legal], right[legal]
        total = cost[left] + self.tables.cost[i][options][right]
        if joined:
            total += width[left][:, None] * self.tables.slope[i][options][right]
        within = np.all(total <= ceiling, axis=1)
        left, right = left[within], right[within]
        return half[left] * len(options) + right, total[within], dim[right]

    def windows(self, limits: IntArray, axis: int, every: int = 1) -> Iterator[Windows]:
        """For each width at which the ends meet: which back halves, or each `every`-th, keep `limits` of one count."""
        tables, first = self.tables, self.split
        width = tables.stages[first - 1].dim[self.options(self.front, 0, first)[:, -1]]
        for dim in np.unique(width):
            front = np.flatnonzero(width == dim)
            back, cost = np.arange(0, len(self.back), every), self.back_cost
            if first < len(tables.stages):
                option = self.options(self.back[back], first, len(self.kept))[:, 0]
                cost = cost[back] + dim * tables.slope[first][option]
                legal = (tables.stages[first].dim[option] >= dim) | (not self.ordered)
                back, cost = back[legal], cost[legal]
            else:
                cost = cost[back]
            order = np.argsort(cost[:, axis], kind="stable")
            back, cost = back[order], cost[order]
            values = np.ascontiguousarray(cost[:, axis])
            own = self.front_cost[front, axis]
            begin = np.searchsorted(values, limits[axis, 0] - own, side="left")
            end = np.searchsorted(values, limits[axis, 1] - own, side="right")
            length = np.maximum(end - begin, 0)
            yield Windows(front=front, begin=begin, length=length, back=back, back_cost=cost)

    def pairs(self, limits: IntArray, most: int) -> Iterator[tuple[IntArray, IntArray]] | None:
        """Rows [N, S] and costs [N, 2] of all architectures with both counts within `limits` [2, 2], in blocks.

        None where more than about `most` would have to be looked at, whichever count the halves are sorted by.
        """
        every = max(1, len(self.back) // SAMPLE)
        work = [sum(int(w.length.sum()) for w in self.windows(limits, axis, every)) for axis in (0, 1)]
        if min(work) * every > most:
            return None
        windows = self.windows(limits, work.index(min(work)))
        return (block for window in windows for block in self._blocks(limits, window))

    def _blocks(self, limits: IntArray, windows: Windows) -> Iterator[tuple[IntArray, IntArray]]:
        """Each front half with its window of back halves, as many at once as `PAIRS_AT_ONCE` allows."""
        length, ends = windows.length, np.cumsum(windows.length)
        done = 0
        while done < len(length):
            start = int(ends[done] - length[done])
            upto = max(done + 1, int(np.searchsorted(ends, start + PAIRS_AT_ONCE, side="right")))
            lengths = length[done:upto]
            left = np.repeat(np.arange(done, upto), lengths)
            inside = np.arange(len(left)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            front, place = windows.front[left], windows.begin[left] + inside
            totals = self.front_cost[front] + windows.back_cost[place]
            hit = ((totals >= limits[:, 0]) & (totals <= limits[:, 1])).all(axis=1)
            if hit.any():
                rows = (
                    self.options(self.front[front[hit]], 0, self.split),
                    self.options(self.back[windows.back[place[hit]]], self.split, len(self.kept)),
                )
                yield np.hstack(rows), totals[hit]
            done = upto
