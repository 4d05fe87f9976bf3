"""Scaling to a budget: the budget is met within the tolerance or the miss is owned up to, and the ray is kept to."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from modscale.errors import InputError
from modscale.scaling.compound import EFFICIENTNET, RULES, Ray
from modscale.scaling.scale import drop_attention, published_steps, scale_model, scaled_to_json
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec, StageSpec, parse_spec


def fake_latency(spec: ModelSpec) -> float:
    """Milliseconds as batch-1 latencies are: a constant, something a block, and something a FLOP."""
    return 0.1 + 0.08 * spec.num_blocks() + 3e-9 * count_model(spec).flops


@pytest.mark.parametrize("name", ["s", "s_conv", "isotropic-6m", "van-b0"])
@pytest.mark.parametrize(("metric", "target"), [("params", 9e5), ("params", 2.5e7), ("flops", 2e8), ("flops", 3e9)])
@pytest.mark.parametrize("resolution", [None, 160])
def test_a_budget_is_met_within_one_percent(name: str, metric: str, target: float, resolution: int | None) -> None:
    """From a fifth to five times the published sizes, the network counted anew is within 1 % of the budget."""
    scaled = scale_model(published(name), metric, target, resolution=resolution)
    value = getattr(count_model(scaled.spec), metric)
    assert value == scaled.value
    assert abs(value - target) <= 0.01 * target
    assert scaled.within_tolerance
    assert not scaled.reason
    assert resolution in (None, scaled.spec.resolution)
    assert all(stage.dim % scaled.width_step == 0 for stage in scaled.spec.stages)


@pytest.mark.parametrize(("metric", "target"), [("params", 1_500), ("params", 1e13), ("flops", 1e4), ("flops", 1e17)])
def test_a_budget_out_of_reach_is_owned_up_to(metric: str, target: float) -> None:
    """Below the smallest and above the largest network the nearest miss comes back, marked as one, with a reason."""
    scaled = scale_model(published("xxs"), metric, target)
    assert not scaled.within_tolerance
    assert abs(scaled.relative_error) > 0.01
    assert "smallest" in scaled.reason if target < 1e6 else "ends" in scaled.reason
    assert scaled_to_json(scaled)["within_tolerance"] is False


def test_a_miss_between_two_sizes_is_owned_up_to() -> None:
    """Where whole channels are too coarse for the budget, the nearest on either side is given with its distance."""
    tiny = ModelSpec(num_classes=1, stages=(StageSpec(dim=1, depth=1, mlp_ratios=(1,)),))
    sizes = sorted(
        count_model(replace(tiny, stages=(replace(tiny.stages[0], dim=dim, depth=depth),))).params
        for dim in range(1, 30)
        for depth in range(1, 30)
    )
    gap = next(i for i in range(len(sizes)) if sizes[i + 1] > 1.1 * sizes[i])
    target = (sizes[gap] + sizes[gap + 1]) / 2
    scaled = scale_model(tiny, "params", target)
    assert scaled.value in (sizes[gap], sizes[gap + 1])
    assert not scaled.within_tolerance
    assert f"{abs(scaled.relative_error):.2%}" in scaled.reason


def test_where_a_network_exists_at_all_it_is_found() -> None:
    """For one stage of few sizes, every budget that brute force can meet in some width and depth is met."""
    base = ModelSpec(num_classes=10, stages=(StageSpec(dim=24, depth=3, mlp_ratios=(4,)),))
    sizes = {
        count_model(replace(base, stages=(replace(base.stages[0], dim=dim, depth=depth),))).params
        for dim in range(8, 81)
        for depth in range(1, 8)
    }
    for target in range(20_000, 100_000, 1_700):
        possible = any(abs(size - target) <= 0.01 * target for size in sizes)
        assert scale_model(base, "params", target).within_tolerance or not possible


def test_a_network_that_meets_the_budget_is_left_as_it_is() -> None:
    """Scaling to a network's own size changes nothing, even where its widths are off the grid."""
    for name in ("xs", "isotropic-6m", "focalnet-4m"):
        spec = published(name)
        scaled = scale_model(spec, "params", count_model(spec).params * 1.004)
        assert network_key(scaled.spec) == network_key(spec)
        assert scaled.phi == scaled.ray_distance == 0


