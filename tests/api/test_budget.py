"""What of a search is to be done, and what that comes to, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from fake_runs import SPACE, fake_trials

from modscale.api.budget import Budget
from modscale.api.rehearsed_report import imagined_ends
from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching.costs import Costs
from modscale.searching.rehearsal import Rehearsal, Rehearsed
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.training.pace import Pace

XXS, S = published("xxs"), published("s")
PACE = Pace(start_s=1.0, step_s=0.01, score_image_s=0.001, steps_an_epoch=100, val_images=1000)
TIMED_S = 5 * 0.5
"""Five rounds of half a second, without a reference."""


def experiment_of(**search: Any) -> Experiment:
    return parse_experiment({**SPACE, "latency": {"runs": 10}, "search": {"trials": 6, **search}})


def costs_of() -> Costs:
    """Whatever the network: 2 s for its export, half a second for a round, 1 + 0.01 a step + 0.001 an image to train.

    All in proportion to its blocks, of which xxs and s count as one.
    """
    settings = LatencySettings(runs=10, reference=False, threads=1)
    facts = {"processor": "one", "system": "Linux", "runtime": "1.0", "cores": 2, "threads": 1}
    one = Timings(times_ns=(10_000, 10_000), preemptions=0, cpu_ns=20_000, main_cpu_ns=20_000)
    rounds = tuple(Round(order=i, at_s=0.0, seconds=0.5, timings=one) for i in range(5))
    device = Device(settings, facts)
    session = Measurement(models=({"name": "a"},), device=device, rounds=(rounds,), references=())
    whole = Rehearsed(spec=XXS, flops=count_model(XXS).flops, results={}, export_s=2.0, pace=PACE)
    anchor = Rehearsed(spec=XXS, flops=count_model(XXS).flops, results={}, export_s=0.0, pace=PACE)
    return Costs(
        Rehearsal(
            networks=(whole,),
            sessions=(session,),
            anchor=anchor,
            reference_ms=None,
            workers_start_s=0.0,
            bytes_a_round=0.0,
            bytes_a_run=0.0,
        )
    )


def budget_of(experiment: Experiment, **changes: Any) -> Budget:
    values: dict[str, Any] = {
        "experiment": experiment, "drawn": [XXS] * 4, "ends": [(1.0, 1)] * 4, "done": 0, "left": 6, "references": [],
        "finals": 0, "start_s": 5.0, "report_s": 1.5, "workers": 1,
    }  # fmt: skip
    return Budget(**values | changes)


def test_one_worker_takes_the_sum() -> None:
    """Six trials of 2 + 2.5 + 4 s (two epochs of 100 steps, 1000 images), the anchor once, s, and xxs untrained."""
    parts = budget_of(experiment_of(), references=[XXS, S], finals=2).parts_s(costs_of())
    assert parts["start"] == 5.0
    assert parts["trials"] == pytest.approx(6 * (2 + TIMED_S + 4))
    assert parts["anchor"] == pytest.approx(4.0)
    blocks = S.num_blocks() / XXS.num_blocks()
    assert parts["references"] == pytest.approx(2 + TIMED_S + (2 + 4) * blocks + TIMED_S)
    assert parts["finals"] == pytest.approx(2 * 2 + 2 * TIMED_S, rel=1e-3)
    assert parts["report"] == 1.5
    more = budget_of(experiment_of()).parts_s(costs_of(), epochs=4, val_images=3000)
    assert more["trials"] == pytest.approx(6 * (2 + TIMED_S + 1 + 4 + 3))


def test_what_is_finished_is_not_planned() -> None:
    """Nothing left: no anchor either; trials that come after those drawn are like them."""
    over = budget_of(experiment_of(), left=0).parts_s(costs_of())
    assert over == {"start": 5.0, "trials": 0, "anchor": 0.0, "references": 0, "finals": 0.0, "report": 1.5}
    specs = budget_of(experiment_of(), drawn=[XXS, S], ends=[(1.0, 1)] * 2).candidates(5, 1)
    assert specs == [S, XXS, S, XXS, S]


def test_two_workers_take_less() -> None:
    """Two candidates: the anchor beside both exports, timed in turns, trained at once: 4 + 5 + 4 s."""
    budget = budget_of(experiment_of(window=4), left=2, workers=2)
    assert budget.parts_s(costs_of())["trials"] == pytest.approx(4 + 2 * TIMED_S + 4)
    assert budget.parts_s(costs_of())["anchor"] == 0.0  # in it


def test_what_a_rung_ends_is_trained_for_its_share() -> None:
    """Of each three candidates one ends at half, scored once; the others are scored twice."""
    experiment = experiment_of(rungs=[0.5])
    budget = budget_of(experiment, drawn=[XXS] * 3, ends=[(1.0, 2), (1.0, 2), (0.5, 1)], left=3)
    assert budget.ended_early == 1
    timed = 2 + TIMED_S
    assert budget.parts_s(costs_of())["trials"] == pytest.approx(3 * timed + 2 * (1 + 2 + 2) + (1 + 1 + 1))
    failed = budget_of(experiment_of(), drawn=[XXS], ends=[(0.0, 0)], left=2)
    assert failed.parts_s(costs_of())["trials"] == pytest.approx(2 * timed)
    assert failed.ended_early == 2


def test_the_searchs_own_judge_tells_who_is_ended() -> None:
    """Eight go on whatever they are; the ninth, whom all of them beat, ends at the rung, and the tenth beats all."""
    experiment = parse_experiment({**SPACE, "search": {"rungs": [0.5], "keep": 0.5}})
    trials = fake_trials(experiment, 10)
    for i, trial in enumerate(trials):
        accuracy = {8: 0.1, 9: 0.9}.get(i, 0.5 + i / 100)
        latency = {8: 99.0, 9: 0.1}.get(i, 10.0 - i / 100)
        trial.results.update({"accuracy": accuracy, "latency_ms": latency})  # type: ignore[attr-defined]
    assert imagined_ends(experiment, trials) == [(1.0, 2)] * 8 + [(0.5, 1), (1.0, 2)]
    plain = parse_experiment({**SPACE, "search": {"rungs": []}})
    assert imagined_ends(plain, trials) == [(1.0, 1)] * 10
    limited = parse_experiment({**SPACE, "constraints": {"latency_ms": {"max": 50}}})
    assert imagined_ends(limited, trials) == [(1.0, 1)] * 8 + [(0.0, 0), (1.0, 1)]
