"""One stage of a space as arrays: what each of its options costs, and which options are the same network.

A stage's options are every combination of its parameters, in the order of `itertools.product`. A stage costs its
blocks of each ratio times the cost of one such block, plus its attention blocks; the cost of one block comes from
`specs/counts.py`. The tests hold the tables against `count_model` and `canonical_stage`.

Shapes: n options of the stage; columns of costs are params (0) and FLOPs (1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from modscale.arrays import MAX_COUNT, BoolArray, IntArray
from modscale.errors import InputError
from modscale.spaces.space import Parameter
from modscale.specs.counts import tally_stage
from modscale.specs.sameness import canonical_stage
from modscale.specs.spec import STAGE_KEYS, StageSpec

KIND_KEYS = ("kernel_size", "block", "context")
Values = Mapping[str, list[Any]]
Places = Mapping[str, IntArray]
"""By stage key the values that it may take, and [n] the place among them of each option's value."""


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
    """[n] the option that stands for all options with the same network (`canonical_stage`)."""

    @property
    def size(self) -> int:
        return len(self.dim)

    @property
    def stands(self) -> BoolArray:
        """[n] whether an option stands for its network."""
        return self.network == np.arange(self.size)

    @property
    def shape(self) -> list[int]:
        """Options of each parameter."""
        return [len(parameter.options) for parameter in self.parameters]

    def values(self, index: int) -> tuple[Any, ...]:
        """The value of each parameter at option `index`."""
        places = np.unravel_index(index, self.shape)
        return tuple(p.options[place] for p, place in zip(self.parameters, places, strict=True))

    def spec(self, index: int) -> StageSpec:
        fields = (p.field(value) for p, value in zip(self.parameters, self.values(index), strict=True))
        return StageSpec(**dict(fields))


def build_stage_table(
    parameters: tuple[Parameter, ...], base: StageSpec, side: int, layer_scale: float | None, index: int
) -> StageTable:
    """The table of stage `index`, of `side` x `side` tokens. Raises InputError where a count could leave int64."""
    shape = [len(parameter.options) for parameter in parameters]
    places = np.unravel_index(np.arange(prod(shape)), shape)
    values: dict[str, list[Any]] = {key: [getattr(base, key)] for key in STAGE_KEYS}
    place = dict.fromkeys(STAGE_KEYS, np.broadcast_to(np.int64(0), prod(shape)))
    stride = dict.fromkeys(STAGE_KEYS, 0)
    for i, parameter in enumerate(parameters):
        key = parameter.field(parameter.options[0])[0]
        values[key] = [parameter.field(option)[1] for option in parameter.options]
        place[key], stride[key] = places[i], prod(shape[i + 1 :])
    return StageTable(
        parameters=parameters,
        dim=np.array(values["dim"], dtype=np.int64)[place["dim"]],
        cost=_costs(values, place, base, side, layer_scale, f"stages[{index}]"),
        network=_stand_ins(values, place, stride, base),
    )


def _costs(
    values: Values, place: Places, base: StageSpec, side: int, layer_scale: float | None, where: str
) -> IntArray:
    """[n, 2] what each option costs."""

    def block(dim: Any, ratio: Any, kind: Mapping[str, Any], **attention: Any) -> tuple[Any, Any]:
        one = replace(base, dim=dim, depth=1, mlp_ratios=(ratio,), **{"attention_depth": 0, **kind, **attention})
        return tally_stage(one, side, layer_scale).totals()

    def attention(dim: int, ratio: float) -> tuple[int, int]:
        with_one = block(dim, 1, {}, attention_depth=1, attention_mlp_ratio=ratio)
        without = block(dim, 1, {})
        return with_one[0] - without[0], with_one[1] - without[1]

    dims, depths, deepest = values["dim"], values["depth"], max(values["attention_depth"])
    ratios = sorted({ratio for cycle in values["mlp_ratios"] for ratio in cycle})
    kinds = [dict(zip(KIND_KEYS, kind, strict=True)) for kind in product(*(values[key] for key in KIND_KEYS))]
    pairs = product(dims, values["attention_mlp_ratio"])
    attentions = [attention(*pair) if deepest else (0, 0) for pair in pairs]
    dearest = max(max(block(max(dims), ratios[-1], kind)) for kind in kinds)
    check_range(dearest * max(depths) + max(map(max, attentions)) * deepest, where)

    # The closed forms are sums and products: they take all dims [D] and ratios [R, 1] at once, none of them too large.
    blocks = np.empty((len(kinds), len(ratios), len(dims), 2), dtype=np.int64)
    for i, kind in enumerate(kinds):
        params, flops = block(np.array(dims, dtype=np.int64), np.array(ratios, dtype=np.int64)[:, None], kind)
        blocks[i, :, :, 0], blocks[i, :, :, 1] = params, flops
    kind_place = np.ravel_multi_index([place[key] for key in KIND_KEYS], [len(values[key]) for key in KIND_KEYS])
    by_attention = np.array(attentions, dtype=np.int64).reshape(len(dims), -1, 2)
    cost = by_attention[place["dim"], place["attention_mlp_ratio"]]
    cost *= np.array(values["attention_depth"], dtype=np.int64)[place["attention_depth"], None]
    for ratio, number in _ratio_counts(values["mlp_ratios"], ratios, depths):
        of_ratio = blocks[kind_place, ratio[place["mlp_ratios"]], place["dim"]]
        cost += number[place["mlp_ratios"], place["depth"], None] * of_ratio
    return cost