def test_the_chosen_network_is_the_nearest_to_the_ray() -> None:
    """Among all networks of two stages within the tolerance none is nearer to the ray than the one that is chosen."""
    base = ModelSpec(stages=(StageSpec(dim=32, depth=2), StageSpec(dim=64, depth=3)))
    target = 1_000_000
    scaled = scale_model(base, "params", target, resolution=224)

    def distance(spec: ModelSpec) -> float:
        """By the definition: the least over phi, on a fine grid of phi."""
        off = [
            (math.log(getattr(stage, key) / getattr(start, key)), math.log(growth))
            for stage, start in zip(spec.stages, base.stages, strict=True)
            for key, growth in (("dim", EFFICIENTNET.width), ("depth", EFFICIENTNET.depth))
        ]
        return min(math.hypot(*(x - phi / 100 * v for x, v in off)) for phi in range(0, 2000))

    best = min(
        distance(spec)
        for a in range(40, 97, 8)
        for b in range(80, 201, 8)
        for n in range(2, 9)
        for m in range(3, 12)
        for spec in [
            ModelSpec(stages=(StageSpec(dim=a, depth=n), StageSpec(dim=b, depth=m))),
        ]
        if abs(count_model(spec).params - target) <= 0.01 * target
    )
    assert distance(scaled.spec) == pytest.approx(best, abs=1e-3)
    assert scaled.ray_distance == pytest.approx(best, abs=1e-3)


def test_one_unit_of_phi_is_the_rule() -> None:
    """At phi = 1 a network that is large enough for rounding not to matter has grown by alpha, beta and gamma."""
    base = ModelSpec(resolution=3200, stages=(StageSpec(dim=8000, depth=500, attention_depth=100),))
    scaled = Ray(base=base, rule=EFFICIENTNET, width_step=8).at(1.0)
    assert list(scaled) == [8800, 600, 120, 3680]
    alpha, beta, gamma = EFFICIENTNET.depth, EFFICIENTNET.width, EFFICIENTNET.resolution
    assert alpha * beta**2 * gamma**2 == pytest.approx(2, rel=0.05)  # the paper's constraint


def test_the_grid_of_neighbours_counts_as_the_networks_do() -> None:
    """Counts of neighbours by tables are those of the networks themselves, resolution, attention and blocks mixed."""
    stages = (
        StageSpec(dim=24, depth=2, block="mbconv", kernel_size=(3,)),
        StageSpec(dim=40, depth=3, mlp_ratios=(1, 1, 6), attention_depth=1, attention_mlp_ratio=3),
        StageSpec(dim=56, depth=1, block="van", mlp_ratios=(4,)),
    )
    ray = Ray(base=ModelSpec(resolution=96, stages=stages), rule=EFFICIENTNET, width_step=4)
    values = ray.around(ray.at(0.7))
    chosen = values[random.Random(0).sample(range(len(values)), 200)]
    params, flops = ray.count(chosen)
    for row, counted in zip(chosen, zip(params, flops, strict=True), strict=True):
        count = count_model(ray.spec(row, "neighbour"))
        assert (count.params, count.flops) == counted
        assert ray.blocks(row[None])[0] == ray.spec(row, "neighbour").num_blocks()
    assert set(values[:, -1]) == {64, 96, 128}


@pytest.mark.parametrize("name", ["xxs", "xs", "s"])
def test_conv_only_has_no_attention_and_as_many_blocks(name: str) -> None:
    """Without attention, each stage has one convolutional block for every block it had; s gets the depths of s_conv."""
    spec = published(name)
    conv = drop_attention(spec)
    assert [s.depth for s in conv.stages] == [s.depth + s.attention_depth for s in spec.stages]
    assert not any(stage.attention_depth for stage in conv.stages)
    if name == "s":
        assert [s.depth for s in conv.stages] == [s.depth for s in published("s_conv").stages]
    scaled = scale_model(spec, "flops", 7e8, conv_only=True)
    assert not any(stage.attention_depth for stage in scaled.spec.stages)
    assert scaled.within_tolerance


