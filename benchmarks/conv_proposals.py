"""The search behind `xxs_conv` and `xs_conv`: every network that keeps the authors' habits, and what each rules out.

Run: `python benchmarks/conv_proposals.py`. It prints, for either size, how many networks round to the published params
and FLOPs with all habits kept and with each habit dropped in turn, and the nearest by each to the step s -> s_conv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from modscale.specs.counts import tally_downsample, tally_head, tally_stage, tally_stem
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec

HABITS = {
    "sixteens": "stage 3 is a multiple of 16 (128, 144, 160), stage 4 of 8",
    "blocks": "as many blocks in all as the hybrid has, attention blocks included (s: 28, s_conv: 28)",
    "early": "stages 1 and 2 keep the hybrid's depth (s: 4, 4, s_conv: 4, 4)",
    "ratios": "the hybrid's MLP ratios",
    "bounds": "no stage narrower than the hybrid's, none wider than s_conv's",
}
PUBLISHED = {"xxs": (4.4, 0.7), "xs": (6.4, 0.7)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A convolutional network and how far it is from the hybrid taken the way of s -> s_conv."""

    distance: float
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    ratio: int
    params: int
    flops: int


def one_for_one(spec: ModelSpec) -> tuple[int, ...]:
    """Depths with each attention block as a convolutional one."""
    return tuple(stage.depth + stage.attention_depth for stage in spec.stages)


def candidates(name: str, dropped: str) -> list[Candidate]:
    """All networks that round to the published size and keep every habit but `dropped`, nearest first."""
    hybrid, s, s_conv = published(name), published("s"), published("s_conv")
    params_m, flops_g = PUBLISHED[name]
    ideal_dims = [h.dim * c.dim / b.dim for h, b, c in zip(hybrid.stages, s.stages, s_conv.stages, strict=True)]
    ideal = [*ideal_dims, *one_for_one(hybrid)]
    early = one_for_one(hybrid)[0]
    own_ratio = hybrid.stages[0].mlp_ratios[1]
    low = [stage.dim for stage in hybrid.stages] if dropped != "bounds" else [24, 48, 96, 176]
    high = [stage.dim for stage in s_conv.stages] if dropped != "bounds" else [48, 96, 192, 400]
    step = 16 if dropped != "sixteens" else 8
    sides = hybrid.sides()
    blocks: dict[tuple[int, ...], tuple[int, int]] = {}

    def stage_cost(i: int, dim: int, depth: int, ratio: int) -> tuple[int, int]:
        key = (i, dim, depth, ratio)
        if key not in blocks:
            stage = StageSpec(dim=dim, depth=depth, mlp_ratios=(1, ratio))
            blocks[key] = tally_stage(stage, sides[i], hybrid.layer_scale).totals()
        return blocks[key]

    found = []
    for first, third, fourth in product(
        range(low[0], high[0] + 1, 8),
        [d for d in range(low[2], high[2] + 1) if d % step == 0],
        range(low[3], high[3] + 1, 8),
    ):
        dims = (first, 2 * first, third, fourth)
        fixed = [
            tally_stem(hybrid, first).totals(),
            *(tally_downsample(dims[i], dims[i + 1], sides[i + 1]).totals() for i in range(3)),
            tally_head(fourth, sides[3], hybrid.num_classes).totals(),
        ]
        for shallow, n3, n4, ratio in product(
            (early,) if dropped != "early" else (2, 3, 4),
            range(1, 13),
            range(1, 9),
            (own_ratio,) if dropped != "ratios" else (4, 6),
        ):
            depths = (shallow, shallow, n3, n4)
            if dropped != "blocks" and sum(depths) != sum(one_for_one(hybrid)):
                continue
            parts = fixed + [stage_cost(i, dims[i], depths[i], ratio) for i in range(4)]
            params, flops = (sum(part[axis] for part in parts) for axis in (0, 1))
            if round(params / 1e6, 1) != params_m or round(flops / 1e9, 1) != flops_g:
                continue
            off = [math.log(value / wanted) for value, wanted in zip((*dims, *depths), ideal, strict=True)]
            found.append(
                Candidate(distance=math.hypot(*off), dims=dims, depths=depths, ratio=ratio, params=params, flops=flops)
            )
    return sorted(found, key=lambda candidate: candidate.distance)


def main() -> None:
    for name in PUBLISHED:
        print(f"{name}_conv: {PUBLISHED[name][0]} M, {PUBLISHED[name][1]} G")
        for dropped in ("", *HABITS):
            found = candidates(name, dropped)
            print(f"  {'all habits' if not dropped else 'without: ' + HABITS[dropped]}: {len(found)}")
            for one in found[: 3 if not dropped else 1]:
                print(
                    f"    {list(one.dims)} {list(one.depths)} [1, {one.ratio}]  {one.params:,} params, "
                    f"{one.flops / 1e9:.3f} G, distance {one.distance:.3f}"
                )


if __name__ == "__main__":
    main()
