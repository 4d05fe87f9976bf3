"""Architectures drawn at random for a search: feasible, and none that was drawn before.

Each draw is given a generator of its own, so that it depends on the search's seed, the trial's number and what was
taken before, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modscale.arrays import FloatArray, IntArray
from modscale.spaces.space import Space
from modscale.spaces.tables import SpaceTables
from modscale.specs.spec import ModelSpec, network_key

BATCH = 2048
"""Architectures drawn at a time."""


class SpaceExhausted(Exception):  # a signal within `searching`, never seen outside
    """No feasible architecture is left to try."""


class Draws:
    """What is left to try of a space: every architecture that it gives out is feasible and new."""

    def __init__(self, space: Space, tables: SpaceTables, *, steps: int, seed: int) -> None:
        """`steps` of log(params) are what `spread` draws from."""
        self.space = space
        self.tables = tables
        self.steps = steps
        self.seed = seed
        self.taken: set[Any] = set()
        self.edges: FloatArray | None = None

    def take(self, spec: ModelSpec) -> None:
        """This network has been tried, or is about to be."""
        self.taken.add(network_key(spec))

    def is_new(self, options: Mapping[str, Any]) -> bool:
        """Whether no such network was taken."""
        return network_key(self.space.spec(options)) not in self.taken

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
            first = self._log_params(self.tables.sample_feasible(np.random.default_rng([self.seed]), 4 * BATCH))
            self.edges = np.linspace(first.min(), first.max() + 1e-9, steps + 1)
        edges = self.edges
        step = np.random.default_rng([self.seed]).permutation(steps)[number % steps]
        drawn = self.tables.sample_feasible(rng, 4 * BATCH)
        size = np.clip(self._log_params(drawn), edges[0], edges[-1])  # what lies beyond belongs to the outermost steps
        distance = np.abs(size - (edges[step] + edges[step + 1]) / 2)
        inside = distance <= (edges[1] - edges[0]) / 2
        for row in [*np.flatnonzero(inside), *np.argsort(distance)[:BATCH]]:
            options = self.tables.choice(drawn[row])
            if self.is_new(options):
                return options
        return self.uniform(rng)

    def uniform(self, rng: np.random.Generator) -> dict[str, Any]:
        """A feasible, new architecture drawn uniformly; what is left of a small space is searched through.

        Raises:
            SpaceExhausted: nothing is left.
        """
        for rows in (self.tables.sample_feasible(rng, 1 + 8 * len(self.taken)), self.tables.iter_feasible()):
            for row in rows:
                options = self.tables.choice(row)
                if self.is_new(options):
                    return options
        raise SpaceExhausted

    def _log_params(self, rows: IntArray) -> FloatArray:
        return np.log(self.tables.count(rows)[0].astype(np.float64))
