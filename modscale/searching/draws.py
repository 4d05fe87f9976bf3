"""Architectures drawn at random for a search: feasible, and none that was drawn before.

Each draw is given a generator of its own, so that it depends on the search's seed, the trial's number and what was
taken before, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from modscale.arrays import FloatArray, IntArray
from modscale.errors import InputError
from modscale.spaces.space import Space
from modscale.spaces.tables import CHUNK, SpaceTables
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

BATCH = 2048
"""Architectures drawn at a time."""
MOST_TRIED = 256
"""Architectures of a step of sizes that are looked at, before one of any size is taken."""
MIN_ACCEPTANCE = 1e-3
"""Below this share of feasible draws, drawing and rejecting gives way to listing what is feasible."""
REJECTION_DRAWS = 1 << 17
"""Draws after which the share is judged."""
MAX_LISTED = 2_000_000
"""Feasible architectures that are listed at most, to be drawn from."""


class SpaceExhausted(Exception):  # a signal within `searching`, never seen outside
    """No feasible architecture is left to try."""


class Draws:
    """What is left to try of a space: every architecture that it gives out is feasible and new."""

    def __init__(
        self,
        space: Space,
        tables: SpaceTables,
        *,
        steps: int,
        seed: int,
        allows: Callable[[ModelSpec], bool] = lambda spec: True,
    ) -> None:
        """`steps` of log(params) are what `spread` draws from; `allows` says what may be tried besides."""
        self.space = space
        self.tables = tables
        self.steps = steps
        self.seed = seed
        self.allows = allows
        self.taken: set[Any] = set()
        self.edges: FloatArray | None = None

    def take(self, spec: ModelSpec) -> None:
        """This network has been tried, or is about to be."""
        self.taken.add(network_key(spec))

    def is_new(self, options: Mapping[str, Any]) -> bool:
        """Whether no such network was taken, and it is allowed."""
        spec = self.space.spec(options)
        return network_key(spec) not in self.taken and self.allows(spec)

    def is_feasible(self, options: Mapping[str, Any]) -> bool:
        """Whether the architecture meets every constraint."""
        return bool(self.tables.feasible(self.tables.row(options)[None])[0])

    def spread(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        """The architecture of start-up trial `number`: uniform among the feasible ones in its step of log(params).

        Equal steps, between the least and the most of a first sample, are taken in shuffled order: uniform draws alone
        would leave the small networks out, since most architectures of a space are near its largest.

        Raises:
            SpaceExhausted: nothing is left.
        """
        steps = self.steps
        if self.edges is None:  # the same steps for every trial, also after a restart
            first = self._log_params(self.rows(np.random.default_rng([self.seed]), 4 * BATCH))
            self.edges = np.linspace(first.min(), first.max() + 1e-9, steps + 1)
        edges = self.edges
        step = np.random.default_rng([self.seed]).permutation(steps)[number % steps]
        drawn = self.rows(rng, 4 * BATCH)
        size = np.clip(self._log_params(drawn), edges[0], edges[-1])  # what lies beyond belongs to the outermost steps
        distance = np.abs(size - (edges[step] + edges[step + 1]) / 2)
        inside = distance <= (edges[1] - edges[0]) / 2
        for row in [*np.flatnonzero(inside)[:MOST_TRIED], *np.argsort(distance)[:MOST_TRIED]]:
            options = self.tables.choice(drawn[row])
            if self.is_new(options):
                return options
        return self.uniform(rng)

    def uniform(self, rng: np.random.Generator) -> dict[str, Any]:
        """A feasible, new architecture drawn uniformly; what is left of a small space is searched through.

        Raises:
            SpaceExhausted: nothing is left.
        """
        for rows in (self.rows(rng, 1 + 8 * len(self.taken)), iter_feasible(self.tables)):
            for row in rows:
                options = self.tables.choice(row)
                if self.is_new(options):
                    return options
        raise SpaceExhausted

    def rows(self, rng: np.random.Generator, n: int) -> IntArray:
        """[n, S] feasible architectures drawn uniformly, with replacement.

        Draws and rejects; where nearly all is rejected, lists what is feasible and draws from the list. Only where
        the list is too long for memory as well are the draws from its first `MAX_LISTED` entries.

        Raises:
            InputError: nothing is feasible.
        """
        found, drawn = np.empty((0, len(self.tables.stages)), dtype=np.int64), 0
        while len(found) < n:
            if drawn >= REJECTION_DRAWS and len(found) < MIN_ACCEPTANCE * drawn:
                rows = self._listed
                if not len(rows):
                    raise InputError("no architecture satisfies all constraints", place="constraints")
                return rows[rng.integers(0, len(rows), size=n)]
            batch = self.tables.sample(rng, max(2 * n, 1024))
            drawn += len(batch)
            found = np.concatenate([found, batch[self.tables.feasible(batch)]])
        return found[:n]

    def neighbours(self, rng: np.random.Generator, rows: IntArray, n: int) -> IntArray:
        """[at most n, S] feasible architectures that differ from one of `rows` in one or two searched parameters."""
        shapes = [stage.shape for stage in self.tables.stages]
        sizes = np.array([options for shape in shapes for options in shape])
        searched = np.flatnonzero(sizes > 1)
        if not len(searched):
            return rows[:0]
        picked = rows[rng.integers(0, len(rows), size=n)]
        places = np.concatenate(
            [np.stack(np.unravel_index(picked[:, i], shape), axis=1) for i, shape in enumerate(shapes)], axis=1
        )
        line, first = np.arange(n), searched[rng.integers(0, len(searched), size=n)]
        second = searched[rng.integers(0, len(searched), size=n)]
        for column, moves in ((first, np.ones(n, dtype=bool)), (second, second != first)):
            step = rng.integers(1, sizes[column]) * moves  # never all the way round
            places[line, column] = (places[line, column] + step) % sizes[column]
        ends = np.cumsum([len(shape) for shape in shapes])[:-1]
        stages = zip(np.split(places, ends, axis=1), shapes, strict=True)
        moved = np.stack([np.ravel_multi_index(tuple(part.T), shape) for part, shape in stages], axis=1)
        return moved[self.tables.feasible(moved)]

    @cached_property
    def _listed(self) -> IntArray:
        """The feasible architectures, `MAX_LISTED` at most."""
        blocks = [np.empty((0, len(self.tables.stages)), dtype=np.int64)]
        for block in _feasible_blocks(self.tables):
            blocks.append(block)
            if sum(map(len, blocks)) >= MAX_LISTED:
                break
        return np.concatenate(blocks)[:MAX_LISTED]

    def _log_params(self, rows: IntArray) -> FloatArray:
        return np.log(self.tables.count(rows)[0].astype(np.float64))


def iter_feasible(tables: SpaceTables) -> Iterator[IntArray]:
    """Every feasible architecture [S], in the order of `itertools.product`."""
    for block in _feasible_blocks(tables):
        yield from block


def _feasible_blocks(tables: SpaceTables) -> Iterator[IntArray]:
    """[N, S] the same, many at a time."""
    return _complete(tables, np.empty((1, 0), dtype=np.int64), np.zeros((1, 2), dtype=np.int64))


def _complete(tables: SpaceTables, rows: IntArray, totals: IntArray) -> Iterator[IntArray]:
    """Blocks of feasible architectures that begin with `rows` [N, i], dropping what no later stage can mend."""
    constraints, i = tables.space.constraints, rows.shape[1]
    if i == len(tables.stages):
        yield rows
        return
    limits = np.array([constraints.params.whole(), constraints.flops.whole()])
    least, most = tables.rest[i]
    step = max(1, CHUNK // tables.stages[i].size)
    for start in range(0, len(rows), step):
        head, total = rows[start : start + step], totals[start : start + step]
        grown = total[:, None, :] + tables.cost[i]
        entering = tables.stages[i - 1].dim.take(head[:, -1]) if i else np.zeros(len(head), dtype=np.int64)
        grown += entering[:, None, None] * tables.slope[i]
        keep = ((grown + least <= limits[:, 1]) & (grown + most >= limits[:, 0])).all(axis=2)
        if constraints.nondecreasing_widths:
            keep &= tables.stages[i].dim >= entering[:, None]
        which, option = np.nonzero(keep)
        if len(which):
            yield from _complete(tables, np.column_stack([head[which], option]), grown[which, option])
