"""Architectures near several budgets: the number and the ranking against brute force."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from modscale.cli.answers import matches_to_json
from modscale.errors import InputError
from modscale.runs.experiment import load_experiment
from modscale.spaces import halves
from modscale.spaces import nearest as budgets_module
from modscale.spaces.nearest import within_budgets
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key

STAGES = [
    {"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [4, 6]},
    {"dim": [24, 32, 48], "depth": [1, 2], "expansion": [4, 6]},
    {"dim": [32, 64, 96], "depth": [1, 2], "attention_depth": [0, 1, 2], "attention_mlp_ratio": [2, 4]},
]
LIMITS = {"widths": "nondecreasing", "params": {"max": 1.1e6}, "flops": {"min": 1.2e8}}


def space_of(stages: int, constraints: dict[str, object]) -> Space:
    return parse_space({"name": "tiny", "stages": STAGES[:stages], "constraints": constraints})


@cache
def everything(stages: int):
    """Every combination of options: its network, widths, params and FLOPs, by counting each spec."""
    space = space_of(stages, {})
    names = [parameter.name for parameter in space.searched]
    rows = []
    for options in product(*(parameter.options for parameter in space.searched)):
        spec = space.spec(dict(zip(names, options, strict=True)))
        count = count_model(spec)
        rows.append((network_key(spec), [stage.dim for stage in spec.stages], count.params, count.flops))
    return rows


def brute_force(stages: int, constraints: dict[str, object], budgets: dict[str, float], tolerance: float):
    """Every feasible combination within the tolerance: its distance, counts and network."""
    found = []
    for key, dims, params, flops in everything(stages):
        if constraints and not (params <= 1.1e6 and flops >= 1.2e8 and dims == sorted(dims)):
            continue
        counts = {"params": params, "flops": flops}
        off = [abs(counts[metric] - target) / target for metric, target in budgets.items()]
        if all(abs(counts[metric] - target) <= tolerance * target for metric, target in budgets.items()):
            found.append((sum(off), params, flops, key))
    return found


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("constraints", [{}, LIMITS], ids=["free", "limited"])
@pytest.mark.parametrize(
    ("budgets", "tolerance"),
    [
        ({"params": 8e5, "flops": 1.5e8}, 0.2),
        ({"params": 3e5, "flops": 2.5e8}, 0.45),
        ({"params": 1e5}, 0.1),
        ({"flops": 1.6e8}, 0.02),
        ({"flops": 1.25e8}, 0.1),
        ({"flops": 1e8, "params": 1e3}, 0.05),
    ],
)
def test_number_and_ranking_agree_with_brute_force(stages, constraints, budgets, tolerance) -> None:
    """The count, the number of distinct networks and the order of the nearest are those of counting every spec."""
    space = space_of(stages, constraints)
    expected = brute_force(stages, constraints, budgets, tolerance)
    networks = {key: rest for *rest, key in expected}
    matches = within_budgets(space, budgets, tolerance, best=10_000)
    assert matches.count == (len(expected),) * 2
    assert matches.distinct == (len(networks),) * 2
    assert matches.complete
    assert [(m.params, m.flops) for m in matches.best] == [(p, f) for _, p, f in sorted(networks.values())]
    assert [m.distance for m in matches.best] == pytest.approx([d for d, *_ in sorted(networks.values())])
    for most in (1, 2, 3, 5, 8):
        few = within_budgets(space, budgets, tolerance, best=most)
        assert [(m.params, m.flops) for m in few.best] == [(m.params, m.flops) for m in matches.best[:most]]
    for match in matches.best:
        count = count_model(match.spec)
        assert (count.params, count.flops) == (match.params, match.flops)
        assert network_key(match.spec) in networks
    assert len({network_key(match.spec) for match in matches.best}) == len(matches.best)


def test_nothing_within_the_tolerance_gives_the_nearest_miss() -> None:
    """Where no architecture meets both budgets, the nearest one beyond them is given, as brute force finds it."""
    space = space_of(3, {})
    budgets = {"params": 1.2e6, "flops": 1.6e8}
    least, *_ = min(brute_force(3, {}, budgets, 1.0))
    matches = within_budgets(space, budgets, least / 3)
    assert matches.count == matches.distinct == (0, 0)
    assert matches.best == ()
    assert matches.nearest_miss is not None
    assert matches.nearest_miss.distance == pytest.approx(least)


def test_blocks_of_pairs_do_not_matter(monkeypatch) -> None:
    """Looked at a few pairs at a time, with halves that are cut elsewhere, the ranking is the same."""
    space, budgets = space_of(3, LIMITS), {"params": 8e5, "flops": 1.5e8}
    at_once = within_budgets(space, budgets, 0.2)
    monkeypatch.setattr(budgets_module, "PAIRS_AT_ONCE", 5)
    monkeypatch.setattr(halves, "WORK_A_WIDTH", 0)
    assert within_budgets(space, budgets, 0.2) == at_once


def test_a_large_space_is_ranked() -> None:
    """In the shipped space of hundreds of millions, nothing among 300,000 draws is nearer than the best."""
    space = load_experiment(Path(__file__).parents[2] / "spaces" / "mobile.yaml").space
    matches = within_budgets(space, {"params": 4.4e6, "flops": 0.7e9}, best=5)
    assert matches.complete
    assert matches.count[0] == matches.count[1] > matches.distinct[0] > 5
    tables = build_tables(space)
    rows = tables.sample(np.random.default_rng(0), 300_000)
    params, flops = tables.count(rows)
    off = np.abs(params / 4.4e6 - 1) + np.abs(flops / 0.7e9 - 1)
    assert (off[tables.feasible(rows)] >= matches.best[0].distance).all()
    assert matches.best[-1].distance < 1e-3


def test_an_end_of_the_search_is_owned_up_to(monkeypatch) -> None:
    """Where too many pairs would have to be looked at, the number stands and the ranking says it is not complete."""
    monkeypatch.setattr(budgets_module, "MAX_PAIRS", 3)
    matches = within_budgets(space_of(3, {}), {"params": 8e5}, 0.3)
    assert matches.count[0] > 0
    assert not matches.complete
    assert matches_to_json(matches)["complete"] is False


def test_the_edges_of_the_tolerance_belong_to_it() -> None:
    """A budget that two networks meet at the very edge of the tolerance, above and below, counts and lists both."""
    params = sorted({params for _, _, params, _ in everything(2)})
    low, high = params[10], params[-10]
    target = (low + high) / 2
    matches = within_budgets(space_of(2, {}), {"params": target}, (high - low) / (high + low), best=10_000)
    listed = {match.params for match in matches.best}
    assert (min(listed), max(listed)) == (low, high)


@pytest.mark.parametrize(
    ("budgets", "arguments", "rule"),
    [
        ({}, {}, "budgets: give at least one"),
        ({"latency_ms": 3.0}, {}, "budgets: must be one of params, flops"),
        ({"params": 0}, {}, "params: must be more than 0"),
        ({"params": float("nan")}, {}, "params: must be a finite number"),
        ({"params": 1e6}, {"tolerance": 1.0}, "tolerance: must be less than 1"),
        ({"params": 1e6}, {"best": -1}, "best: must be 0 or more"),
    ],
)
def test_a_senseless_request_is_the_users_to_mend(budgets, arguments, rule) -> None:
    """Each argument out of its range is one line that says so."""
    with pytest.raises(InputError, match=rule):
        within_budgets(space_of(2, {}), budgets, **arguments)


def test_a_space_too_large_to_list_is_refused_at_once(monkeypatch) -> None:
    """The rule names the way to the number alone, and that way works."""
    monkeypatch.setattr(halves, "MAX_WORK", 10)
    monkeypatch.setattr(budgets_module, "MAX_WORK", 10)
    space, budgets = space_of(3, LIMITS), {"params": 8e5, "flops": 1.5e8}
    with pytest.raises(InputError, match=r"at most 10 options within the budgets; without a list \(`--best 0`\)"):
        within_budgets(space, budgets, 0.2)
    exact = within_budgets(space, budgets, 0.2, best=0)
    monkeypatch.undo()
    assert exact.draws > 0
    low, high = exact.count
    assert low < within_budgets(space, budgets, 0.2, best=0).count[0] < high
    assert matches_to_json(exact)["count"] is None
    assert matches_to_json(exact)["confidence"] == 0.95
