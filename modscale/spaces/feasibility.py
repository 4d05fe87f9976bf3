"""Whether anything in a space meets its constraints, and if not, which of them sees to that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np

from modscale.arrays import MAX_COUNT
from modscale.errors import InputError
from modscale.spaces.halves import UNBOUNDED, BeyondReach, Found, Halves, Progress, silent
from modscale.spaces.pair_counts import Corner, Extreme, Limits, interval_corners
from modscale.spaces.space import Bounds, Space
from modscale.spaces.tables import SpaceTables, build_tables
from modscale.specs.counts import COUNT_METRICS

ANY: Limits = (-MAX_COUNT, MAX_COUNT)
LEAST = {"classes": 2, "channels": 1}
"""The fewest that data may have."""
QUICK_DRAWS = 4096
"""Architectures drawn to see at once that something is feasible."""


def require_feasible(space: Space, *, tables: SpaceTables | None = None) -> None:
    """Returns at once where a few draws find a feasible architecture, and otherwise finds out for certain.

    Raises:
        InputError: nothing is feasible; names the constraint and the nearest miss.
    """
    if error := explain_infeasible(space, tables=tables):
        raise error


def require_possible(space: Space) -> None:
    """As `require_feasible`, before the data have said what the space leaves to them: no data make more possible.

    They are taken to have two classes and one channel, the fewest; what they are may only add to a network, so that
    lower limits are left out.
    """
    if not space.from_data:
        require_feasible(space)
        return
    limits = {metric: replace(getattr(space.constraints, metric), min=None) for metric in COUNT_METRICS}
    least = replace(space.fitted(LEAST), constraints=replace(space.constraints, **limits))
    try:
        require_feasible(least)
    except InputError as error:
        error.rule += " with the fewest classes and channels that data have"
        raise


def explain_infeasible(space: Space, *, tables: SpaceTables | None = None) -> InputError | None:
    """Why nothing is feasible: the smallest set of constraints that nothing meets, and the nearest miss.

    None where something is feasible, or where the space is too large for a proof (`halves.MAX_WORK`).
    """
    tables = tables or build_tables(space)
    if tables.feasible(tables.sample(np.random.default_rng(0), QUICK_DRAWS)).any():
        return None
    count = ConstrainedSpace(tables)
    for names in (names for n in range(1, len(count.names) + 1) for names in combinations(count.names, n)):
        with suppress(BeyondReach):
            if error := count.conflict(names):
                return error
    return None


class ConstrainedSpace:
    """A space's tables with its constraints as whole numbers, and its halves, listed when they are asked for.

    Three kinds of architectures are told apart: `all`, `allowed` (no stage narrower than the one before it, where the
    space asks for that) and `distinct` (of the allowed ones that are the same network, one).
    """

    def __init__(self, tables: SpaceTables) -> None:
        self.tables = tables
        constraints = tables.space.constraints
        self.ordered = constraints.nondecreasing_widths
        self.bounds = (constraints.params, constraints.flops)
        params, flops = (ANY if bounds == Bounds() else bounds.whole() for bounds in self.bounds)
        self.limits = params, flops
        active = zip(("widths", *COUNT_METRICS), (self.ordered, params != ANY, flops != ANY), strict=True)
        self.names = tuple(name for name, is_active in active if is_active)
        narrows = any(before.dim.max() > after.dim.min() for before, after in pairwise(tables.stages))
        repeats = not all(stage.stands.all() for stage in tables.stages)
        ordered = self.ordered and narrows
        self.halves_of = {"all": (False, False), "allowed": (ordered, False), "distinct": (ordered, repeats)}
        """By kind, whether order and whether repeats matter: the same halves serve kinds that agree in both."""
        self.asked: dict[tuple[bool, bool], dict[Corner, int]] = {}
        """By that, the corners that have been asked for, with their counts once they are known."""

    def number(self, kind: str, limits: tuple[Limits, Limits]) -> int:
        """Architectures within both closed intervals; 0, until `survey` has been called after the first asking."""
        if any(low > high for low, high in limits):
            return 0
        known = self.asked.setdefault(self.halves_of[kind], {})
        return sum(sign * known.setdefault(corner, 0) for corner, sign in interval_corners(*limits).items())

    def survey(self, extremes: Sequence[Extreme] = (), progress: Progress = silent) -> list[Found | None]:
        """Counts what was asked for, and finds the extreme ones of the allowed. Raises BeyondReach."""
        found: list[Found | None] = []
        for done, (key, known) in enumerate(self.asked.items()):

            def report(share: float, done: int = done) -> None:
                progress((done + share) / len(self.asked))

            wanted = extremes if key == self.halves_of["allowed"] else ()
            ceiling = UNBOUNDED if wanted else (max(c[0] for c in known), max(c[1] for c in known))
            halves = Halves(self.tables, ordered=key[0], distinct=key[1], ceiling=ceiling)
            counts, here = halves.survey(list(known), wanted, report)
            known.update(zip(known, counts, strict=True))
            found += here
        return found

    def ends(self, axis: int, *, ordered: bool) -> Limits:
        """The least and the most of one count over all, or over those that keep the order of widths."""
        tables = self.tables if ordered else self.tables.free()
        low, high = (int(tables.count(tables.extreme(axis, end)[None])[axis][0]) for end in (0, 1))
        return low, high

    def conflict(self, names: tuple[str, ...]) -> InputError | None:
        """The error where nothing meets the named constraints together, though something does every part of them.

        Raises BeyondReach where the space is too large to tell.
        """
        if names == ("widths",):
            narrowing, widths = _least_narrowing(self.tables)
            rule = "no architecture has nondecreasing widths; the nearest has " + ", ".join(map(str, widths))
            return InputError(rule, place="constraints.widths") if narrowing else None
        axis, ordered = 0 if "params" in names else 1, "widths" in names
        other = self.limits[1] if axis == 0 and "flops" in names else ANY
        nearest = self._nearest_miss(axis, other, ordered)
        if nearest is None:
            return None
        company = ["nondecreasing widths"] * ordered
        company += [f"FLOPs of {_describe(self.bounds[1])}"] * (other != ANY)
        having = f" with {' and '.join(company)}" if company else ""
        unit = ("params", "FLOPs")[axis]
        rule = f"no architecture{having} satisfies {_describe(self.bounds[axis])}; the nearest has {nearest:,} {unit}"
        return InputError(rule, place=f"constraints.{COUNT_METRICS[axis]}")

    def _nearest_miss(self, axis: int, other: Limits, ordered: bool) -> int | None:
        """Where nothing lies within the limits of one count and `other`, the nearest value of that count."""
        low, high = self.limits[axis]
        least, most = self.ends(axis, ordered=ordered)
        if other == ANY and (low > most or high < least):
            return most if low > most else least
        if other == ANY and (low <= least or most <= high):
            return None  # the least or the most of all is within
        within = Extreme(axis=axis, own=(low, high), other=other)
        below = replace(within, own=(ANY[0], low - 1))
        above = replace(within, own=(high + 1, ANY[1]), lowest=True)
        halves = Halves(self.tables, ordered=ordered)
        _, (found, *misses) = halves.survey((), (within, below, above))
        values = [miss[0] for miss in misses if miss is not None]
        return None if found else min(values, key=lambda n: max(low - n, n - high))


def _describe(bounds: Bounds) -> str:
    ends = (("min", bounds.min), ("max", bounds.max))
    return " and ".join(f"{name} {end:g}" for name, end in ends if end is not None)


def _least_narrowing(tables: SpaceTables) -> tuple[int, list[int]]:
    """The least sum of channels by which stages are narrower than those before them, and widths that attain it."""
    dims = [np.unique(stage.dim) for stage in tables.stages]
    lost, origins = np.zeros(len(dims[0]), dtype=np.int64), []
    for before, after in pairwise(dims):
        total = lost[:, None] + np.maximum(before[:, None] - after, 0)
        origins.append(total.argmin(axis=0))
        lost = total.min(axis=0)
    places = [int(lost.argmin())]
    for origin in reversed(origins):
        places.insert(0, int(origin[places[0]]))
    return int(lost.min()), [int(dim[place]) for dim, place in zip(dims, places, strict=True)]
