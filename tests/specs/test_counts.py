"""Closed-form counts against the authors' figures, formulas worked out by hand, and traces of the real network."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest

from modscale.models.fvcore_trace import trace_model
from modscale.specs.block_kinds import BLOCKS
from modscale.specs.counts import OPERATORS, count_model, sum_by
from modscale.specs.spec import CONTEXT_PARTS, ModelSpec, StageSpec, StemSpec, parse_spec

S_CONV = ModelSpec(
    stages=tuple(StageSpec(dim=dim, depth=depth) for dim, depth in ((40, 4), (80, 4), (160, 12), (344, 8)))
)
CONTEXTS = [part for size in (1, 2, 3) for part in combinations(CONTEXT_PARTS, size)]


def totals(spec: ModelSpec) -> tuple[int, int]:
    count = count_model(spec)
    return count.params, count.flops


def every_stage(**changes: object) -> ModelSpec:
    """The conv-only s with `changes` in each of its stages, as the paper's ablations are."""
    return replace(S_CONV, stages=tuple(replace(stage, **changes) for stage in S_CONV.stages))


def one_stage(**changes: object) -> ModelSpec:
    """A single stage of 10 channels on 3x3 tokens, 5 classes."""
    return ModelSpec(resolution=12, num_classes=5, stages=(StageSpec(**{"dim": 10, "depth": 1, **changes}),))


def part_totals(spec: ModelSpec, part: str) -> tuple[int, int]:
    return sum_by(count_model(spec).parts, "part")[part]


def test_golden_rows(golden_counts):
    """All 60 specs have exactly the params and FLOPs of the authors' code."""
    assert len(golden_counts) == 60
    wrong = [
        (i, got, row["params"], row["flops"])
        for i, row in enumerate(golden_counts)
        if (got := totals(parse_spec(row["spec"]))) != (row["params"], row["flops"])
    ]
    assert wrong == []


def test_context_ablation_rows(published_figures):
    """Every row of Table 5 with a published size has it to the unit."""
    rows = [row for row in published_figures["context_ablation"] if "params" in row]
    assert len(rows) == 4
    for row in rows:
        spec = every_stage(context=tuple(row["kept"]), fusion=row.get("fusion", "mul"))
        assert (row, totals(spec)[0]) == (row, row["params"])


def test_kernel_rows(published_figures):
    """Every set of parallel kernels of Appendix L has its published size to the unit."""
    rows = published_figures["kernel_sets"]
    assert len(rows) == 7
    for row in rows:
        sizes = row["kernel_size"]
        spec = every_stage(kernel_size=tuple(sizes) if isinstance(sizes, list) else (sizes,))
        assert (row, totals(spec)[0]) == (row, row["params"])


def test_isotropic_rows(published_figures):
    """The patch-stem networks of Table 6 have their published params and FLOPs to the unit."""
    rows = [row for row in published_figures["mbconv"] if "flops_exact" in row]
    assert len(rows) == 2
    for row in rows:
        stage = StageSpec(dim=row["dim"], depth=row["depth"], mlp_ratios=tuple(row["mlp_ratios"]))
        spec = ModelSpec(stem=StemSpec(kernel_size=14, stride=14), stages=(stage,))
        assert totals(spec) == (row["params"], row["flops_exact"])


def test_stem_and_head_by_hand():
    """7x7 conv of 3 to 10 channels on 9 tokens with LayerNorm; final LayerNorm, pooling and a head of 5 classes."""
    spec = one_stage()
    assert part_totals(spec, "stem") == (7 * 7 * 3 * 10 + 10 + 20, 9 * 7 * 7 * 3 * 10 + 5 * 9 * 10)
    assert part_totals(spec, "head") == (20 + 10 * 5 + 5, 5 * 9 * 10 + 9 * 10 + 10 * 5)


def test_downsampling_by_hand():
    """Between stages a 3x3 conv that halves the side, rounded up, and LayerNorm."""
    spec = ModelSpec(resolution=20, stages=(StageSpec(dim=4, depth=1), StageSpec(dim=6, depth=1)))
    assert spec.sides() == (5, 3)
    assert part_totals(spec, "downsample[0]") == (9 * 4 * 6 + 6 + 12, 9 * (9 * 4 * 6) + 5 * 9 * 6)


