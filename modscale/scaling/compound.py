"""The compound ray of a network, and the networks around it.

Compound scaling is EfficientNet's (Tan & Le 2019, arXiv 1905.11946, section 3.3): one number phi multiplies depth by
alpha^phi, width by beta^phi and resolution by gamma^phi, with alpha beta^2 gamma^2 near 2, so that FLOPs grow about as
2^phi. Where we differ: attention blocks are depth too, and count beside the convolutional ones of their stage; widths
are rounded to the nearest multiple of 8 (or another step), depths to the nearest whole number of 1 or more (they
round depths up), resolution to steps of 32 pixels from the network's own; and since rounding alone misses a budget by
tens of percent, the networks a few steps off the ray are looked through as well.

Shapes: N networks, C coordinates: every width, every depth, every attention depth that is not 0, the resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np

from modscale.arrays import FloatArray, IntArray
from modscale.spaces.space import Constraints, Parameter, Space
from modscale.spaces.tables import build_tables
from modscale.specs.spec import MAX_DEPTH, MAX_DIM, MAX_RESOLUTION, STAGE_KEYS, ModelSpec

RESOLUTION_STEP = 32
"""Pixels between two resolutions."""
SMALLEST_PHI = -1000.0
"""Every width, depth and resolution is at its least here."""
MAX_NEIGHBOURS = 200_000
"""Networks looked through around a point of the ray, at one resolution."""
REACHES = (16, 8, 4, 2)
"""Steps by which a neighbour's coordinate may be off the ray: the most for which all combinations can be looked
through, or else the least, and only some coordinates at once."""
GROWN_KEYS = ("dim", "depth", "attention_depth")
LARGEST = {"dim": MAX_DIM, "depth": MAX_DEPTH, "attention_depth": MAX_DEPTH, "resolution": MAX_RESOLUTION}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingRule:
    """By how much one unit of phi multiplies each dimension of a network."""

    depth: float
    """alpha."""
    width: float
    """beta."""
    resolution: float
    """gamma; 1 leaves the resolution alone."""


EFFICIENTNET = ScalingRule(depth=1.2, width=1.1, resolution=1.15)
"""Found by the authors of EfficientNet by grid search at phi = 1."""
EFFICIENTMOD = ScalingRule(depth=1.2, width=1.022, resolution=1.0)
"""The way from xxs to s: a stage's blocks grow 1.92 times, its width 1.08 times (geometric means), one resolution."""
RULES = {"efficientnet": EFFICIENTNET, "efficientmod": EFFICIENTMOD}


