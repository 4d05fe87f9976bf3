"""What a search space holds, exactly: how many architectures, how many are feasible, and how far their counts reach.

Exact means by arithmetic, not by sampling: see `halves.py` for how a space of 1e12 architectures is counted in
halves. Where the halves have too many distinct points, the census says so and encloses the number of feasible
architectures between two bounds instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from modscale.arrays import IntArray
from modscale.counts import COUNT_METRICS
from modscale.errors import MismatchError
from modscale.feasibility import ANY, ConstrainedSpace, explain_infeasible
from modscale.halves import Extreme, Found, interval_corners
from modscale.partials import KINDS, MAX_MET, MAX_POINTS
from modscale.points import Corner, Limits
from modscale.space import Constraints, SearchSpace
from modscale.spec import ModelSpec, spec_to_dict
from modscale.tables import SpaceTables, build_tables

BINS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The exact range of one count, with an architecture that attains each end."""

    min: int
    max: int
    min_spec: ModelSpec
    max_spec: ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What one constraint removes."""

    alone: int
    """Architectures that break it."""
    only: int
    """Architectures that break it and no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Exact numbers of architectures by one count."""

    edges: tuple[int, ...]
    """Bin i holds edges[i] <= count < edges[i + 1]; the last bin holds its upper edge too."""
    all: tuple[int, ...]
    feasible: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """A space counted. Keys of the mappings are `params` and `flops`, and for `removed` also `widths`."""

    name: str
    size: int
    """Combinations of options."""
    distinct: int
    """Networks among them: combinations that differ only where it has no effect count once."""
    feasible: int | None
    """Combinations that meet all constraints; None where only `feasible_interval` is known."""
    feasible_interval: tuple[int, int]
    """Bounds of `feasible`, equal where it is exact."""
    distinct_feasible: int | None
    """Networks that meet all constraints; None where not exact."""
    reach: Mapping[str, Reach]
    """Over all architectures."""
    feasible_reach: Mapping[str, Reach] | None
    """Over the feasible ones; None where there are none, or where not exact."""
    removed: Mapping[str, Removal] | None
    """By constraint; None where not exact."""
    histograms: Mapping[str, Histogram] | None
    """None where not exact."""
    rule: str | None
    """Why the census is not exact."""
    infeasible: str | None
    """Where nothing is feasible, the constraint that sees to it and the nearest miss."""

    @property
    def exact(self) -> bool:
        return self.rule is None


def take_census(space: SearchSpace, *, bins: int = BINS, tables: SpaceTables | None = None) -> Census:
    """Counts a space.

    Raises:
        InputError: the space is too large to be tabled (`build_tables`).
        MismatchError: two ways to count the feasible architectures disagree.
    """
    count = _Counting(tables or build_tables(space), bins)
    exact = count.halves.exact
    histograms = {metric: count.histogram(axis) for axis, metric in enumerate(COUNT_METRICS)} if exact else None
    if histograms is not None:
        # Two sweeps, one along each count: they must agree on how many architectures are feasible.
        sums = {(sum(histogram.all), sum(histogram.feasible)) for histogram in histograms.values()}
        if len(sums) != 1 or next(iter(sums))[0] != space.size():
            raise MismatchError("the histograms of the space do not sum to its size; no number is given out")
        interval = (next(iter(sums))[1],) * 2
    else:
        interval = count.halves.enclose(*count.limits, "allowed") if count.constrained else (space.size(),) * 2
    hopeless = explain_infeasible(space, tables=count.tables) if interval[0] == 0 else None
    if hopeless:
        interval = (0, 0)
    rule = (
        f"more than {MAX_MET:,} distinct partial sums of params and FLOPs ({MAX_POINTS:,} in one half), "
        "or weights beyond int64"
    )
    return Census(
        name=space.name,
        size=space.size(),
        distinct=prod(len(np.unique(stage.network)) for stage in count.tables.stages),
        feasible=interval[0] if interval[0] == interval[1] else None,
        feasible_interval=interval,
        distinct_feasible=count.distinct_feasible() if exact else None,
        reach=count.reach,
        feasible_reach=count.feasible_reach() if exact and interval[0] else None,
        removed=count.removed(interval[0]) if exact else None,
        histograms=histograms,
        rule=None if exact else rule,
        infeasible=None if hopeless is None else str(hopeless),
    )


def census_to_json(census: Census) -> dict[str, Any]:
    """The census as plain values; `feasible` is null where only the interval is known."""

    def reach(kind: Mapping[str, Reach] | None, metric: str) -> dict[str, Any] | None:
        if kind is None:
            return None
        ends = kind[metric]
        return {
            "min": ends.min,
            "max": ends.max,
            "min_spec": spec_to_dict(ends.min_spec),
            "max_spec": spec_to_dict(ends.max_spec),
        }

    def removal(removed: Removal) -> dict[str, Any]:
        shares = {"alone_share": removed.alone / census.size, "only_share": removed.only / census.size}
        return {"alone": removed.alone, "only": removed.only, **shares}

    def histogram(bars: Histogram) -> dict[str, Any]:
        return {"edges": list(bars.edges), "all": list(bars.all), "feasible": list(bars.feasible)}

    return {
        "name": census.name,
        "size": census.size,
        "feasible": census.feasible,
        "feasible_interval": list(census.feasible_interval),
        "feasible_share": None if census.feasible is None else census.feasible / census.size,
        "distinct": census.distinct,
        "distinct_feasible": census.distinct_feasible,
        "exact": census.exact,
        "rule": census.rule,
        "params": reach(census.reach, "params"),
        "flops": reach(census.reach, "flops"),
        "feasible_params": reach(census.feasible_reach, "params"),
        "feasible_flops": reach(census.feasible_reach, "flops"),
        "removed": None if census.removed is None else {k: removal(v) for k, v in census.removed.items()},
        "histograms": None if census.histograms is None else {k: histogram(v) for k, v in census.histograms.items()},
        "infeasible": census.infeasible,
    }


class _Counting(ConstrainedSpace):
    """A space with the edges of its histograms, gone through once for all that the census asks."""

    def __init__(self, tables: SpaceTables, bins: int) -> None:
        super().__init__(tables)
        self.bins = bins

    @cached_property
    def free(self) -> SpaceTables:
        """The same tables without constraints."""
        return replace(self.tables, space=replace(self.tables.space, constraints=Constraints()))

    @cached_property
    def reach(self) -> Mapping[str, Reach]:
        """Over all architectures; needs no halves."""
        rows = [[_extreme(self.free, axis, end) for end in (0, 1)] for axis in (0, 1)]
        return {
            metric: Reach(
                min=int(self.tables.count(rows[axis][0][None])[axis][0]),
                max=int(self.tables.count(rows[axis][1][None])[axis][0]),
                min_spec=self.tables.spec(rows[axis][0]),
                max_spec=self.tables.spec(rows[axis][1]),
            )
            for axis, metric in enumerate(COUNT_METRICS)
        }

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The edges of the histograms of params and of FLOPs."""
        found = []
        for metric in COUNT_METRICS:
            ends = self.reach[metric]
            width = ends.max - ends.min
            bins = max(1, min(self.bins, width))
            found.append(tuple(ends.min + width * i // bins for i in range(bins + 1)))
        return found[0], found[1]

    @cached_property
    def surveyed(self) -> tuple[Mapping[tuple[Corner, str], int], Mapping[Extreme, Found | None]]:
        """Architectures at or below each corner that a question needs, by kind, and the extreme feasible ones."""
        params, flops = self.limits
        asked: list[tuple[Mapping[Corner, int], tuple[str, ...]]]
        asked = [(interval_corners(*limits), KINDS) for limits in ((params, flops), (params, ANY), (ANY, flops))]
        for axis in (0, 1):
            for top in self._tops(axis):
                asked.append((_line(axis, top, ANY), ("all",)))
                asked.append((_line(axis, self._clipped(axis, top), self.limits[1 - axis]), ("allowed",)))
        corners: dict[Corner, set[str]] = {}
        for some, kinds in asked:
            for corner in some:
                corners.setdefault(corner, set()).update(kinds)
        extremes = [self._extreme(axis, lowest=lowest) for axis in (0, 1) for lowest in (True, False)]
        return self.halves.survey(corners, extremes)

    def _between(self, params: Limits, flops: Limits, kind: str) -> int:
        return self._signed(interval_corners(params, flops), kind)

    def _signed(self, corners: Mapping[Corner, int], kind: str) -> int:
        return sum(sign * self.surveyed[0][corner, kind] for corner, sign in corners.items())

    def _extreme(self, axis: int, *, lowest: bool) -> Extreme:
        return Extreme(axis=axis, own=self.limits[axis], other=self.limits[1 - axis], lowest=lowest)

    def _tops(self, axis: int) -> list[int]:
        """The highest count of each bin."""
        edges = self.edges[axis]
        return [edge - 1 for edge in edges[1:-1]] + [edges[-1]]

    def _clipped(self, axis: int, top: int) -> int:
        low, high = self.limits[axis]
        return max(low - 1, min(top, high))

    def feasible_reach(self) -> Mapping[str, Reach]:
        reach: dict[str, Reach] = {}
        for axis, metric in enumerate(COUNT_METRICS):
            ends = [self.surveyed[1][self._extreme(axis, lowest=lowest)] for lowest in (True, False)]
            (low, least), (high, most) = (
                (found.total[axis], self.tables.spec(self.halves.locate(self.tables, found)))
                for found in ends
                if found is not None
            )
            reach[metric] = Reach(min=low, max=high, min_spec=least, max_spec=most)
        return reach

    def distinct_feasible(self) -> int:
        return self._between(*self.limits, "distinct")

    def removed(self, feasible: int) -> dict[str, Removal]:
        size = self.tables.space.size()
        params, flops = self.limits
        meeting = {
            "widths": (self.halves.size("allowed"), self._between(params, flops, "all")),
            "params": (self._between(params, ANY, "all"), self._between(ANY, flops, "allowed")),
            "flops": (self._between(ANY, flops, "all"), self._between(params, ANY, "allowed")),
        }
        return {name: Removal(alone=size - meeting[name][0], only=meeting[name][1] - feasible) for name in self.names}

    def histogram(self, axis: int) -> Histogram:
        below = [self._signed(_line(axis, top, ANY), "all") for top in self._tops(axis)]
        everything = feasible = np.diff([0, *below])
        if self.constrained:
            low, high = self.limits[axis]
            tops = [low - 1, *(self._clipped(axis, top) for top in self._tops(axis))]
            below = [self._signed(_line(axis, top, self.limits[1 - axis]), "allowed") for top in tops]
            feasible = np.diff(below) if low <= high else np.zeros_like(everything)
        return Histogram(
            edges=self.edges[axis], all=tuple(int(n) for n in everything), feasible=tuple(int(n) for n in feasible)
        )


def _line(axis: int, top: int, other: Limits) -> dict[Corner, int]:
    """Signed corners of the architectures whose count `axis` is at most `top`, with the other count in an interval."""
    own = (ANY[0] + 1, top)
    return interval_corners(own, other) if axis == 0 else interval_corners(other, own)


def _extreme(tables: SpaceTables, axis: int, end: int) -> IntArray:
    """[S] the architecture with the least (end 0) or the most (end 1) of one count, stage by stage."""
    row: list[int] = []
    entering = 0
    for stage, cost, slope, rest in zip(tables.stages, tables.cost, tables.slope, tables.rest, strict=True):
        reached = cost[:, axis] + entering * slope[:, axis] + rest[end][:, axis]
        row.append(int(reached.argmax() if end else reached.argmin()))
        entering = int(stage.dim[row[-1]])
    return np.array(row, dtype=np.int64)
