"""Whether anything in a space meets its constraints, and if not, which of them sees to that."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations, pairwise

import numpy as np

from modscale.arrays import MAX_COUNT, IntArray
from modscale.counts import COUNT_METRICS
from modscale.errors import InputError
from modscale.halves import Extreme, Halves, build_halves
from modscale.points import Limits
from modscale.space import Bounds, SearchSpace
from modscale.tables import SpaceTables, build_tables, whole_bounds

ANY: Limits = (-MAX_COUNT, MAX_COUNT)
QUICK_DRAWS = 4096
"""Architectures drawn to see at once that something is feasible."""


def require_feasible(space: SearchSpace, *, tables: SpaceTables | None = None) -> None:
    """Returns at once where a few draws find a feasible architecture, and otherwise finds out for certain.

    Raises:
        InputError: nothing is feasible; names the constraint and the nearest miss.
    """
    error = explain_infeasible(space, tables=tables)
    if error is not None:
        raise error


def explain_infeasible(space: SearchSpace, *, tables: SpaceTables | None = None) -> InputError | None:
    """Why nothing is feasible: the smallest set of constraints that nothing meets, and the nearest miss.

    None where something is feasible, or where the space is too large for a proof (`partials.MAX_MET`, `MAX_POINTS`).
    """
    count = ConstrainedSpace(tables or build_tables(space))
    drawn = count.tables.sample(np.random.default_rng(0), QUICK_DRAWS)
    if count.tables.feasible(drawn).any():
        return None
    for number in range(1, len(count.names) + 1):
        for names in combinations(count.names, number):
            error = count.conflict(names)
            if error is not None:
                return error
    return None


class ConstrainedSpace:
    """A space's tables with its constraints as whole numbers, and its halves, built when first asked for."""

    def __init__(self, tables: SpaceTables) -> None:
        self.tables = tables
        constraints = tables.space.constraints
        self.ordered = constraints.nondecreasing_widths
        self.bounds = (constraints.params, constraints.flops)
        bounded = [bounds != Bounds() for bounds in self.bounds]
        own = [
            whole_bounds(bounds) if is_bounded else ANY for bounds, is_bounded in zip(self.bounds, bounded, strict=True)
        ]
        self.limits = own[0], own[1]
        active = zip(("widths", *COUNT_METRICS), (self.ordered, *bounded), strict=True)
        self.names = tuple(name for name, is_active in active if is_active)
        self.constrained = bool(self.names)

    @cached_property
    def halves(self) -> Halves:
        return build_halves(self.tables, (self.limits[0][1], self.limits[1][1]))

    def conflict(self, names: tuple[str, ...]) -> InputError | None:
        """The error where nothing meets the named constraints together; every part of them is met by something."""
        if names == ("widths",):
            narrowing, widths = _least_narrowing(self.tables)
            if not narrowing:
                return None
            rule = "no architecture has nondecreasing widths; the nearest has " + ", ".join(map(str, widths))
            return InputError(rule, place="constraints.widths")
        axis = 0 if "params" in names else 1
        own = self.limits[axis]
        other = self.limits[1] if axis == 0 and "flops" in names else ANY
        if not self.halves.exact:
            return None
        kind = "allowed" if "widths" in names else "all"
        meeting, below, above = (
            Extreme(axis=axis, own=own, other=other, kind=kind),
            Extreme(axis=axis, own=(ANY[0], own[0] - 1), other=other, kind=kind),
            Extreme(axis=axis, own=(own[1] + 1, ANY[1]), other=other, lowest=True, kind=kind),
        )
        _, found = self.halves.survey({}, (meeting, below, above))
        if found[meeting] is not None:
            return None
        nearest = min(
            (miss.total[axis] for miss in (found[below], found[above]) if miss),
            key=lambda n: max(own[0] - n, n - own[1]),
        )
        company = ["nondecreasing widths"] * ("widths" in names)
        company += [f"FLOPs of {_describe(self.bounds[1])}"] * (other is not ANY)
        having = f" with {' and '.join(company)}" if company else ""
        unit = "params" if axis == 0 else "FLOPs"
        rule = f"no architecture{having} satisfies {_describe(self.bounds[axis])}; the nearest has {nearest:,} {unit}"
        return InputError(rule, place=f"constraints.{COUNT_METRICS[axis]}")


def _describe(bounds: Bounds) -> str:
    ends = (("min", bounds.min), ("max", bounds.max))
    return " and ".join(f"{name} {end:g}" for name, end in ends if end is not None)


def _least_narrowing(tables: SpaceTables) -> tuple[int, list[int]]:
    """The least sum of channels by which stages are narrower than those before them, and widths that attain it."""
    dims = [np.unique(stage.dim) for stage in tables.stages]
    lost = np.zeros(len(dims[0]), dtype=np.int64)
    origins: list[IntArray] = []
    for before, after in pairwise(dims):
        total = lost[:, None] + np.maximum(before[:, None] - after, 0)
        origins.append(total.argmin(axis=0))
        lost = total.min(axis=0)
    place = int(lost.argmin())
    narrowing = int(lost[place])
    widths = [int(dims[-1][place])]
    for dim, origin in zip(dims[-2::-1], origins[::-1], strict=False):
        place = int(origin[place])
        widths.insert(0, int(dim[place]))
    return narrowing, widths
