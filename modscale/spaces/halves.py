"""Every architecture of a space as a pair of halves, which are listed; the pairs are not.

A space of 1e12 architectures is some 1e6 first halves, each with some 1e6 last halves. What joins two halves costs
what the widths at the cut make it cost; so the longer list is grouped by its width at the cut, and for each width the
shorter list is taken with the cost of the joint. The cut lies between two stages, or inside one: its blocks in one
half, its attention blocks in the other, and only halves of one width belong together.

By hand: three stages of 10 options are 1,000 architectures. Cut after the first, 10 first halves meet 100 last
halves. If the second stage has two widths, the 10 are taken twice, with the transition to either width; what is left
to do is look at 2 x 10 and 100 numbers, not at 1,000.

Shapes: n halves, S stages; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import MAX_COUNT, IntArray
from modscale.machine import available_cores
from modscale.spaces.pair_counts import Corner, Extreme, Ranks, count_pairs, furthest_pair
from modscale.spaces.tables import SpaceTables

MAX_WORK = 6_500_000
"""Halves that are looked at for one question at most, `WORK_A_WIDTH` a width besides."""
WORK_A_WIDTH = 3000
"""Halves that could be looked at in the time that one more width costs."""
MAX_THREADS = 4
"""Widths gone through side by side."""
MAX_RANKED = 2_000_000
"""Halves of the shorter list that all threads together rank at a time: about 1 GB."""
PAIRS_AT_ONCE = 1 << 19
"""Halves that are made in one go."""
UNBOUNDED: Corner = (MAX_COUNT, MAX_COUNT)

Found = tuple[int, IntArray]
"""A count, and the options [S] of an architecture that has it."""
Progress = Callable[[float], None]
"""Is told what share of the work is done."""


class BeyondReach(Exception):
    """The halves are too many to be listed or gone through: a signal to sample or to refuse, never seen outside."""


HALF = np.dtype([("place", np.int64), ("width", np.int64), ("cost", np.int64, 2), ("weight", np.int64)])
"""A half, or what may stand in one stage or part of it before halves are made of it.

