"""A whole space as arrays: params and FLOPs of millions of architectures a second, by lookup and addition.

An architecture is a row of integers, one option index a stage; a stage's options are every combination of its
parameters, in the order of `itertools.product`. What a network costs is a sum over its stages and the transitions
between them, and every summand comes from `counts.py`, so that there is one source of truth: a stage is its blocks'
ratios times the cost of one block of that ratio, plus its attention blocks; a transition is linear in the channels
that enter it. The tests hold the sums against `count_model`.

Counts are int64. A space that could leave its range is refused when the tables are built.

Shapes: N architectures, S stages, n options of one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil, floor, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.counts import Tally, tally_downsample, tally_head, tally_stage, tally_stem
from modscale.errors import InputError
from modscale.space import Bounds, Parameter, SearchSpace
from modscale.spec import STAGE_KEYS, ModelSpec, StageSpec, network_key

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MAX_COUNT = 2**62
"""No architecture of a tabled space reaches this many params or FLOPs: half of int64's range, so sums are safe."""
MAX_TABLED_OPTIONS = 5_000_000
"""Combinations of options over all stages together: about 0.4 GB of tables."""
CHUNK = 1 << 15
"""Architectures counted at a time: the intermediate sums stay in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTable:
    """Every option of one stage and what it costs."""

    parameters: tuple[Parameter, ...]
    """The stage's parameters; the last one varies fastest over the options."""
    dim: IntArray
    """[n] channels."""
    params: IntArray
    """[n] learned numbers of the stage's blocks."""
    flops: IntArray
    """[n] multiply-adds of the stage's blocks on one image."""
    network: IntArray
    """[n] the option that stands for all options with the same network (`StageSpec.canonical`)."""

    @property
    def size(self) -> int:
        return len(self.dim)

    def values(self, index: int) -> tuple[Any, ...]:
        """The value of each parameter at option `index`."""
        places = np.unravel_index(index, [len(p.options) for p in self.parameters])
        return tuple(p.options[place] for p, place in zip(self.parameters, places, strict=True))

    def spec(self, index: int) -> StageSpec:
        fields = (p.field(value) for p, value in zip(self.parameters, self.values(index), strict=True))
        return StageSpec(**dict(fields))


@dataclass(frozen=True, kw_only=True)
class SpaceTables:
    """A space's stages as tables, and what joins them."""

    space: SearchSpace
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
        rows = np.asarray(options)
        totals = np.empty((len(rows), 2), dtype=np.int64)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            total = self.cost[0].take(chunk[:, 0], axis=0)
            for i in range(1, len(self.stages)):
                total += self.cost[i].take(chunk[:, i], axis=0)
                entering = self.stages[i - 1].dim.take(chunk[:, i - 1])
                total += entering[:, None] * self.slope[i].take(chunk[:, i], axis=0)
            totals[start : start + CHUNK] = total
        return totals[:, 0], totals[:, 1]

    def widths(self, options: IntArray) -> IntArray:
        """[N, S] channels of every stage."""
        columns = [stage.dim.take(options[:, i]) for i, stage in enumerate(self.stages)]
        return np.stack(columns, axis=1)

    def feasible(self, options: IntArray) -> BoolArray:
        """[N] which architectures meet all of the space's constraints."""
        constraints = self.space.constraints
        params, flops = self.count(options)
        mask = within(params, constraints.params) & within(flops, constraints.flops)
        if constraints.nondecreasing_widths:
            widths = self.widths(options)
            mask &= (widths[:, 1:] >= widths[:, :-1]).all(axis=1)
        return mask

    def networks(self, options: IntArray) -> IntArray:
        """[N, S] each architecture as the one that stands for its network: equal rows are the same network."""
        return np.stack([stage.network.take(options[:, i]) for i, stage in enumerate(self.stages)], axis=1)

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """[n, S] architectures drawn uniformly, with replacement."""
        return rng.integers(0, self.sizes, size=(n, len(self.stages)), dtype=np.int64)

    def choice(self, row: IntArray) -> dict[str, Any]:
        """Parameter name to option, for every parameter with a choice, as Optuna holds a trial."""
        return {
            parameter.name: value
            for stage, index in zip(self.stages, row, strict=True)
            for parameter, value in zip(stage.parameters, stage.values(int(index)), strict=True)
            if len(parameter.options) > 1
        }

    def row(self, choice: Mapping[str, Any]) -> IntArray:
        """[S] the option indices of a choice; KeyError without a parameter, ValueError for what is not an option."""
        return np.array([_option_index(stage.parameters, choice) for stage in self.stages], dtype=np.int64)

    def spec(self, row: IntArray, *, name: str | None = None) -> ModelSpec:
        """The architecture of one row of option indices."""
        return self.space.spec(self.choice(row), name=name)

    def find(self, spec: ModelSpec) -> IntArray | None:
        """[S] option indices of the network of `spec`, or None where the space does not hold it."""
        if len(spec.stages) != len(self.stages):
            return None
        found: dict[str, Any] = {}
        for stage, table in zip(spec.stages, self.stages, strict=True):
            for parameter in table.parameters:
                same = [value for value in parameter.options if _same_network(stage, parameter, value)]
                if not same:
                    return None
                exact = [value for value in same if parameter.field(value)[1] == getattr(stage, parameter.field(0)[0])]
                found[parameter.name] = (exact or same)[0]
        row = self.row(found)
        return row if network_key(self.spec(row)) == network_key(spec) else None


