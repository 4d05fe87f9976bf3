"""The census of a space against brute force, and against identities where brute force cannot go."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from modscale import partials
from modscale.census import census_to_json, take_census
from modscale.counts import count_model
from modscale.errors import InputError
from modscale.feasibility import explain_infeasible, require_feasible
from modscale.space import SearchSpace, parse_space
from modscale.spec import ModelSpec, network_key, parse_spec
from modscale.tables import build_tables

BASE = {"resolution": 40, "num_classes": 5, "stem": {"kernel_size": 4, "stride": 4}}


def random_space(seed: int, stages: int) -> dict[str, Any]:
    """A small space with lists, several blocks and options without effect, and limits that cut through it."""
    rng = random.Random(seed)
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
    rows = enumerate_space(parse_space(document))
    constraints: dict[str, Any] = {}
    for metric, place in (("params", 1), ("flops", 2)):
        values = sorted(row[place] for row in rows)
        low, high = sorted(rng.sample(range(len(values)), 2)) if len(values) > 1 else (0, 0)
        kind = rng.choice(["max", "min", "both", "none"])
        limits = {"min": values[low // 2]} if kind in ("min", "both") else {}
        limits |= {"max": values[(high + len(values) - 1) // 2]} if kind in ("max", "both") else {}
        if limits:
            constraints[metric] = limits
    if rng.random() < 0.6:
        constraints["widths"] = "nondecreasing"
    return {**document, "constraints": constraints}


def enumerate_space(space: SearchSpace) -> list[tuple[ModelSpec, int, int]]:
    """Every architecture with its params and FLOPs, one at a time."""
    names = [parameter.name for parameter in space.parameters]
    rows = []
    for options in product(*(parameter.options for parameter in space.parameters)):
        spec = space.spec(dict(zip(names, options, strict=True)))
        count = count_model(spec)
        rows.append((spec, count.params, count.flops))
    return rows


def met(space: SearchSpace, row: tuple[ModelSpec, int, int]) -> dict[str, bool]:
    """Which constraints one architecture meets."""
    dims = [stage.dim for stage in row[0].stages]
    limits = space.constraints
    return {
        "params": limits.params.allow(row[1]),
        "flops": limits.flops.allow(row[2]),
        "widths": not limits.nondecreasing_widths or dims == sorted(dims),
    }


def bars(values: list[int], edges: tuple[int, ...]) -> tuple[int, ...]:
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


def big_space(**constraints: Mapping[str, Any] | str) -> SearchSpace:
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


def test_rounding_encloses_the_exact_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the halves may hold few points, the interval holds what was counted without that limit, and says why."""
    inexact = 0
    for seed in range(6):
        space = parse_space(random_space(seed + 20, 4))
        feasible = take_census(space).feasible
        with monkeypatch.context() as patch:
            patch.setattr(partials, "MAX_POINTS", 8)
            patch.setattr(partials, "COARSE_STEP", 400)
            patch.setattr(partials, "COARSE_OPTIONS", 4)
            census = take_census(space)
        low, high = census.feasible_interval
        assert low <= feasible <= high
        inexact += not census.exact
        if not census.exact:
            assert "distinct partial sums" in (census.rule or "")
            assert census_to_json(census)["exact"] is False
    assert inexact >= 3


def test_the_coarsest_rounding_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for no point at all, one is left a width, and the interval still holds the count."""
    space = parse_space(random_space(21, 4))
    feasible = take_census(space).feasible
    monkeypatch.setattr(partials, "MAX_MET", 0)
    monkeypatch.setattr(partials, "COARSE_STEP", 0)
    low, high = take_census(space).feasible_interval
    assert low <= feasible <= high


def test_json_has_the_fixed_keys_and_specs_that_read_back() -> None:
    """What the contract fixes, and architectures as specs that count to the number beside them."""
    space = parse_space(random_space(301, 3))
    document = json.loads(json.dumps(census_to_json(take_census(space))))
    assert document["size"] == space.size()
    assert {"feasible", "params", "flops", "exact", "removed", "histograms"} <= set(document)
    for metric in ("params", "flops"):
        for end in ("min", "max"):
            count = count_model(parse_spec(document[metric][f"{end}_spec"]))
            assert getattr(count, metric) == document[metric][end]


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