`place`: in the product of the lists that it is made of; of one stage, the option. `width`: at the cut. `weight`: how
many partial architectures it stands for.
"""
HalfList = NDArray[np.void]
"""[n] of `HALF`."""


def silent(share: float) -> None:
    """Shows no progress."""


class Halves:
    """The two lists of halves of a space, the one grouped by its width at the cut."""

    def __init__(
        self,
        tables: SpaceTables,
        *,
        ordered: bool,
        distinct: bool = False,
        merged: bool = True,
        ceiling: Corner = UNBOUNDED,
    ) -> None:
        """Lists them.

        Args:
            tables: the space.
            ordered: leave out architectures with a stage narrower than the one before it.
            distinct: of the options that make the same network only the first.
            merged: options of one stage of equal width and cost as one.
            ceiling: leave out halves that alone exceed these params or FLOPs; pairs of halves may exceed them.

        Raises:
            BeyondReach: they are too many.
        """
        self.tables, self.ordered = tables, ordered
        if max(stage.size for stage in tables.stages) > MAX_WORK:
            raise BeyondReach  # before so many options are sorted
        merged = merged and len(tables.stages) > 1  # a stage alone is sorted once, and need not be before
        options = [_options(tables, i, distinct, merged) for i in range(len(tables.stages))]
        whole = [some[0] for some in options]
        cuts = [(whole[:i], whole[i:], False) for i in range(1, len(whole) + 1)]
        for i, (_, *parts) in enumerate(options):
            cuts += [([*whole[:i], one], [other, *whole[i + 1 :]], True) for one, other in permutations(parts, 2)]
        cut = min(cuts, key=_work)
        if tables.space.size() >= MAX_COUNT or (ceiling == UNBOUNDED and _work(cut) > MAX_WORK):
            raise BeyondReach
        self.head, self.tail, self.inside = cut
        first = len(whole) - len(self.tail)
        head = self._list(self.head, range(len(self.head)), np.array(ceiling), forward=True)
        least = head["cost"].min(axis=0, initial=MAX_COUNT)
        tail = self._list(self.tail, range(first, len(whole)), np.array(ceiling) - least, forward=False)
        self.head_longer = len(head) > len(tail)
        longer, self.shorter = (head, tail) if self.head_longer else (tail, head)
        longer["width"] *= bool(self.tail)  # with nothing to meet, widths do not matter
        self.longer = longer[np.argsort(longer["width"].astype(np.uint16), kind="stable")]
        self.widths, begins = np.unique(self.longer["width"], return_index=True)
        self.ends, self.groups = np.r_[begins, len(longer)], range(len(begins))
        taken = len(self.shorter) * (1 if self.inside else len(begins))
        if len(longer) + taken + WORK_A_WIDTH * len(begins) > MAX_WORK:
            raise BeyondReach

    def group(self, i: int) -> tuple[HalfList, HalfList]:
        """The longer list's halves of the i-th width, and those of the shorter list that go with them, joint paid."""
        width, longer, shorter = self.widths[i], self.longer[self.ends[i] : self.ends[i + 1]], self.shorter
        if not self.tail:
            return longer, shorter
        if self.inside:
            return longer, shorter[shorter["width"] == width]
        if self.ordered:
            shorter = shorter[shorter["width"] >= width if self.head_longer else shorter["width"] <= width]
        shorter, ends = shorter.copy(), (width, shorter["width"])
        shorter["cost"] += self._joint(len(self.head), *(ends if self.head_longer else ends[::-1]))
        return longer, shorter

    def survey(
        self, corners: Sequence[Corner], extremes: Sequence[Extreme] = (), progress: Progress = silent
    ) -> tuple[list[int], list[Found | None]]:
        """How many architectures lie at or below each corner, and each extreme one.

        Widths are gone through side by side, by threads: numpy lets go of Python's lock while it sorts and looks up.
        """

        def visit(i: int) -> tuple[list[int], list[Found | None]]:
            longer, shorter = self.group(i)
            if not len(shorter):
                return [0] * len(corners), [None] * len(extremes)
            asking, asked = (Ranks(half["cost"], half["weight"]) for half in (longer, shorter))
            found: list[Found | None] = []
            for wanted in extremes:
                pair = furthest_pair(asking, asked, wanted)
                found.append(pair and (pair[0], self.rows(longer[[pair[1]]], shorter[[pair[2]]])[0]))
            return count_pairs(asking, asked, corners), found

        totals, best = [0] * len(corners), list[Found | None]([None] * len(extremes))
        threads = max(1, min(MAX_THREADS, available_cores(), MAX_RANKED // (len(self.shorter) + 1)))
        with ThreadPoolExecutor(threads) as pool:
            for done, (counts, found) in enumerate(pool.map(visit, self.groups), 1):
                progress(done / len(self.widths))
                totals = [total + count for total, count in zip(totals, counts, strict=True)]
                for i, (wanted, here, rival) in enumerate(zip(extremes, found, best, strict=True)):
                    sign = -1 if wanted.lowest else 1  # of equals the first width's, whichever thread was faster
                    if here is not None and (rival is None or sign * here[0] > sign * rival[0]):
                        best[i] = here
        return totals, best

    def rows(self, longer: HalfList, shorter: HalfList) -> IntArray:
        """[m, S] the options of pairs of halves [m]."""
        rows = np.zeros((len(longer), len(self.tables.stages)), dtype=np.int64)
        head, tail = (longer, shorter) if self.head_longer else (shorter, longer)
        for parts, half, first in ((self.head, head, 0), (self.tail, tail, rows.shape[1] - len(self.tail))):
            lengths = [len(part) for part in parts]
            for i, which in enumerate(np.unravel_index(half["place"], lengths) if parts else ()):
                rows[:, first + i] += parts[i]["place"][which]
        return rows

    def _joint(self, stage: int, before: IntArray, after: IntArray) -> IntArray:
        """[..., 2] what the transition to `stage` costs, from widths `before` [...] to widths `after` [...]."""
        dims, first = np.unique(self.tables.stages[stage].dim, return_index=True)
        return before[..., None] * self.tables.slope[stage][first[np.searchsorted(dims, after)]]

    def _list(self, parts: Sequence[HalfList], stages: range, ceiling: IntArray, *, forward: bool) -> HalfList:
        """All combinations of the options of some stages, from the outer end of the network to the cut."""
        half, made = np.array([(0, 0, (0, 0), 1)], dtype=HALF), 1
        for stage, part in list(zip(stages, parts, strict=True))[:: 1 if forward else -1]:
            blocks, step = [], max(1, PAIRS_AT_ONCE // len(part))
            for old in (half[begin : begin + step] for begin in range(0, len(half), step)):
                cost = old["cost"][:, None] + part["cost"]
                legal: Any = True
                if half["width"][0]:  # there is something to be joined to
                    ends = (old["width"][:, None], part["width"])
                    before, after = ends if forward else ends[::-1]
                    cost += self._joint(stage if forward else stage + 1, before, after)
                    legal = (before <= after) | (not self.ordered)
                pairs = np.flatnonzero((cost <= ceiling).all(axis=2) & legal)
                which, option = np.divmod(pairs, len(part))
                new = np.empty(len(pairs), dtype=HALF)
                place = old["place"][which]
                new["place"] = place * len(part) + option if forward else option * made + place
                new["width"], new["cost"] = part["width"][option], cost.reshape(-1, 2).take(pairs, axis=0)
                new["weight"] = old["weight"][which] * part["weight"][option]
                blocks.append(new)
                if sum(map(len, blocks)) > MAX_WORK:
                    raise BeyondReach
            half, made = np.concatenate(blocks), made * len(part)
            if not len(half):
                break
        return half


def _work(cut: tuple[list[HalfList], list[HalfList], bool]) -> int:
    """Halves to be looked at for one question, if the space is cut so."""
    head, tail, inside = cut
    lengths = prod(map(len, head)), prod(map(len, tail))
    at_cut = head[-1] if lengths[0] > lengths[1] or not tail else tail[0]
    widths = len(np.unique(at_cut["width"])) if tail else 1
    return max(lengths) + min(lengths) * (1 if inside else widths) + WORK_A_WIDTH * widths


def _options(tables: SpaceTables, i: int, distinct: bool, merged: bool) -> list[HalfList]:
    """The options of stage `i`, and, where it has a choice of attention, its blocks and its attention blocks apart."""
    stage, cost = tables.stages[i], tables.cost[i]

    def options(which: IntArray, base: IntArray, bare: IntArray | int) -> HalfList:
        """The options `which` [n], as what they add to the options `base` [n], whose costs are `bare`."""
        found = np.ones(len(which), dtype=HALF)
        found["place"], found["width"], found["cost"] = which - base, stage.dim[which], cost[which] - bare
        found = found[stage.stands[which]] if distinct else found
        return _merged(found) if merged else found

    every = np.arange(stage.size)
    whole = options(every, np.zeros_like(every), 0)
    attention = [parameter.key.startswith("attention") for parameter in stage.parameters]
    table = every.reshape(stage.shape)
    blocks = table[tuple(0 if of_it else slice(None) for of_it in attention)].reshape(-1)
    added = table[tuple(slice(None) if of_it else 0 for of_it in attention)].reshape(-1)
    if len(added) == 1:
        return [whole]
    first = np.repeat(blocks[np.unique(stage.dim[blocks], return_index=True)[1]], len(added))
    with_attention = first + np.tile(added, len(first) // len(added))
    return [whole, options(blocks, np.zeros_like(blocks), 0), options(with_attention, first, cost[first])]


def _merged(options: HalfList) -> HalfList:
    """Options of equal width and cost as the first of them."""
    options = options[np.lexsort((options["cost"][:, 1], options["cost"][:, 0], options["width"]))]
    width, cost = options["width"], options["cost"]
    new = np.r_[True, (width[1:] != width[:-1]) | (cost[1:] != cost[:-1]).any(axis=1)]
    found = options[new]
    found["weight"] = np.add.reduceat(options["weight"], np.flatnonzero(new))
    return found