def build_tables(space: SearchSpace) -> SpaceTables:
    """The tables of a space.

    Raises:
        InputError: more options than the tables hold, or counts that could leave int64.
    """
    by_stage = [space.stage_parameters(i) for i in range(space.num_stages)]
    combinations = [prod(len(p.options) for p in parameters) for parameters in by_stage]
    if sum(combinations) > MAX_TABLED_OPTIONS:
        rule = f"may have {MAX_TABLED_OPTIONS:,} combinations of options over all stages, each stage by itself"
        raise InputError(rule, place="stages", value=sum(combinations))
    sides = space.base.sides()
    layer_scale = space.base.layer_scale
    stages = tuple(
        _build_stage(parameters, base, side, layer_scale, i)
        for i, (parameters, base, side) in enumerate(zip(by_stage, space.base.stages, sides, strict=True))
    )
    largest = sum(max(int(stage.params.max()), int(stage.flops.max())) for stage in stages)
    cost: list[IntArray] = []
    slope: list[IntArray] = []
    for i, stage in enumerate(stages):
        own = np.stack([stage.params, stage.flops], axis=1)
        if i == 0:
            entry = _by_dim(stage.dim, lambda dim: tally_stem(space.base, dim))
            slope.append(np.zeros_like(own))
        else:
            side = sides[i]
            # Linear in the channels that enter: two values fix the line, and thousands of dims need no square table.
            one = _by_dim(stage.dim, lambda dim, side=side: tally_downsample(1, dim, side))  # type: ignore[misc]
            two = _by_dim(stage.dim, lambda dim, side=side: tally_downsample(2, dim, side))  # type: ignore[misc]
            slope.append(two - one)
            entry = one - slope[i]
            largest += int(stages[i - 1].dim.max()) * int(slope[i].max())
        largest += int(entry.max())
        cost.append(own + entry)
    head = _by_dim(stages[-1].dim, lambda dim: tally_head(dim, sides[-1], space.base.num_classes))
    cost[-1] += head
    _check_range(largest + int(head.max()), "stages")
    return SpaceTables(space=space, stages=stages, cost=tuple(cost), slope=tuple(slope))


def within(values: IntArray, bounds: Bounds) -> BoolArray:
    """Which counts lie in the closed interval `bounds`, compared as whole numbers."""
    low, high = whole_bounds(bounds)
    return (values >= low) & (values <= high)


def whole_bounds(bounds: Bounds) -> tuple[int, int]:
    """The smallest and the largest whole number that `bounds` allows, clipped to the range of tabled counts."""
    low = 0 if bounds.min is None else min(max(ceil(bounds.min), 0), MAX_COUNT)
    high = MAX_COUNT if bounds.max is None else max(min(floor(bounds.max), MAX_COUNT), -1)
    return low, high