@dataclass(frozen=True, kw_only=True)
class Ray:
    """All sizes of one network: the ray through it, in steps of whole blocks and channels."""

    base: ModelSpec
    """The network at phi = 0."""
    rule: ScalingRule
    width_step: int
    """Widths are multiples of this."""

    @cached_property
    def coordinates(self) -> tuple[tuple[int, str], ...]:
        """(stage, key) of each coordinate; the resolution, last, has stage -1."""
        stages = tuple(
            (i, key) for i, stage in enumerate(self.base.stages) for key in GROWN_KEYS if getattr(stage, key) > 0
        )
        return (*stages, (-1, "resolution"))

    @cached_property
    def start(self) -> IntArray:
        """[C] the base network's own values."""
        stages = self.base.stages
        values = [getattr(stages[i], key) if i >= 0 else self.base.resolution for i, key in self.coordinates]
        return np.array(values, dtype=np.int64)

    @cached_property
    def direction(self) -> FloatArray:
        """[C] growth of each coordinate's logarithm a unit of phi."""
        growth = {"dim": self.rule.width, "resolution": self.rule.resolution}
        return np.array([math.log(growth.get(key, self.rule.depth)) for _, key in self.coordinates])

    @cached_property
    def steps(self) -> IntArray:
        """[C] distance of two neighbouring values; 0 where the coordinate is fixed."""
        moving = RESOLUTION_STEP if self.direction[-1] else 0
        step = {"dim": self.width_step, "resolution": moving}
        return np.array([step.get(key, 1) for _, key in self.coordinates], dtype=np.int64)

    @cached_property
    def least(self) -> IntArray:
        """[C] smallest value of each coordinate."""
        lowest = self.steps.copy()
        stem = self.base.stem
        room = self.base.resolution - max(stem.kernel_size - 2 * stem.padding, 1)
        lowest[-1] = self.base.resolution - room // RESOLUTION_STEP * self.steps[-1]
        return lowest

    @cached_property
    def most(self) -> IntArray:
        """[C] largest value of each coordinate, on the grid of its steps."""
        limits = np.array([LARGEST[key] for _, key in self.coordinates], dtype=np.int64)
        return self.least + (limits - self.least) // np.maximum(self.steps, 1) * self.steps

    @cached_property
    def largest_phi(self) -> float:
        """Where the first coordinate reaches its largest value."""
        moving = self.direction > 0
        return float((np.log(self.most / self.start)[moving] / self.direction[moving]).min())

    def at(self, phi: float) -> IntArray:
        """[C] the network at `phi`, rounded."""
        exact = self.start * np.exp(np.clip(phi * self.direction, -60.0, 60.0))
        stride = np.maximum(self.steps, 1)
        rounded = self.least + np.floor((exact - self.least) / stride + 0.5).astype(np.int64) * self.steps
        return np.clip(rounded, self.least, self.most)

    def around(self, centre: IntArray) -> IntArray:
        """[N, C] the networks up to a few steps off `centre`, itself first; `REACHES` says how many.

        As many coordinates may be off at once as keep the number below `MAX_NEIGHBOURS`; the resolution is one more,
        by one step.
        """
        moving = np.flatnonzero(self.steps[:-1])
        reach = next((r for r in REACHES if (2 * r + 1) ** len(moving) <= MAX_NEIGHBOURS), REACHES[-1])
        offsets = [np.zeros((1, len(self.start)), dtype=np.int64)]
        total = 1
        for moved in range(1, len(moving) + 1):
            total += math.comb(len(moving), moved) * (2 * reach) ** moved
            if total > MAX_NEIGHBOURS:
                break
            one = [step for step in range(-reach, reach + 1) if step]
            moves = np.array(list(product(one, repeat=moved)), dtype=np.int64)
            for places in combinations(moving, moved):
                block = np.zeros((len(moves), len(self.start)), dtype=np.int64)
                block[:, places] = moves
                offsets.append(block)
        grid = np.concatenate(offsets)
        if self.steps[-1]:
            at_resolutions = np.repeat(grid[None], 3, axis=0)
            at_resolutions[1, :, -1], at_resolutions[2, :, -1] = -1, 1
            grid = at_resolutions.reshape(-1, grid.shape[1])
        values = centre + grid * self.steps
        inside = ((values >= self.least) & (values <= self.most)).all(axis=1)
        return values[inside]

    def distance(self, values: IntArray) -> FloatArray:
        """[N] distance of networks [N, C] from the ray, in the logarithms of their coordinates."""
        off = np.log(values / self.start)
        along = off @ self.direction / (self.direction @ self.direction)
        return np.linalg.norm(off - along[:, None] * self.direction, axis=1)

    def phi(self, values: IntArray) -> float:
        """The point of the ray nearest to one network [C]."""
        return float(np.log(values / self.start) @ self.direction / (self.direction @ self.direction))

    def spec(self, values: IntArray, name: str) -> ModelSpec:
        """The network of one row of values [C]."""
        changes: list[dict[str, Any]] = [{} for _ in self.base.stages]
        for (stage, key), value in zip(self.coordinates[:-1], values[:-1], strict=True):
            changes[stage][key] = int(value)
        stages = tuple(replace(stage, **change) for stage, change in zip(self.base.stages, changes, strict=True))
        return replace(self.base, name=name, resolution=int(values[-1]), stages=stages)

    def blocks(self, values: IntArray) -> IntArray:
        """[N] number of blocks of networks [N, C]."""
        deep = [key in ("depth", "attention_depth") for _, key in self.coordinates]
        return values[:, deep].sum(axis=1)

    def count(self, values: IntArray) -> tuple[IntArray, IntArray]:
        """(params [N], flops [N]) of networks [N, C]."""
        params, flops = np.empty(len(values), dtype=np.int64), np.empty(len(values), dtype=np.int64)
        for resolution in np.unique(values[:, -1]):
            chosen = values[:, -1] == resolution
            params[chosen], flops[chosen] = self._count_at(int(resolution), values[chosen])
        return params, flops

    def _count_at(self, resolution: int, values: IntArray) -> tuple[IntArray, IntArray]:
        """Counts by the tables of a space that holds every value there is."""
        options, places = zip(*(np.unique(column, return_inverse=True) for column in values.T[:-1]), strict=True)
        rows = np.zeros((len(values), len(self.base.stages)), dtype=np.int64)
        parameters = []
        for (stage, key), held, place in zip(self.coordinates[:-1], options, places, strict=True):
            parameters.append(Parameter(stage=stage, key=key, options=tuple(int(value) for value in held)))
            rows[:, stage] = rows[:, stage] * len(held) + place
        searched = {(parameter.stage, parameter.key) for parameter in parameters}
        parameters += [
            Parameter(stage=i, key=key, options=(getattr(stage, key),))
            for i, stage in enumerate(self.base.stages)
            for key in STAGE_KEYS
            if (i, key) not in searched
        ]
        space = Space(
            name=self.base.name,
            base=replace(self.base, resolution=resolution),
            parameters=tuple(parameters),
            constraints=Constraints(),
        )
        return build_tables(space).count(rows)


def largest_phi_within(ray: Ray, target: float, value: Callable[[IntArray], float]) -> float:
    """The largest phi whose rounded network [C] has at most `target`; an end of the ray where there is none or all do.

    `value` must not fall along the ray.
    """
    low, high = SMALLEST_PHI, ray.largest_phi
    if value(ray.at(high)) <= target:
        return high
    if value(ray.at(low)) > target:
        return low
    while high - low > 1e-4:
        middle = (low + high) / 2
        if value(ray.at(middle)) <= target:
            low = middle
        else:
            high = middle
    return low