@pytest.mark.parametrize(
    ("changes", "params", "flops"),
    [
        # norm, fc1, f, dwconv, g, fc2, gamma; per token: 5 LayerNorm, two linear layers of ratio 6, f, g and 49 taps
        ({"mlp_ratios": (6,)}, 20 + 660 + 110 + 500 + 110 + 610 + 10, 9 * (50 + 1200 + 200 + 490)),
        ({"mlp_ratios": (1,), "context": ("g",)}, 20 + 110 + 110 + 110 + 10, 9 * (50 + 300)),
        ({"mlp_ratios": (1,), "kernel_size": (3, 5)}, 20 + 440 + 100 + 260 + 10, 9 * (50 + 400 + 90 + 250)),
        # modulation at ratio 1, then an MLP at ratio 2 with its own norm and LayerScale
        (
            {"block": "separate_mlp", "mlp_ratios": (2,)},
            (20 + 440 + 500 + 10) + (20 + 220 + 210 + 10),
            9 * ((50 + 400 + 490) + (50 + 400)),
        ),
        # expand, depthwise 3x3, project, no bias; BatchNorm of 20, 20 and 10 channels
        (
            {"block": "mbconv", "mlp_ratios": (2,), "kernel_size": (3,)},
            200 + 180 + 200 + 2 * 50,
            9 * (200 + 180 + 200 + 2 * 50),
        ),
        # BatchNorm, proj_1, 5x5, 7x7, conv1, proj_2; BatchNorm, fc1, 3x3 on 20 channels, fc2
        (
            {"block": "van", "mlp_ratios": (2,)},
            (20 + 330 + 260 + 500) + (20 + 220 + 200 + 210),
            9 * ((20 + 300 + 250 + 490) + (20 + 200 + 180 + 200)),
        ),
        # LayerNorm, f to 10 + 10 + 4, depthwise 3, 5, 7 without bias, h, proj; LayerNorm and an MLP at ratio 2
        (
            {"block": "focal", "mlp_ratios": (2,)},
            (20 + 264 + 90 + 250 + 490 + 220) + (20 + 220 + 210),
            9 * ((50 + 240 + 90 + 250 + 490 + 200) + (50 + 400)),
        ),
    ],
    ids=["modulation", "context g", "kernels 3+5", "separate_mlp", "mbconv", "van", "focal"],
)
def test_block_by_hand(changes, params, flops):
    """One block of 10 channels on 9 tokens, each term worked out on paper."""
    assert part_totals(one_stage(**changes), "stages[0]") == (params, flops)


def test_attention_by_hand():
    """8 heads of width 32: qkv without bias, both products over 9 x 9 tokens, projection, and an MLP of 15."""
    without, with_one = (
        part_totals(one_stage(attention_depth=depth, attention_mlp_ratio=1.5), "stages[0]") for depth in (0, 1)
    )
    params = 20 + 10 * 768 + (256 * 10 + 10) + 20 + (10 * 15 + 15) + (15 * 10 + 10)
    flops = 9 * (50 + 7680 + 2560 + 50 + 300) + 2 * 9 * 9 * 256
    assert (with_one[0] - without[0], with_one[1] - without[1]) == (params, flops)


def test_ratios_repeat_over_the_blocks():
    """Five blocks of ratios 1, 6 cost as three of ratio 1 and two of ratio 6."""
    five = part_totals(one_stage(depth=5, mlp_ratios=(1, 6)), "stages[0]")
    one, six = (part_totals(one_stage(mlp_ratios=(ratio,)), "stages[0]") for ratio in (1, 6))
    assert five == tuple(3 * a + 2 * b for a, b in zip(one, six, strict=True))


def test_parts_and_operators_add_up(golden_counts):
    """By part, by operator and in total, the same params and FLOPs are handed out."""
    count = count_model(parse_spec(golden_counts[0]["spec"]))
    for key in ("part", "operator"):
        sums = sum_by(count.parts, key).values()
        assert (sum(p for p, _ in sums), sum(f for _, f in sums)) == (count.params, count.flops)
    assert set(sum_by(count.parts, "operator")) <= set(OPERATORS)
    assert [*sum_by(count.parts, "part")] == [
        "stem", "stages[0]", "downsample[0]", "stages[1]", "downsample[1]", "stages[2]", "downsample[2]", "stages[3]",
        "head",
    ]  # fmt: skip


def draw_stage(rng: random.Random, **fixed: object) -> StageSpec:
    """A small stage with every field drawn, the `fixed` ones aside."""
    drawn = {
        "dim": rng.choice((1, 5, 8, 12, 17)),
        "depth": rng.randint(1, 3),
        "mlp_ratios": tuple(rng.choice((1, 2, 3, 6)) for _ in range(rng.randint(1, 3))),
        "kernel_size": tuple(rng.choice((1, 3, 5, 7, 9)) for _ in range(rng.choice((1, 1, 2, 3)))),
        "attention_depth": rng.choice((0, 0, 1, 2)),
        "attention_mlp_ratio": rng.choice((1, 2.5, 4, 3.3)),
        "block": rng.choice(list(BLOCKS)),
        "context": rng.choice(CONTEXTS),
        "fusion": rng.choice(("mul", "sum")),
    }
    return StageSpec(**{**drawn, **fixed})


def draw_spec(rng: random.Random, **fixed: object) -> ModelSpec:
    """A small network with every field drawn; `fixed` holds for its first stage."""
    stem = rng.choice(((7, 4), (3, 2), (4, 4), (8, 8), (6, 5), (5, 1)))
    return ModelSpec(
        resolution=rng.choice((17, 24, 31)) if stem[1] > 1 else 9,
        in_chans=rng.choice((1, 3)),
        num_classes=rng.choice((1, 2, 10)),
        stem=StemSpec(kernel_size=stem[0], stride=stem[1]),
        layer_scale=rng.choice((None, 1e-4)),
        drop_path_rate=rng.choice((0.0, 0.1)),
        stages=(draw_stage(rng, **fixed), *(draw_stage(rng) for _ in range(rng.randint(0, 2)))),
    )


SAMPLES = [
    *(
        {"context": context, "fusion": fusion, "block": "modulation"}
        for context in CONTEXTS
        for fusion in ("mul", "sum")
    ),
    *({"block": block, "attention_depth": depth} for block in BLOCKS for depth in (0, 2)),
]


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_closed_form_equals_the_trace(number):
    """Networks drawn over all fields count in closed form exactly as an fvcore trace of the real network."""
    spec = draw_spec(random.Random(number), **SAMPLES[number])
    assert totals(spec) == trace_model(spec)
