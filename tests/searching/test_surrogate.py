"""The surrogate: its processes against plain linear algebra, its gains against exact hypervolumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modscale.pareto import hypervolume
from modscale.searching.draws import Draws
from modscale.searching.surrogate import Surrogate, describe_rows, fit_process, pairs_of, propose
from modscale.spaces.space import parse_space
from modscale.spaces.tables import SpaceTables, build_tables

STAGES = [
    {"dim": [16, 24, 40], "depth": {"low": 1, "high": 3}, "kernel_size": [[3], [3, 5], [7]]},
    {"dim": [48, 64, 96], "depth": [1, 2], "attention_depth": [0, 2]},
]
BOTH = ["minimize", "minimize"]


def tables_of(**keys: Any) -> SpaceTables:
    return build_tables(parse_space({"stages": STAGES, "base": {"resolution": 64}, **keys}))


def rows_of(tables: SpaceTables, n: int, *, seed: int = 0) -> np.ndarray:
    return np.unique(tables.sample(np.random.default_rng(seed), n), axis=0)


def slopes_of(features: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(features)), features])


def test_features_tell_order_and_kind() -> None:
    """A number is its place from 0 to 1 whatever its unit; two kinds of anything else lie 1 apart."""
    tables = tables_of()
    choice = {
        "stages[0].dim": 24, "stages[0].depth": 3, "stages[0].kernel_size": ((3, 5),),
        "stages[1].dim": 96, "stages[1].depth": 1, "stages[1].attention_depth": 2,
    }  # fmt: skip
    space = tables.space
    options = {p.name: p.options[1] if p.key == "kernel_size" else choice[p.name] for p in space.searched}
    one = describe_rows(tables, tables.row(options)[None])[0]
    kernel = next(p for p in space.searched if p.key == "kernel_size")
    other = describe_rows(tables, tables.row({**options, kernel.name: kernel.options[2]})[None])[0]
    assert sorted(set(one.round(3))) == [0, 0.5, 0.707, 1]
    assert np.linalg.norm(one - other) == pytest.approx(1)


def test_a_process_follows_a_smooth_function() -> None:
    """Fitted to 60 values of a function, it draws unseen ones within its own intervals, and near the truth."""
    rng = np.random.default_rng(0)
    features, unseen = rng.random((60, 3)), rng.random((200, 3))

    def truth(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(2 * x[:, 0] + np.sin(3 * x[:, 1])))

    process = fit_process(features, slopes_of(features), truth(features), logarithmic=True)
    draws = process.draw(unseen, slopes_of(unseen), rng.standard_normal((400, 200)))
    log_error = np.log(np.median(draws, axis=0)) - np.log(truth(unseen))
    assert np.abs(log_error).mean() < 0.1 * np.log(truth(unseen)).std()
    low, high = np.quantile(draws, (0.005, 0.995), axis=0)
    assert ((low <= truth(unseen)) & (truth(unseen) <= high)).mean() > 0.9


def test_a_process_does_not_believe_noise() -> None:
    """Of values that are noise alone it learns nearly nothing: its draws stay near their mean."""
    rng = np.random.default_rng(1)
    features = rng.random((80, 4))
    values = rng.standard_normal(80)
    process = fit_process(features, slopes_of(features), values, logarithmic=False)
    centres = process.draw(features, slopes_of(features), np.zeros((1, 80)))[0]
    assert centres.std() < 0.5 * values.std()


def test_a_process_is_the_textbook_posterior() -> None:
    """Mean and deviation from the kernel's own definition and a linear solve, at the scales that were chosen."""
    rng = np.random.default_rng(2)
    features, unseen = rng.random((12, 2)), rng.random((5, 2))
    values = features[:, 0] + 0.1 * rng.standard_normal(12)
    found = fit_process(features, slopes_of(features), values, logarithmic=False)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        r = np.linalg.norm(a - b) * 5**0.5 / found.scale
        matern = (1 + r + r * r / 3) * np.exp(-r)
        return float(found.linear * (1 + a @ b) / 3 + (1 - found.linear) * matern)

    gram = np.array([[kernel(a, b) for b in features] for a in features])
    noise = np.linalg.inv(found.inverse)[0, 0] - gram[0, 0]
    target = (values - values.mean()) / values.std()
    for point, draws in zip(
        unseen, found.draw(unseen, slopes_of(unseen), np.array([[0.0] * 5, [1.0] * 5])).T, strict=True
    ):
        across = np.array([kernel(point, b) for b in features])
        solved = np.linalg.solve(gram + noise * np.eye(12), np.column_stack([target, across]))
        mean = values.mean() + values.std() * (across @ solved[:, 0])
        spread = values.std() * np.sqrt(found.variance * (kernel(point, point) - across @ solved[:, 1]))
        assert draws == pytest.approx([mean, mean + spread])


