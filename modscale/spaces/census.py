"""What a search space holds: how many architectures, how many are feasible, and how far their counts reach.

Exact, by arithmetic on halves (`halves.py`), up to some 1e12 architectures. Beyond that the census says so and gives
the number of feasible architectures as the 95 % interval of a sample (`sampling.py`); how far the counts of all reach
is exact there too, and so is what that reach alone tells: that everything is feasible, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from modscale.arrays import IntArray
from modscale.errors import MismatchError
from modscale.spaces.feasibility import ANY, ConstrainedSpace, explain_infeasible
from modscale.spaces.halves import BeyondReach, Progress, silent
from modscale.spaces.pair_counts import Extreme, Limits
from modscale.spaces.sampling import exactly, sampled
from modscale.spaces.space import Space
from modscale.spaces.tables import build_tables
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import ModelSpec

BINS = 16
QUICK_SIZE = 10**10
"""Architectures up to which the exact number is there within a few seconds; of more a sample is told first."""
QUICK_STAGE = 10**6
"""The same for the options of one stage."""


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
    feasible_interval: tuple[int, int]
    """Combinations that meet all constraints: two equal numbers where that is known, else a 95 % interval."""
    distinct_feasible_interval: tuple[int, int]
    """Networks that meet all constraints, in the same way."""
    reach: Mapping[str, Reach]
    """Over all architectures."""
    feasible_reach: Mapping[str, Reach] | None = None
    """Over the feasible ones; None where there are none, or where not exact."""
    removed: Mapping[str, Removal] | None = None
    """By constraint; None where not exact."""
    histograms: Mapping[str, Histogram] | None = None
    """None where not exact."""
    rule: str | None = None
    """Why the census is not exact."""
    draws: int = 0
    """Architectures that were drawn for the intervals."""
    infeasible: str | None = None
    """Where nothing is feasible, the constraint that sees to it and the nearest miss."""

    @property
    def exact(self) -> bool:
        return self.rule is None

    @property
    def feasible(self) -> int | None:
        """None where only the interval is known."""
        return exactly(self.feasible_interval)

    @property
    def distinct_feasible(self) -> int | None:
        """None where only the interval is known."""
        return exactly(self.distinct_feasible_interval)


def take_census(
    space: Space,
    *,
    bins: int = BINS,
    progress: Progress = silent,
    estimate: Callable[[Limits], None] = lambda interval: None,
) -> Census:
    """Counts a space.

    Args:
        space: what is counted.
        bins: bars of each histogram at most.
        progress: is told now and then what share is done.
        estimate: is told within seconds, before a count that takes longer, the 95 % interval of the feasible ones.

    Raises:
        InputError: the space is too large to be tabled (`build_tables`).
        MismatchError: two ways to count the feasible architectures disagree.
    """
    count = ConstrainedSpace(build_tables(space))
    free = count.tables.free()
    reach = _reach(count, [free.extreme(axis, end) for axis in (0, 1) for end in (0, 1)])
    is_quick = space.size() <= QUICK_SIZE and int(count.tables.sizes.max()) <= QUICK_STAGE
    guess = None if is_quick else sampled(count)
    if guess:
        estimate(guess["feasible_interval"])
    try:
        found = _count(count, reach, bins, progress)
    except BeyondReach:
        found = guess or sampled(count, progress)
    if not found["feasible_interval"][0] and (hopeless := explain_infeasible(space, tables=count.tables)):
        found |= {"feasible_interval": (0, 0), "distinct_feasible_interval": (0, 0), "infeasible": str(hopeless)}
    distinct = prod(int(stage.stands.sum()) for stage in count.tables.stages)
    return Census(name=space.name, size=space.size(), distinct=distinct, reach=reach, **found)


def _count(count: ConstrainedSpace, reach: Mapping[str, Reach], bins: int, progress: Progress) -> dict[str, Any]:
    """The fields of a census that are counted. Raises BeyondReach, MismatchError."""
    params, flops = limits = count.limits
    size = count.tables.space.size()

    def answers() -> tuple[int, dict[str, Any]]:
        feasible = count.number("allowed", limits)
        meeting = {
            "widths": (count.number("allowed", (ANY, ANY)), count.number("all", limits)),
            "params": (count.number("all", (params, ANY)), count.number("allowed", (ANY, flops))),
            "flops": (count.number("all", (ANY, flops)), count.number("allowed", (params, ANY))),
        }
        return feasible, {
            "feasible_interval": (feasible,) * 2,
            "distinct_feasible_interval": (count.number("distinct", limits),) * 2,
            "removed": {
                name: Removal(alone=size - meeting[name][0], only=meeting[name][1] - feasible) for name in count.names
            },
            "histograms": {
                metric: _histogram(count, axis, reach[metric], bins) for axis, metric in enumerate(COUNT_METRICS)
            },
        }

    answers()  # the first time only to note what will be asked, so that all is counted at once
    ends = [(axis, lowest) for axis in (0, 1) for lowest in (True, False)]
    extremes = [Extreme(axis=axis, own=limits[axis], other=limits[1 - axis], lowest=lowest) for axis, lowest in ends]
    rows = [found[1] for found in count.survey(extremes, progress) if found is not None]
    feasible, fields = answers()
    # Two sweeps, one along each count: they must agree on how many architectures are feasible.
    if {(sum(bars.all), sum(bars.feasible)) for bars in fields["histograms"].values()} != {(size, feasible)}:
        raise MismatchError("the histograms of the space do not sum to its size; no number is given out")
    return fields | {"feasible_reach": _reach(count, rows) if rows else None}


def _histogram(count: ConstrainedSpace, axis: int, reach: Reach, bins: int) -> Histogram:
    width = reach.max - reach.min
    bins = max(1, min(bins, width))
    edges = tuple(reach.min + width * i // bins for i in range(bins + 1))
    tops = [edges[0] - 1, *(edge - 1 for edge in edges[1:-1]), edges[-1]]
    (low, high), other = count.limits[axis], count.limits[1 - axis]

    def steps(kind: str, own: Sequence[Limits], other: Limits) -> tuple[int, ...]:
        below = [count.number(kind, (limits, other) if axis == 0 else (other, limits)) for limits in own]
        return tuple(after - before for before, after in pairwise(below))

    every = steps("all", [(0, top) for top in tops], ANY)
    feasible = steps("allowed", [(low, min(top, high)) for top in tops], other)
    return Histogram(edges=edges, all=every, feasible=feasible)


def _reach(count: ConstrainedSpace, rows: Sequence[IntArray]) -> dict[str, Reach]:
    """From the rows of the architectures with the least and the most params, and the least and the most FLOPs."""
    reach = {}
    for axis, metric in enumerate(COUNT_METRICS):
        ends = rows[2 * axis : 2 * axis + 2]
        least, most = (int(n) for n in count.tables.count(np.stack(ends))[axis])
        min_spec, max_spec = (count.tables.spec(row) for row in ends)
        reach[metric] = Reach(min=least, max=most, min_spec=min_spec, max_spec=max_spec)
    return reach