@pytest.mark.parametrize("name", ["xxs", "s_conv"])
@pytest.mark.parametrize("target", [1.2, 25.0])
@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_a_latency_is_met_with_few_measurements(name: str, target: float, noise: float) -> None:
    """A latency of a constant, blocks and FLOPs, with and without noise, is met within 1 % by the mean of two runs."""
    rng = random.Random(0)
    seen: dict[tuple[object, ...], list[float]] = {}

    def measure(spec: ModelSpec) -> float:
        time = fake_latency(spec) * rng.gauss(1, noise)
        seen.setdefault(network_key(spec), []).append(time)
        return time

    scaled = scale_model(published(name), "latency_ms", target, measure=measure, resolution=224)
    times = seen[network_key(scaled.spec)]
    assert scaled.within_tolerance
    assert scaled.value == pytest.approx(sum(times) / 2)
    assert scaled.noise == pytest.approx((max(times) - min(times)) / scaled.value)
    assert abs(fake_latency(scaled.spec) / target - 1) <= 0.01 + 4 * noise
    assert scaled.candidates == len(seen) <= 24


def test_a_latency_out_of_reach_is_owned_up_to() -> None:
    """A budget below the smallest network is no promise; nothing large is measured on the way there."""
    largest = count_model(published("xxs")).flops
    seen = []

    def measure(spec: ModelSpec) -> float:
        seen.append(count_model(spec).flops)
        return fake_latency(spec)

    scaled = scale_model(published("xxs"), "latency_ms", 0.05, measure=measure)
    assert not scaled.within_tolerance
    assert "smallest" in scaled.reason
    assert max(seen) <= largest


def test_a_latency_that_never_settles_ends() -> None:
    """Measurements that have nothing to do with the network stop after 24 networks, with the miss owned up to."""
    times = iter(range(10, 10_000))
    scaled = scale_model(published("isotropic-6m"), "latency_ms", 5.0, measure=lambda spec: float(next(times)))
    assert not scaled.within_tolerance
    assert scaled.candidates <= 24
    assert "measured" in scaled.reason


def test_published_steps_meet_the_real_networks_budgets() -> None:
    """Each step by each rule is within 1 % of the network that the authors published for that budget."""
    steps = published_steps()
    assert {step.rule for step in steps} == set(RULES)
    for step in steps:
        count = count_model(step.real)
        assert abs(getattr(count_model(step.scaled.spec), step.scaled.metric) / step.scaled.target - 1) <= 0.01
        assert step.scaled.target in (count.params, count.flops)
        assert step.scaled.spec.resolution == step.real.resolution
        hybrid = [any(stage.attention_depth for stage in spec.stages) for spec in (step.scaled.spec, step.real)]
        assert hybrid[0] == hybrid[1]


def test_the_outcome_holds_a_whole_spec() -> None:
    """The JSON's spec is the network that the JSON's counts are of."""
    document = scaled_to_json(scale_model(published("xs"), "flops", 1.1e9, conv_only=True, resolution=192))
    spec = parse_spec(document["spec"])
    count = count_model(spec)
    assert (document["params"], document["flops"]) == (count.params, count.flops) == (count.params, document["value"])
    assert spec.resolution == 192


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"target": 0}, "params: must be more than 0"),
        ({"target": -5.0}, "params: must be more than 0"),
        ({"target": math.nan}, "params: must be a finite number"),
        ({"metric": "size"}, "metric: must be one of"),
        ({"metric": "latency_ms"}, "latency_ms: needs something that measures"),
        ({"resolution": 0}, "resolution: must be 1 or more"),
        ({"width_step": 0}, "width_step: must be 1 to"),
        ({"tolerance": 1.0}, "tolerance: must be less than 1"),
    ],
)
def test_a_senseless_request_is_the_users_to_mend(change: dict[str, object], rule: str) -> None:
    """Each argument out of its range is one line that says so."""
    arguments = {"metric": "params", "target": 5e6, **change}
    with pytest.raises(InputError, match=rule):
        scale_model(published("xxs"), **arguments)


def test_a_network_under_another_head_is_not_scaled() -> None:
    """The counts that scaling looks up are a classifier's: no wrong number is given out."""
    spec = parse_spec({"head": "semantic_fpn", "resolution": 32, "stages": [{"dim": 8, "depth": 1}]})
    with pytest.raises(InputError, match=r"head: must be classifier: .*, got 'semantic_fpn'"):
        scale_model(spec, "params", 3e6)
