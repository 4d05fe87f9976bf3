"""A whole space as arrays: params and FLOPs of millions of architectures a second, by lookup and addition.

An architecture is a row of integers, one option index a stage (`stage_tables.py`). What a network costs is a sum over
its stages and the transitions between them; a transition is linear in the channels that enter it, so it is two numbers
an option instead of a square table. Every summand comes from `counts.py`, and the tests hold the sums against
`count_model`. Counts are int64; a space that could leave its range is refused when the tables are built.

Shapes: N architectures, S stages, n options of one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from modscale.arrays import MAX_COUNT, BoolArray, IntArray
from modscale.errors import InputError
from modscale.spaces.space import Constraints, Parameter, Space
from modscale.spaces.stage_tables import StageTable, build_stage_table, check_range
from modscale.specs.counts import (
    Tally,
    tally_downsample,
    tally_head,
    tally_lateral,
    tally_masks,
    tally_pyramid,
    tally_stem,
)
from modscale.specs.spec import ModelSpec

MAX_TABLED_OPTIONS = 5_000_000
"""Combinations of options over all stages together: about 0.4 GB of tables."""
CHUNK = 1 << 15
"""Architectures counted at a time: the intermediate sums stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class SpaceTables:
    """A space's stages as tables, and what joins them."""

    space: Space
    stages: tuple[StageTable, ...]
    cost: tuple[IntArray, ...]
    """Per stage [n, 2]: params and FLOPs of the stage with stem, head and what its entry costs whatever enters."""
    slope: tuple[IntArray, ...]
    """Per stage [n, 2]: what each channel that enters the stage adds to its transition; zeros for the first."""

    @cached_property
    def sizes(self) -> IntArray:
        """[S] number of options of each stage."""
        return np.array([stage.size for stage in self.stages], dtype=np.int64)

    def count(self, options: IntArray) -> tuple[IntArray, IntArray]:
        """(params [N], flops [N]) of architectures given as option indices [N, S]. IndexError outside the tables."""
        totals = np.empty((len(options), 2), dtype=np.int64)
        for start in range(0, len(options), CHUNK):
            chunk = options[start : start + CHUNK]
            total = self.cost[0].take(chunk[:, 0], axis=0)
            for i in range(1, len(self.stages)):
                entering = self.stages[i - 1].dim.take(chunk[:, i - 1])
                total += self.cost[i].take(chunk[:, i], axis=0)
                total += entering[:, None] * self.slope[i].take(chunk[:, i], axis=0)
            totals[start : start + CHUNK] = total
        return totals[:, 0], totals[:, 1]

    def feasible(self, options: IntArray) -> BoolArray:
        """[N] which architectures meet all of the space's constraints."""
        constraints = self.space.constraints
        params, flops = self.count(options)
        mask = np.ones(len(params), dtype=np.bool_)
        for counts, (low, high) in ((params, constraints.params.whole()), (flops, constraints.flops.whole())):
            mask &= (counts >= low) & (counts <= high)
        widths = [stage.dim.take(options[:, i]) for i, stage in enumerate(self.stages)]
        for before, after in pairwise(widths if constraints.nondecreasing_widths else ()):
            mask &= before <= after
        return mask

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """[n, S] architectures drawn uniformly, with replacement."""
        return rng.integers(0, self.sizes, size=(n, len(self.stages)), dtype=np.int64)

    def choice(self, row: IntArray) -> dict[str, Any]:
        """Parameter name to option, for every parameter with a choice: what `Space.spec` takes."""
        return {
            parameter.name: value
            for stage, index in zip(self.stages, row, strict=True)
            for parameter, value in zip(stage.parameters, stage.values(int(index)), strict=True)
            if len(parameter.options) > 1
        }

    def row(self, choice: Mapping[str, Any]) -> IntArray:
        """[S] option indices of a choice. KeyError without a parameter, ValueError for what is not an option."""

        def place(parameter: Parameter) -> int:
            return parameter.options.index(choice[parameter.name]) if len(parameter.options) > 1 else 0

        rows = [np.ravel_multi_index([*map(place, stage.parameters)], stage.shape) for stage in self.stages]
        return np.array(rows, dtype=np.int64)

    def spec(self, row: IntArray, *, name: str | None = None) -> ModelSpec:
        """The architecture of one row of option indices."""
        return self.space.spec(self.choice(row), name=name)

    @cached_property
    def rest(self) -> tuple[tuple[IntArray, IntArray], ...]:
        """Per stage ([n, 2], [n, 2]): the least and the most that the stages after it can add to each count.

        Where widths must not decrease and no later stage is wide enough, the least is `MAX_COUNT` or more.
        """
        nothing = np.zeros_like(self.cost[-1])
        rest = [(nothing, nothing)]
        ordered = self.space.constraints.nondecreasing_widths
        for i in range(len(self.stages) - 1, 0, -1):
            wide, first, group = np.unique(self.stages[i].dim, return_index=True, return_inverse=True)
            least = np.full((len(wide), 2), MAX_COUNT)
            most = np.full((len(wide), 2), -MAX_COUNT)
            np.minimum.at(least, group, np.minimum(self.cost[i] + rest[0][0], MAX_COUNT))
            np.maximum.at(most, group, np.maximum(self.cost[i] + rest[0][1], -MAX_COUNT))
            dims, place = np.unique(self.stages[i - 1].dim, return_inverse=True)
            low, high = [], []
            for dim in dims:
                reach = slice(np.searchsorted(wide, dim), None) if ordered else slice(None)
                entry = dim * self.slope[i][first[reach]]
                low.append((least[reach] + entry).min(axis=0, initial=MAX_COUNT))
                high.append((most[reach] + entry).max(axis=0, initial=-MAX_COUNT))
            rest.insert(0, (np.array(low)[place], np.array(high)[place]))
        return tuple(rest)

    def extreme(self, axis: int, end: int) -> IntArray:
        """[S] the first architecture with the least (end 0) or the most (end 1) of one count, whatever its limits.

        Of no meaning where widths must not decrease and no architecture keeps to that.
        """
        row, entering = list[int](), 0
        for stage, cost, slope, rest in zip(self.stages, self.cost, self.slope, self.rest, strict=True):
            reached = cost[:, axis] + entering * slope[:, axis] + rest[end][:, axis]
            if self.space.constraints.nondecreasing_widths:
                reached = np.where(stage.dim >= entering, reached, -MAX_COUNT if end else 2 * MAX_COUNT - 1)
            row.append(int(reached.argmax() if end else reached.argmin()))
            entering = int(stage.dim[row[-1]])
        return np.array(row, dtype=np.int64)

    def free(self) -> SpaceTables:
        """The same tables without constraints."""
        return replace(self, space=replace(self.space, constraints=Constraints()))