def _build_stage(
    parameters: tuple[Parameter, ...], base: StageSpec, side: int, layer_scale: float | None, index: int
) -> StageTable:
    """One stage's table: filled over the axes of `STAGE_KEYS`, then laid out in the order of its parameters."""
    axes: dict[str, list[Any]] = {key: [getattr(base, key)] for key in STAGE_KEYS}
    for parameter in parameters:
        axes[parameter.field(parameter.options[0])[0]] = [parameter.field(option)[1] for option in parameter.options]
    order = [parameter.field(parameter.options[0])[0] for parameter in parameters]
    order += [key for key in STAGE_KEYS if key not in order]
    strides = {key: prod(len(axes[later]) for later in order[i + 1 :]) for i, key in enumerate(order)}

    shape = [len(axes[key]) for key in STAGE_KEYS]
    permutation = [STAGE_KEYS.index(key) for key in order]

    def lay_out(values: IntArray) -> IntArray:
        return np.ascontiguousarray(np.broadcast_to(values, shape).transpose(permutation)).reshape(-1)

    params, flops = _stage_costs(axes, base, side, layer_scale, f"stages[{index}]")
    return StageTable(
        parameters=parameters,
        dim=lay_out(_along("dim", np.array(axes["dim"], dtype=np.int64))),
        params=lay_out(params),
        flops=lay_out(flops),
        network=lay_out(_same_networks(axes, base, strides)),
    )


def _stage_costs(
    axes: dict[str, list[Any]], base: StageSpec, side: int, layer_scale: float | None, place: str
) -> tuple[IntArray, IntArray]:
    """Params and FLOPs over the axes of `STAGE_KEYS` (those without effect have length 1)."""

    def one_block(**values: Any) -> tuple[int, int]:
        return tally_stage(replace(base, depth=1, attention_depth=0, **values), side, layer_scale).totals()

    def one_attention(dim: int, ratio: float) -> tuple[int, int]:
        bare = replace(base, dim=dim, depth=1, attention_mlp_ratio=ratio)
        with_one = tally_stage(replace(bare, attention_depth=1), side, layer_scale).totals()
        without = tally_stage(replace(bare, attention_depth=0), side, layer_scale).totals()
        return with_one[0] - without[0], with_one[1] - without[1]

    ratios = sorted({ratio for cycle in axes["mlp_ratios"] for ratio in cycle})
    block_keys = ("dim", "kernel_size", "block", "context")
    grid = list(product(ratios, *(axes[key] for key in block_keys)))
    blocks = [one_block(mlp_ratios=(ratio,), **dict(zip(block_keys, values, strict=True))) for ratio, *values in grid]
    deepest = max(axes["attention_depth"])
    attentions = [
        one_attention(dim, ratio) if deepest else (0, 0)
        for dim, ratio in product(axes["dim"], axes["attention_mlp_ratio"])
    ]
    _check_range(max(map(max, blocks)) * max(axes["depth"]) + max(map(max, attentions)) * deepest, place)

    depths = np.array(axes["depth"], dtype=np.int64)
    block_shape = [len(axes[key]) for key in block_keys]
    per_ratio = np.array(blocks, dtype=np.int64).T.reshape(2, len(ratios), *block_shape)
    conv = np.empty((2, len(axes["mlp_ratios"]), len(depths), *block_shape), dtype=np.int64)
    for i, cycle in enumerate(axes["mlp_ratios"]):
        conv[:, i] = np.einsum("dr,cr...->cd...", _ratio_counts(cycle, ratios, depths), per_ratio)
    attention = np.array(attentions, dtype=np.int64).T.reshape(2, len(axes["dim"]), -1)

    # conv: [2, mlp_ratios, depth, dim, kernel_size, block, context] to the order of STAGE_KEYS
    costs = conv.transpose(0, 3, 2, 1, 4, 5, 6)[:, :, :, :, :, None, None, :, :, None]
    deep = np.array(axes["attention_depth"], dtype=np.int64)
    costs = costs + (attention[:, :, None, :] * deep[:, None])[:, :, None, None, None, :, :, None, None, None]
    return costs[0], costs[1]


