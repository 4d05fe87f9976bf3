"""One stage of a space as arrays: what each of its options costs, and which options are the same network.

A stage's options are every combination of its parameters, in the order of `itertools.product`. A stage costs its
blocks of each ratio times the cost of one such block, plus its attention blocks; the cost of one block comes from
`counts.py`, so that there is one source of truth. The tests hold the tables against `count_model` and
`StageSpec.canonical`.

Shapes: n options of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modscale.counts import tally_stage
from modscale.errors import InputError
from modscale.space import Parameter
from modscale.spec import STAGE_KEYS, StageSpec

IntArray = NDArray[np.int64]

MAX_COUNT = 2**62
"""No architecture of a tabled space reaches this many params or FLOPs: half of int64's range, so sums are safe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTable:
    """Every option of one stage and what it costs."""

    parameters: tuple[Parameter, ...]
    """The stage's parameters; the last one varies fastest over the options."""
    dim: IntArray
    """[n] channels."""
    cost: IntArray
    """[n, 2] params and FLOPs of the stage's blocks."""
    network: IntArray
    """[n] the option that stands for all options with the same network (`StageSpec.canonical`)."""

    @property
    def size(self) -> int:
        return len(self.dim)

    @property
    def params(self) -> IntArray:
        """[n] learned numbers of the stage's blocks."""
        return self.cost[:, 0]

    @property
    def flops(self) -> IntArray:
        """[n] multiply-adds of the stage's blocks on one image."""
        return self.cost[:, 1]

    def values(self, index: int) -> tuple[Any, ...]:
        """The value of each parameter at option `index`."""
        places = np.unravel_index(index, [len(p.options) for p in self.parameters])
        return tuple(p.options[place] for p, place in zip(self.parameters, places, strict=True))

    def spec(self, index: int) -> StageSpec:
        fields = (p.field(value) for p, value in zip(self.parameters, self.values(index), strict=True))
        return StageSpec(**dict(fields))


def build_stage_table(
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
        cost=np.stack([lay_out(params), lay_out(flops)], axis=1),
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
    check_range(max(map(max, blocks)) * max(axes["depth"]) + max(map(max, attentions)) * deepest, place)

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

    ratio = _first_equal_hidden(axes["dim"], axes["attention_mlp_ratio"]) * strides["attention_mlp_ratio"]
    has_attention = np.array([depth > 0 for depth in axes["attention_depth"]])
    # [dim, attention_depth, attention_mlp_ratio]
    stand_in_ratio = np.where(has_attention[:, None], ratio[:, None, :], 0)
    total = total + stand_in_ratio[:, None, None, None, :, :, None, None, None]

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


def _first_equal_hidden(dims: list[int], ratios: list[float]) -> IntArray:
    """[dims, ratios] the first ratio with the same hidden width of the attention's MLP."""
    first = []
    for dim in dims:
        hidden = [StageSpec(dim=dim, depth=1, attention_mlp_ratio=ratio).attention_hidden() for ratio in ratios]
        first.append([hidden.index(width) for width in hidden])
    return np.array(first, dtype=np.int64)


def _along(key: str, values: IntArray) -> IntArray:
    """`values` as a view whose axes start at the axis of `key`, the others of length 1."""
    start = STAGE_KEYS.index(key)
    return values.reshape([1] * start + list(values.shape) + [1] * (len(STAGE_KEYS) - start - values.ndim))


def check_range(largest: int, place: str) -> None:
    """Raises InputError where a count could leave int64."""
    if largest >= MAX_COUNT:
        raise InputError(
            f"must keep params and FLOPs of every architecture below {MAX_COUNT:.2g}", place=place, value=largest
        )