def _ratio_counts(
    cycles: Sequence[tuple[int, ...]], ratios: list[int], depths: Sequence[int]
) -> list[tuple[IntArray, IntArray]]:
    """The j-th ratio of each cycle, [cycles] by its place in `ratios`, and [cycles, depths] how many blocks have it."""
    own, whole_depths = [sorted(set(cycle)) for cycle in cycles], np.array(depths, dtype=np.int64)
    found = []
    for j in range(max(map(len, own))):
        place, number = np.zeros(len(cycles), dtype=np.int64), np.zeros((len(cycles), len(depths)), dtype=np.int64)
        for i, cycle in enumerate(cycles):
            if j < len(own[i]):
                seen = np.r_[0, np.cumsum(np.array(cycle) == own[i][j])]
                whole, rest = np.divmod(whole_depths, len(cycle))
                place[i], number[i] = ratios.index(own[i][j]), whole * seen[-1] + seen[rest]
        found.append((place, number))
    return found


def _stand_ins(values: Values, place: Places, stride: Mapping[str, int], base: StageSpec) -> IntArray:
    """[n] each option's stand-in: the first with the same network.

    `canonical_stage` decides; it is asked once for each way in which fields interact, not for each option.
    """
    cycle = _first_equal_prefix(values["mlp_ratios"], values["depth"])
    hidden = _first_equal_hidden(values["dim"], values["attention_mlp_ratio"])
    has_attention = np.array(values["attention_depth"])[place["attention_depth"]] > 0

    keys = (*KIND_KEYS, "fusion")
    lengths = [len(values[key]) for key in keys]
    first: dict[StageSpec, int] = {}
    kind = np.empty(prod(lengths), dtype=np.int64)  # of each combination of `keys`, the index of its stand-in
    for i, places in enumerate(product(*map(range, lengths))):
        fields = {key: values[key][p] for key, p in zip(keys, places, strict=True)}
        index = sum(p * stride[key] for key, p in zip(keys, places, strict=True))
        kind[i] = first.setdefault(canonical_stage(replace(base, **fields)), index)

    stand_in = kind[np.ravel_multi_index([place[key] for key in keys], lengths)]
    for key in ("dim", "depth", "attention_depth"):
        stand_in += place[key] * stride[key]
    stand_in += cycle[place["depth"], place["mlp_ratios"]] * stride["mlp_ratios"]
    ratio = hidden[place["dim"], place["attention_mlp_ratio"]]
    return stand_in + np.where(has_attention, ratio, 0) * stride["attention_mlp_ratio"]


def _first_equal_prefix(cycles: Sequence[tuple[int, ...]], depths: Sequence[int]) -> IntArray:
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


def _first_equal_hidden(dims: Sequence[int], ratios: Sequence[float]) -> IntArray:
    """[dims, ratios] the first ratio with the same hidden width of the attention's MLP."""
    widths = [[StageSpec(dim=dim, depth=1, attention_mlp_ratio=r).attention_hidden() for r in ratios] for dim in dims]
    return np.array([[hidden.index(width) for width in hidden] for hidden in widths], dtype=np.int64)


def check_range(largest: int, place: str) -> None:
    """Raises InputError where a count could leave int64."""
    if largest >= MAX_COUNT:
        rule = f"must keep params and FLOPs of every architecture below {MAX_COUNT:.2g}"
        raise InputError(rule, place=place, value=largest)