def _ratio_counts(cycle: tuple[int, ...], ratios: list[int], depths: IntArray) -> IntArray:
    """[depths, ratios] how many of a stage's blocks have each ratio."""
    seen = np.zeros((len(cycle) + 1, len(ratios)), dtype=np.int64)
    for i, ratio in enumerate(cycle):
        seen[i + 1] = seen[i]
        seen[i + 1, ratios.index(ratio)] += 1
    return (depths // len(cycle))[:, None] * seen[-1] + seen[depths % len(cycle)]


def _same_networks(axes: dict[str, list[Any]], base: StageSpec, strides: dict[str, int]) -> IntArray:
    """The flat index of each option's stand-in, over the axes of `STAGE_KEYS`.

    `StageSpec.canonical` decides; it is asked once for each way in which fields interact, not for each option.
    """
    total = np.zeros([1] * len(STAGE_KEYS), dtype=np.int64)
    for key in ("dim", "depth", "attention_depth"):
        total = total + _along(key, np.arange(len(axes[key]), dtype=np.int64) * strides[key])

    first_ratio = _first_equal_prefix(axes["mlp_ratios"], axes["depth"]) * strides["mlp_ratios"]
    total = total + _along("depth", first_ratio)

    ratio = np.arange(len(axes["attention_mlp_ratio"]), dtype=np.int64) * strides["attention_mlp_ratio"]
    has_attention = np.array([depth > 0 for depth in axes["attention_depth"]])
    total = total + _along("attention_depth", np.where(has_attention[:, None], ratio, 0))

    keys = ("kernel_size", "block", "context", "fusion")
    first: dict[StageSpec, int] = {}
    stand_in = []
    for places in product(*(range(len(axes[key])) for key in keys)):
        values = {key: axes[key][place] for key, place in zip(keys, places, strict=True)}
        flat = sum(place * strides[key] for key, place in zip(keys, places, strict=True))
        stand_in.append(first.setdefault(replace(base, **values).canonical(), flat))
    block = np.array(stand_in, dtype=np.int64).reshape([len(axes[key]) for key in keys])
    return total + block[None, None, None, :, None, None, :, :, :]


def _first_equal_prefix(cycles: list[tuple[int, ...]], depths: list[int]) -> IntArray:
    """[depths, cycles] the first cycle with the same ratios over that many blocks."""
    first = np.zeros((len(depths), len(cycles)), dtype=np.int64)
    wanted = {depth: i for i, depth in enumerate(depths)}
    group = np.zeros(len(cycles), dtype=np.int64)  # cycles with equal ratios so far share a number
    for depth in range(1, max(depths) + 1):
        last = np.array([cycle[(depth - 1) % len(cycle)] for cycle in cycles], dtype=np.int64)
        _, members, group = np.unique(group * (last.max() + 1) + last, return_index=True, return_inverse=True)
        if depth in wanted:
            first[wanted[depth]] = members[group]
    return first


def _along(key: str, values: IntArray) -> IntArray:
    """`values` as a view whose axes start at the axis of `key`, the others of length 1."""
    start = STAGE_KEYS.index(key)
    return values.reshape([1] * start + list(values.shape) + [1] * (len(STAGE_KEYS) - start - values.ndim))


def _by_dim(dims: IntArray, tally: Callable[[int], Tally]) -> IntArray:
    """[n, 2] params and FLOPs of what depends on a stage's channels alone."""
    distinct, place = np.unique(dims, return_inverse=True)
    totals = [tally(int(dim)).totals() for dim in distinct]
    for pair in totals:
        _check_range(max(pair), "stages")
    return np.array(totals, dtype=np.int64)[place]


def _check_range(largest: int, place: str) -> None:
    if largest >= MAX_COUNT:
        raise InputError(
            f"must keep params and FLOPs of every architecture below {MAX_COUNT:.2g}", place=place, value=largest
        )


def _option_index(parameters: tuple[Parameter, ...], choice: Mapping[str, Any]) -> int:
    index = 0
    for parameter in parameters:
        fixed = len(parameter.options) == 1
        place = 0 if fixed else parameter.options.index(choice[parameter.name])
        index = index * len(parameter.options) + place
    return index


def _same_network(stage: StageSpec, parameter: Parameter, value: Any) -> bool:
    field, field_value = parameter.field(value)
    return replace(stage, **{field: field_value}).canonical() == stage.canonical()