def test_a_process_that_believes_what_is_under_way_is_surer_and_of_the_same_mind() -> None:
    """As one that has these trials, at their expected values, among its own; means stay, spreads shrink."""
    rng = np.random.default_rng(3)
    features, waiting, unseen = rng.random((9, 2)), rng.random((3, 2)), rng.random((6, 2))
    process = fit_process(features, slopes_of(features), features[:, 0] + rng.random(9) / 5, logarithmic=False)
    believing = process.believing(waiting, slopes_of(waiting))
    normal = np.array([[0.0] * 6, [1.0] * 6])
    before, after = (one.draw(unseen, slopes_of(unseen), normal) for one in (process, believing))
    assert after[0] == pytest.approx(before[0])
    assert (after[1] - after[0] < before[1] - before[0]).all()
    assert process.expect(waiting, slopes_of(waiting)) == pytest.approx(believing.expect(waiting, slopes_of(waiting)))
    both = np.concatenate([features, waiting])
    gram = pairs_of(both, slopes_of(both), both, slopes_of(both)).kernel(process.scale, process.linear)
    assert believing.inverse == pytest.approx(np.linalg.inv(gram + process.noise * np.eye(12)))


def test_what_is_under_way_is_no_gain_any_more() -> None:
    """The exact hypervolume with the trials under way among the front: where both objectives are counts."""
    tables = tables_of()
    everything = rows_of(tables, 400)
    rows = everything[np.argsort(tables.count(everything)[0])[-30::5]]
    waiting, candidates = rows_of(tables, 3, seed=2), rows_of(tables, 60, seed=1)
    losses, expected, counts = (
        np.stack(tables.count(one), axis=1).astype(float) for one in (rows, waiting, candidates)
    )
    surrogate = Surrogate(tables, rows, losses, counts=(0, 1), costs=(True, True), waiting=waiting)
    gains = surrogate.gains(candidates, np.random.default_rng(0))
    known = [*losses, *expected]
    before = hypervolume(known, surrogate.corner, BOTH)
    exact = np.array([hypervolume([*known, count], surrogate.corner, BOTH) - before for count in counts])
    assert (exact > 0).sum() >= 3
    assert gains[exact == 0] == pytest.approx(0)
    assert gains == pytest.approx(gains.sum() / exact.sum() * exact, abs=0.08 * gains.max())


def test_gains_of_exact_objectives_are_those_of_the_hypervolume() -> None:
    """Where both objectives are counts nothing is uncertain: gains are the exact ones, up to one factor."""
    tables = tables_of()
    everything = rows_of(tables, 400)
    rows = everything[np.argsort(tables.count(everything)[0])[-30::5]]  # large ones: there is much to gain
    candidates = rows_of(tables, 60, seed=1)
    losses = np.stack(tables.count(rows), axis=1).astype(float)
    surrogate = Surrogate(tables, rows, losses, counts=(0, 1), costs=(True, True))
    gains = surrogate.gains(candidates, np.random.default_rng(0))
    counts = np.stack(tables.count(candidates), axis=1).astype(float)
    before = hypervolume(losses, surrogate.corner, BOTH)
    exact = np.array([hypervolume([*losses, count], surrogate.corner, BOTH) - before for count in counts])
    assert (exact > 0).sum() >= 5
    assert gains[exact == 0] == pytest.approx(0)
    factor = gains.sum() / exact.sum()
    assert gains == pytest.approx(factor * exact, abs=0.06 * gains.max())


def test_the_gain_of_one_objective_is_what_it_is_better_by() -> None:
    """With one exact objective the best candidate is the one with the least of it, and the gain is its lead."""
    tables = tables_of()
    candidates = rows_of(tables, 80, seed=1)
    rows = candidates[np.argsort(tables.count(candidates)[1])[-5:]]
    losses = tables.count(rows)[1].astype(float)[:, None]
    gains = Surrogate(tables, rows, losses, counts=(1,), costs=(True,)).gains(candidates, np.random.default_rng(0))
    lead = np.maximum(losses.min() - tables.count(candidates)[1], 0)
    assert lead.max() > 0
    assert gains / gains.max() == pytest.approx(lead / lead.max())


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_proposals_are_feasible_and_new(objectives: int) -> None:
    """For any number of objectives, also where all trials have equal values."""
    tables = tables_of(constraints={"params": {"max": 100_000}})
    draws = Draws(tables.space, tables, steps=4, seed=0)
    rng = np.random.default_rng(0)
    rows = draws.rows(rng, 6)
    for row in rows:
        draws.take(tables.spec(row))
    for losses in (rng.standard_normal((6, objectives)), np.ones((6, objectives))):
        for _ in range(3):
            options = propose(draws, rng, rows, losses, counts=(None,) * objectives, costs=(False,) * objectives)
            assert options is not None
            assert draws.is_new(options)
            assert draws.is_feasible(options)


def test_nothing_is_proposed_where_all_was_tried() -> None:
    """The study then looks for what is left of the space by itself."""
    tables = build_tables(parse_space({"stages": [{"dim": [16, 24], "depth": [1, 2]}]}))
    draws = Draws(tables.space, tables, steps=4, seed=0)
    rows = rows_of(tables, 200)
    for row in rows:
        draws.take(tables.spec(row))
    losses = np.random.default_rng(0).random((len(rows), 2))
    found = propose(draws, np.random.default_rng(0), rows, losses, counts=(None, 1), costs=(False, True))
    assert found is None