def build_tables(space: Space) -> SpaceTables:
    """The tables of a space.

    Raises:
        InputError: more options than the tables hold, or counts that could leave int64.
    """
    by_stage = [space.stage_parameters(i) for i in range(space.num_stages)]
    combinations = sum(prod(len(p.options) for p in parameters) for parameters in by_stage)
    if combinations > MAX_TABLED_OPTIONS:
        rule = f"may have {MAX_TABLED_OPTIONS:,} combinations of options, summed over the stages"
        raise InputError(rule, place="stages", value=combinations)
    base, sides = space.base, space.base.sides()
    stages = tuple(
        build_stage_table(parameters, base.stages[i], sides[i], base.layer_scale, i)
        for i, parameters in enumerate(by_stage)
    )
    entry, slope = [_by_dim(stages[0].dim, lambda dim: tally_stem(base, dim))], [np.zeros_like(stages[0].cost)]
    for stage, side in zip(stages[1:], sides[1:], strict=True):
        # Linear in the channels that enter: two values fix the line, and thousands of dims need no square table.
        one, two = (_by_dim(stage.dim, partial(tally_downsample, n, next_side=side)) for n in (1, 2))
        slope.append(two - one)
        entry.append(one - slope[-1])
    for i, rows in _head_costs(base, stages):
        entry[i] = entry[i] + rows
    largest = sum(int(stage.cost.max()) for stage in stages) + sum(int(rows.max()) for rows in entry)
    largest += sum(int(stages[i].dim.max()) * int(rows.max()) for i, rows in enumerate(slope[1:]))
    check_range(largest, "stages")
    cost = tuple(stage.cost + rows for stage, rows in zip(stages, entry, strict=True))
    return SpaceTables(space=space, stages=stages, cost=cost, slope=tuple(slope))


def _head_costs(base: ModelSpec, stages: Sequence[StageTable]) -> Iterator[tuple[int, IntArray]]:
    """Index of a stage and [n, 2] what the head adds to the cost of its options."""
    sides, last = base.sides(), len(stages) - 1
    if base.head == "classifier":
        yield last, _by_dim(stages[-1].dim, lambda dim: tally_head(dim, sides[-1], base.num_classes))
        return
    for i, stage in enumerate(stages):
        yield i, _by_dim(stage.dim, partial(tally_lateral, side=sides[i]))
    shared = [tally(base).totals() for tally in (tally_pyramid, tally_masks)]
    check_range(max(map(max, shared)), "stages")
    yield last, np.broadcast_to(np.array(shared, dtype=np.int64).sum(axis=0), (stages[-1].size, 2))


def _by_dim(dims: IntArray, tally: Callable[[Any], Tally]) -> IntArray:
    """[n, 2] params and FLOPs of what depends on the channels alone: a closed form that takes all dims at once."""
    check_range(max(tally(int(dims.max())).totals()), "stages")
    return np.stack(np.broadcast_arrays(*tally(dims).totals()), axis=1)
