"""The JSON documents of a space: the contract's keys, and specs that count to the numbers beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modscale.cli.answers import census_to_json, matches_to_json
from modscale.spaces.census import take_census
from modscale.spaces.nearest import within_budgets
from modscale.spaces.space import parse_space
from modscale.specs.counts import count_model
from modscale.specs.spec import parse_spec

STAGES = [
    {"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [4, 6]},
    {"dim": [24, 32, 48], "depth": [1, 2], "expansion": [4, 6], "attention_depth": [0, 1]},
]


def space_of(constraints: dict[str, Any]) -> Any:
    return parse_space({"name": "tiny", "stages": STAGES, "constraints": constraints})


def test_a_census_has_the_fixed_keys_and_specs_that_read_back() -> None:
    """What the contract fixes, and architectures as specs that count to the number beside them."""
    space = space_of({"params": {"max": 2e5}})
    document = json.loads(json.dumps(census_to_json(take_census(space))))
    assert document["size"] == space.size()
    assert document["feasible_interval"] == [document["feasible"]] * 2
    assert document["feasible_share"] == document["feasible"] / document["size"]
    assert (document["exact"], document["confidence"], document["draws"]) == (True, 1.0, 0)
    assert {"distinct", "distinct_feasible", "removed", "histograms", "rule", "infeasible"} <= set(document)
    assert document["removed"]["params"]["alone"] == document["size"] - document["feasible"]
    for reach in ("params", "flops", "feasible_params", "feasible_flops"):
        for end in ("min", "max"):
            count = count_model(parse_spec(document[reach][f"{end}_spec"]))
            assert getattr(count, reach.removeprefix("feasible_")) == document[reach][end]


def test_a_census_without_anything_feasible_has_nulls() -> None:
    """No reach of what is not there, and the reason in its place."""
    document = census_to_json(take_census(space_of({"params": {"max": 10}})))
    assert (document["feasible"], document["feasible_params"], document["feasible_flops"]) == (0, None, None)
    assert "no architecture satisfies max 10" in document["infeasible"]


def test_matches_hold_whole_specs() -> None:
    """Each match in the JSON is a spec whose counts are those beside it."""
    document = matches_to_json(within_budgets(space_of({}), {"params": 2e5, "flops": 1.2e8}, 0.5, best=3))
    assert document["count"] == document["count_bounds"][0] > 0
    assert len(document["best"]) == 3
    for row in document["best"]:
        count = count_model(parse_spec(row["spec"]))
        assert (row["params"], row["flops"]) == (count.params, count.flops)
        assert row["relative_error"]["params"] == pytest.approx(count.params / 2e5 - 1)
