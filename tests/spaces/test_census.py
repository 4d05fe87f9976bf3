"""The census of a space against brute force, and against identities where brute force cannot go."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modscale.cli.answers import census_to_json
from modscale.errors import InputError
from modscale.spaces import census as census_module
from modscale.spaces import halves
from modscale.spaces.census import take_census
from modscale.spaces.feasibility import explain_infeasible, require_feasible, require_possible
from modscale.spaces.nearest import within_budgets
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

BASE = {"resolution": 40, "num_classes": 5, "stem": {"kernel_size": 4, "stride": 4}}


def random_stages(rng: random.Random, stages: int) -> dict[str, Any]:
    """A small space with lists, several blocks and options without effect."""
    document: dict[str, Any] = {"name": "small", "base": BASE, "stages": []}
    for _ in range(stages):
        stage: dict[str, Any] = {
            "dim": rng.sample([4, 6, 8, 12, 16], rng.randint(1, 2)),
            "depth": [1, rng.randint(2, 4)],
        }
        extra = rng.choice(["expansion", "mlp_ratios", "attention", "block", "context", "none"])
        if extra == "expansion":
            stage["expansion"] = [2, 4]
        elif extra == "mlp_ratios":
            stage["mlp_ratios"] = [[1, 6], [2, 3, 1]]
        elif extra == "attention":
            stage |= {"attention_depth": [0, 1], "attention_mlp_ratio": [2, 4]}
        elif extra == "block":
            stage |= {"block": ["modulation", "mbconv", "van"], "fusion": ["mul", "sum"]}
        elif extra == "context":
            stage |= {"context": [["f"], ["conv", "g"]], "kernel_size": [[3], [3, 5]]}
        document["stages"].append(stage)
    for stage in document["stages"]:  # what brute force goes through in a moment
        if parse_space(document).size() > 400:
            stage["depth"] = rng.choice([1, 3])
        if parse_space(document).size() > 400:
            stage["dim"] = rng.choice([8, 16])
    return document


def with_limits(document: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The space with limits that cut through it."""
    tables = build_tables(parse_space(document))
    rows = np.array(list(product(*(range(stage.size) for stage in tables.stages))))
    constraints: dict[str, Any] = {}
    for metric, counts in zip(("params", "flops"), tables.count(rows), strict=True):
        values = sorted(counts.tolist())
        low, high = sorted(rng.sample(range(len(values)), 2)) if len(values) > 1 else (0, 0)
        kind = rng.choice(["max", "min", "both", "none"])
        limits = {"min": values[low // 2]} if kind in ("min", "both") else {}
        limits |= {"max": values[(high + len(values) - 1) // 2]} if kind in ("max", "both") else {}
        if limits:
            constraints[metric] = limits
    if rng.random() < 0.6:
        constraints["widths"] = "nondecreasing"
    return {**document, "constraints": constraints}


def random_space(seed: int, stages: int) -> dict[str, Any]:
    rng = random.Random(seed)
    return with_limits(random_stages(rng, stages), rng)


def enumerate_space(space: Space) -> list[tuple[ModelSpec, int, int]]:
    """Every architecture with its params and FLOPs, one at a time."""
    names = [parameter.name for parameter in space.parameters]
    rows = []
    for options in product(*(parameter.options for parameter in space.parameters)):
        spec = space.spec(dict(zip(names, options, strict=True)))
        count = count_model(spec)
        rows.append((spec, count.params, count.flops))
    return rows


def met(space: Space, row: tuple[ModelSpec, int, int]) -> dict[str, bool]:
    """Which constraints one architecture meets."""
    dims = [stage.dim for stage in row[0].stages]
    limits = space.constraints
    return {
        "params": limits.params.allow(row[1]),
        "flops": limits.flops.allow(row[2]),
        "widths": not limits.nondecreasing_widths or dims == sorted(dims),
    }


def bars(values: Any, edges: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.histogram(values, bins=np.array(edges))[0])


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_census_equals_brute_force(seed: int, stages: int) -> None:
    """Sizes, feasible counts, distinct networks, reach, shares and histograms, each by listing the whole space."""
    space = parse_space(random_space(100 * stages + seed, stages))
    rows = enumerate_space(space)
    good = [row for row in rows if all(met(space, row).values())]
    census = take_census(space, bins=5)
    assert census.exact
    assert census.size == len(rows)
    assert census.feasible == len(good)
    assert census.distinct == len({network_key(spec) for spec, _, _ in rows})
    assert census.distinct_feasible == len({network_key(spec) for spec, _, _ in good})
    assert (census.infeasible is None) == bool(good)
    for place, metric in ((1, "params"), (2, "flops")):
        check_reach(census.reach[metric], rows, place)
        if good:
            assert census.feasible_reach is not None
            check_reach(census.feasible_reach[metric], good, place)
            for spec in (census.feasible_reach[metric].min_spec, census.feasible_reach[metric].max_spec):
                assert any(row[0] == spec for row in good)
        assert census.histograms is not None
        histogram = census.histograms[metric]
        if len(set(histogram.edges)) > 1:
            assert histogram.all == bars([row[place] for row in rows], histogram.edges)
            assert histogram.feasible == bars([row[place] for row in good], histogram.edges)
        assert (sum(histogram.all), sum(histogram.feasible)) == (len(rows), len(good))
    assert census.removed is not None
    for name, removal in census.removed.items():
        broken = [row for row in rows if not met(space, row)[name]]
        assert removal.alone == len(broken)
        assert removal.only == sum(sum(met(space, row).values()) == 2 for row in broken)


def check_reach(reach: Any, rows: list[tuple[ModelSpec, int, int]], place: int) -> None:
    values = [row[place] for row in rows]
    assert (reach.min, reach.max) == (min(values), max(values))
    for spec, value in ((reach.min_spec, reach.min), (reach.max_spec, reach.max)):
        count = count_model(spec)
        assert (count.params, count.flops)[place - 1] == value


ALIKE = {"fusion": ["mul", "sum"], "context": [["f"], ["g"]]}  # four networks of the same size
BIG_STAGES = [
    {"dim": [24, 32, 40, 48], "depth": {"low": 1, "high": 6}, "expansion": [2, 4, 6], **ALIKE},
    {"dim": [48, 64, 80, 96], "depth": {"low": 1, "high": 6}, "expansion": [2, 4, 6], **ALIKE},
    {"dim": [64, 96, 160], "depth": {"low": 1, "high": 8}, "expansion": [4, 6, 8], "attention_depth": [0, 1, 2],
     **ALIKE},
    {"dim": [80, 256], "depth": {"low": 1, "high": 8}, "expansion": [4, 6, 8], "attention_depth": [0, 1, 2],
     "attention_mlp_ratio": [2, 3, 4, 6], **ALIKE},
    {"dim": 256, "depth": [1, 2, 3], **ALIKE},
]  # fmt: skip


def big_space(**constraints: Mapping[str, Any] | str) -> Space:
    return parse_space({"name": "big", "stages": BIG_STAGES, "constraints": constraints})


def test_a_space_of_1e12_is_counted_to_the_unit() -> None:
    """The product formula, complements that must sum to the size, and a share that sampling agrees with."""
    limit = {"params": 9_000_000, "flops": 1_200_000_000}
    everything = big_space()
    size = everything.size()
    assert size == (4 * 6 * 3 * 4) ** 2 * (3 * 8 * 3 * 3 * 4) * (2 * 8 * 3 * 3 * 4 * 4) * (3 * 4)
    assert size > 1e12
    for metric, top in limit.items():
        below = take_census(big_space(**{metric: {"max": top}}), bins=3)
        above = take_census(big_space(**{metric: {"min": top + 1}}), bins=3)
        assert below.feasible is not None
        assert above.feasible is not None
        assert below.feasible + above.feasible == size
        assert 0 < below.feasible < size
    both = big_space(params={"max": limit["params"]}, flops={"max": limit["flops"]}, widths="nondecreasing")
    census = take_census(both, bins=3)
    tables = build_tables(both)
    draws = 40_000
    share = tables.feasible(tables.sample(np.random.default_rng(0), draws)).mean()
    exact = census.feasible / census.size
    assert abs(share - exact) < 5 * (exact * (1 - exact) / draws) ** 0.5
    # depth 1 has no use for the expansion, nor attention depth 0 for the attention's ratio
    deep = 1 + 7 * 3
    assert census.distinct == (4 * (1 + 5 * 3) * 4) ** 2 * (3 * deep * 3 * 4) * (2 * deep * (1 + 2 * 4) * 4) * (3 * 4)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "censuses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_large_spaces_are_counted_as_the_first_release_did(golden: dict[str, Any]) -> None:
    """Every number of seven spaces, up to 2e12 architectures, as another form of counting (0.1.0) found it."""
    space = parse_space(golden["space"])
    found = census_to_json(take_census(space))
    assert found["exact"]
    for key, expected in golden["census"].items():
        if key == "removed":
            assert {name: {part: found[key][name][part] for part in ("alone", "only")} for name in expected} == expected
        elif key in ("params", "flops", "feasible_params", "feasible_flops"):
            assert {end: found[key][end] for end in ("min", "max")} == expected
        else:
            assert found[key] == expected
    if "near" in golden:
        matches = within_budgets(space, golden["budgets"], best=5)
        assert matches.count == (golden["near"]["count"],) * 2
        assert matches.distinct == (golden["near"]["distinct"],) * 2
        assert [[match.params, match.flops] for match in matches.best] == golden["near"]["best"]


def brute_census(space: Space) -> dict[str, Any]:
    """What a census says, by going through all rows of the tables (which `test_tables.py` holds against specs)."""
    tables = build_tables(space)
    rows = np.array(list(product(*(range(stage.size) for stage in tables.stages))))
    counts = np.stack(tables.count(rows), axis=1)
    own = np.logical_and.reduce([stage.network[rows[:, i]] == rows[:, i] for i, stage in enumerate(tables.stages)])
    dims = np.stack([stage.dim[rows[:, i]] for i, stage in enumerate(tables.stages)], axis=1)
    limits = space.constraints
    keeps = {
        "params": np.array([limits.params.allow(n) for n in counts[:, 0]]),
        "flops": np.array([limits.flops.allow(n) for n in counts[:, 1]]),
        "widths": (np.diff(dims, axis=1) >= 0).all(axis=1) | (not limits.nondecreasing_widths),
    }
    good = keeps["params"] & keeps["flops"] & keeps["widths"]
    return {
        "feasible": good.sum(),
        "distinct": own.sum(),
        "distinct_feasible": (good & own).sum(),
        "reach": [(counts[:, axis].min(), counts[:, axis].max()) for axis in (0, 1)],
        "feasible_reach": [(counts[good, axis].min(), counts[good, axis].max()) for axis in (0, 1)]
        if good.any()
        else None,
        "alone": {name: (~kept).sum() for name, kept in keeps.items()},
        "only": {name: (~kept & (sum(keeps.values()) == 2)).sum() for name, kept in keeps.items()},
        "counts": counts,
        "good": good,
    }


def test_200_random_spaces_are_counted_as_brute_force_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One to five stages of every kind of parameter; a quarter are not cut, for their size, the others anywhere."""
    infeasible = 0
    for seed in range(200):
        monkeypatch.setattr(halves, "WORK_A_WIDTH", 3000 if seed % 4 == 0 else 0)
        space = parse_space(random_space(1000 + seed, 1 + seed % 5))
        brute = brute_census(space)
        census = take_census(space, bins=4)
        assert census.exact
        for name in ("feasible", "distinct", "distinct_feasible"):
            assert getattr(census, name) == brute[name], (seed, name)
        assert [(reach.min, reach.max) for reach in census.reach.values()] == brute["reach"]
        reaches = census.feasible_reach
        found = None if reaches is None else [(reach.min, reach.max) for reach in reaches.values()]
        assert found == brute["feasible_reach"], seed
        for name, removal in (census.removed or {}).items():
            assert (removal.alone, removal.only) == (brute["alone"][name], brute["only"][name]), (seed, name)
        for axis, histogram in enumerate((census.histograms or {}).values()):
            if len(set(histogram.edges)) > 1:
                assert histogram.all == bars(brute["counts"][:, axis], histogram.edges)
                assert histogram.feasible == bars(brute["counts"][brute["good"], axis], histogram.edges)
        infeasible += not brute["feasible"]
    assert 0 < infeasible < 100


def test_beyond_the_halves_a_sample_encloses_the_exact_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few halves may be gone through, the 95 % interval holds the exact number, is small, and says what it is."""
    told = 0
    for seed in range(12):
        space = parse_space(random_space(seed + 20, 4))
        exact = take_census(space)
        with monkeypatch.context() as patch:
            patch.setattr(halves, "MAX_WORK", 3)
            patch.setattr("modscale.spaces.sampling.OPTIONS_DRAWN", 160_000)
            census = take_census(space)
            assert take_census(space) == census
        assert not census.exact
        assert census.reach == exact.reach
        assert (census.histograms, census.removed, census.feasible_reach) == (None, None, None)
        for (low, high), true in (
            (census.feasible_interval, exact.feasible),
            (census.distinct_feasible_interval, exact.distinct_feasible),
        ):
            assert low <= true <= high
            assert high - low <= 0.012 * space.size() + 1
        told += census.feasible is None
        assert ("95 %" in (census.rule or "")) == (census.draws > 0)
        document = census_to_json(census)
        assert (document["exact"], document["confidence"]) == (False, 0.95)
        brute = brute_census(space)
        limits_cut = brute["feasible"] != space.size() - brute["alone"]["widths"]
        assert document["draws"] == (40_000 if limits_cut else 0)
        assert document["feasible_interval"] == list(census.feasible_interval)
    assert told >= 6


BEYOND = {"dim": {"low": 8, "high": 64, "step": 8}, "depth": {"low": 1, "high": 64}}


@pytest.mark.parametrize(
    ("constraints", "feasible", "rule"),
    [
        ({}, 512**16, None),
        ({"params": {"min": 1}, "flops": {"min": 1}}, 512**16, None),
        ({"widths": "nondecreasing"}, 64**16 * math.comb(16 + 7, 7), None),
        ({"params": {"max": 1000}}, 0, "no architecture satisfies max 1000; the nearest has"),
        ({"flops": {"min": 1e15}}, 0, "no architecture satisfies min 1e"),
    ],
)
def test_what_the_reach_alone_tells_is_exact_in_any_space(
    constraints: dict[str, Any], feasible: int, rule: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2e43 architectures, all of them feasible, or none, or those of nondecreasing widths: stars and bars."""
    monkeypatch.setattr("modscale.spaces.sampling.OPTIONS_DRAWN", 1600)
    census = take_census(parse_space({"stages": [BEYOND] * 16, "constraints": constraints}))
    assert census.feasible == feasible
    assert (census.infeasible or "").count(rule or "") >= (rule is not None)


def test_where_everything_is_feasible_the_networks_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit that cuts, nothing is drawn: combinations and networks as brute force counts them."""
    monkeypatch.setattr(halves, "MAX_WORK", 3)
    repeats = 0
    for seed, constraints in product(range(8), ({}, {"widths": "nondecreasing"})):
        document = random_stages(random.Random(seed), 3) | {"constraints": constraints}
        space = parse_space(document)
        brute, census = brute_census(space), take_census(space)
        assert (census.feasible, census.distinct_feasible) == (brute["feasible"], brute["distinct_feasible"])
        assert (census.exact, census.draws) == (False, 0)
        repeats += 0 < brute["distinct_feasible"] < brute["feasible"]
    assert repeats >= 4


def test_of_a_large_space_a_sample_is_told_before_the_exact_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first number heard is an interval that holds the exact one; of a small space none is heard."""
    space = parse_space(random_space(20, 4))
    heard: list[tuple[int, int]] = []
    exact = take_census(space, estimate=heard.append).feasible
    assert not heard
    monkeypatch.setattr(census_module, "QUICK_SIZE", 0)
    assert take_census(space, estimate=heard.append).feasible == exact
    ((low, high),) = heard
    assert exact is not None
    assert low <= exact <= high
    assert low < high


def test_what_no_draw_meets_is_bounded_and_not_called_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a single architecture of 1e9 meets, between the reach's ends: at least 0, at most a small share."""
    stages = [{"dim": {"low": 8, "high": 64, "step": 8}, "depth": {"low": 1, "high": 64}}] * 3
    tables = build_tables(parse_space({"base": BASE, "stages": stages}))
    params, flops = (int(counts[0]) for counts in tables.count(np.array([[100, 200, 300]])))
    limits = {"params": {"min": params, "max": params}, "flops": {"min": flops, "max": flops}}
    monkeypatch.setattr(halves, "MAX_WORK", 1000)
    monkeypatch.setattr("modscale.spaces.sampling.OPTIONS_DRAWN", 30_000)
    census = take_census(parse_space({"base": BASE, "stages": stages, "constraints": limits}))
    assert census.feasible is None
    assert census.infeasible is None
    assert census.feasible_interval[0] == 0
    assert 1 <= census.feasible_interval[1] < 1e-3 * census.size


def test_progress_rises_to_the_end() -> None:
    """What is told of the share that is done never falls, and ends with all."""
    told: list[float] = []
    take_census(big_space(params={"max": 9_000_000}, widths="nondecreasing"), progress=told.append)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1


TWO = [{"dim": [8, 16], "depth": [1, 2, 3]}, {"dim": [16, 24], "depth": [1, 2]}]


@pytest.mark.parametrize(
    ("stages", "constraints", "place", "names"),
    [
        (TWO, {"params": {"max": 100}}, "params", ["max 100", "least"]),
        (TWO, {"params": {"min": 10**8}}, "params", ["min 1e+08", "most"]),
        (TWO, {"flops": {"max": 1000}}, "flops", ["max 1000", "FLOPs"]),
        ([{"dim": [32, 40], "depth": 1}, {"dim": [8, 16], "depth": 1}], {"widths": "nondecreasing"}, "widths",
         ["32, 16"]),
        ([{"dim": [8, 64], "depth": 1}, {"dim": [8, 32], "depth": 1}],
         {"widths": "nondecreasing", "params": {"min": 20_000}}, "params", ["nondecreasing widths"]),
        (TWO, {"params": {"max": 12_000}, "flops": {"min": 1_000_000}}, "params", ["FLOPs of min 1e+06"]),
    ],
)  # fmt: skip
def test_nothing_feasible_names_the_constraint_and_the_nearest(
    stages: list[Any], constraints: dict[str, Any], place: str, names: list[str]
) -> None:
    """One line with the place of the constraint that nothing meets and the value that comes nearest."""
    space = parse_space({"base": BASE, "stages": stages, "constraints": constraints})
    rows = enumerate_space(space)
    assert not any(all(met(space, row).values()) for row in rows)
    with pytest.raises(InputError) as caught:
        require_feasible(space)
    message = str(caught.value)
    assert message.startswith(f"constraints.{place}: no architecture")
    assert "\n" not in message
    values = {"least": min(row[1] for row in rows), "most": max(row[1] for row in rows)}
    for name in names:
        assert (f"{values[name]:,}" if name in values else name) in message
    census = take_census(space)
    assert (census.feasible, census.infeasible) == (0, message)


def test_what_no_data_make_possible_is_refused_before_they_are_loaded() -> None:
    """The smallest network of two classes and one channel, by brute force; a lower limit waits for the data."""
    base = {key: value for key, value in BASE.items() if key != "num_classes"}
    least = parse_space({"base": base | {"num_classes": 2, "in_chans": 1}, "stages": TWO})
    smallest = min(row[1] for row in enumerate_space(least))
    for limits in ({"max": smallest}, {"min": 10**9}):
        require_possible(parse_space({"base": base, "stages": TWO, "constraints": {"params": limits}}))
    too_few = parse_space({"base": base, "stages": TWO, "constraints": {"params": {"max": smallest - 1}}})
    with pytest.raises(InputError, match=rf"nearest has {smallest:,} params with the fewest classes and channels"):
        require_possible(too_few)
    stated = {"base": BASE | {"in_chans": 3}, "stages": TWO, "constraints": {"params": {"min": 10**9}}}
    with pytest.raises(InputError, match=r"params$"):
        require_possible(parse_space(stated))


def test_a_gap_between_sizes_names_the_nearer_side() -> None:
    """Limits that both lie between two neighbouring sizes: the message gives the neighbour that is closer."""
    free = parse_space({"base": BASE, "stages": TWO})
    sizes = sorted({row[1] for row in enumerate_space(free)})
    low, high = max(pairwise(sizes), key=lambda pair: pair[1] - pair[0])
    limits = {"params": {"min": low + 5, "max": high - 2}}
    with pytest.raises(InputError, match=f"nearest has {high:,} params"):
        require_feasible(parse_space({"base": BASE, "stages": TWO, "constraints": limits}))


def test_a_rare_feasible_architecture_is_not_called_infeasible() -> None:
    """A single architecture in a space of a million passes, though a few thousand draws miss it."""
    stage = {"dim": {"low": 8, "high": 24, "step": 8}, "depth": {"low": 1, "high": 10}}
    space = parse_space({"base": BASE, "stages": [stage] * 4})
    least = take_census(space).reach["params"].min
    one = parse_space({"base": BASE, "stages": [stage] * 4, "constraints": {"params": {"max": least}}})
    assert explain_infeasible(one) is None
    assert take_census(one).feasible == 1


def test_a_vast_stage_is_told_of_before_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is feasible comes first where a stage has many options, and the exact count agrees."""
    monkeypatch.setattr(census_module, "QUICK_STAGE", 100)
    told: list[tuple[int, int]] = []
    space = parse_space({"stages": [{"dim": {"low": 1, "high": 20}, "depth": {"low": 1, "high": 10}}]})
    census = take_census(space, estimate=told.append)
    assert told == [(200, 200)]
    assert (census.exact, census.feasible) == (True, 200)
