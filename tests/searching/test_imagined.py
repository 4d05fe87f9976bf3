"""A bench on which nothing is done: a clock, against what is worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from fake_runs import SPACE
from rehearsed import SUMMARY, XXS, S, rehearsal_of, session

from modscale.api.workers import make_engine
from modscale.errors import TrialFailed
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.runs.trials import Rung
from modscale.searching.engine import run_all
from modscale.searching.imagined import ImaginedBench, ImaginedPool
from modscale.searching.measures import Evaluation, Evaluator
from modscale.searching.rehearsal import Rehearsed
from modscale.searching.steps import take_steps
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import estimate_accuracy
from modscale.training.pace import Pace

TIMED_S = 5 * 0.5
"""Five rounds of half a second, without a reference; their runs take no time."""


def experiment_of(**keys: Any) -> Experiment:
    return parse_experiment({**SPACE, "latency": {"runs": 10, "reference": False, "threads": 1}, **keys})


def evaluator_of(experiment: Experiment, workers: int = 1, ready_s: float = 0.0) -> Evaluator:
    """An export takes 1 s, the anchor 3 s, a training 4 s (1 s, 200 steps of 10 ms, 1000 images)."""
    pace = Pace(start_s=1.0, step_s=0.01, score_image_s=0.001, steps_an_epoch=100, val_images=1000)
    short = Pace(start_s=0.0, step_s=0.01, score_image_s=0.001, steps_an_epoch=100, val_images=1000)
    whole = Rehearsed(spec=S, flops=1, results={}, export_s=1.0, pace=pace)
    anchor = Rehearsed(spec=S, flops=2, results={}, export_s=0.0, pace=short)
    measured = session((0.5,), (1e-5,), experiment.latency)
    rehearsal = rehearsal_of(measured, networks=(whole,), anchor=anchor, workers_start_s=ready_s)
    evaluator = Evaluator(experiment, "synthetic")
    evaluator.bench = ImaginedBench(experiment, rehearsal, SUMMARY, workers=workers)
    # between whole and anchor by FLOPs, s lies beyond: a training is the anchor's, but for its start
    evaluator.bench.costs.training_s = lambda *_, share=1.0, scorings=1: 1 + 2 * share + scorings  # type: ignore
    return evaluator


def seconds_of(networks: Sequence[ModelSpec], *, workers: int, window: int = 4, **settings: Any) -> float:
    """Until all are evaluated."""
    evaluator = evaluator_of(experiment_of(), workers, **settings)
    bench = evaluator.bench
    assert isinstance(bench, ImaginedBench)
    with make_engine(evaluator, workers, window, partial(ImaginedPool, clock=bench.clock)) as engine:
        run_all(engine, [evaluator.steps(one) for one in networks])
    return bench.clock.now_s


def variants(count: int) -> list[ModelSpec]:
    from dataclasses import replace

    return [replace(S, name=str(i), stages=(replace(S.stages[0], dim=32 + i), *S.stages[1:])) for i in range(count)]


def test_one_worker_does_one_thing_after_the_other() -> None:
    """Of each network export, timing and training, and the anchor once."""
    found = seconds_of(variants(3), workers=1)
    assert found == pytest.approx(3 + 3 * (1 + TIMED_S + 4), rel=1e-3)


def test_two_workers_share_what_can_be_shared() -> None:
    """One trains the anchor while the other exports both; then both are timed, all standing still, and trained at once.

    By hand: exports until 2, timing until 7, in which the anchor (3 s) stands still with a second to go; it ends at 8,
    and both trainings, which need it, at 12.
    """
    assert seconds_of(variants(2), workers=2) == pytest.approx(12.0, rel=1e-3)


def test_a_worker_that_comes_late_is_waited_for_by_nobody() -> None:
    """The second is ready at 100: one does all, and both models are timed in turns."""
    assert seconds_of(variants(2), workers=2, ready_s=100.0) == pytest.approx(3 + 2 + 5 + 8, rel=1e-3)


def test_a_network_has_the_accuracy_of_its_size() -> None:
    """And a latency by the protocol; the published one that is the anchor is not trained again."""
    evaluator = evaluator_of(experiment_of())
    bench = evaluator.bench
    assert isinstance(bench, ImaginedBench)
    found: Evaluation = take_steps(evaluator.steps(S), lambda request: evaluator.answer(request, lambda stage: None))
    assert found.results["accuracy"] == estimate_accuracy(S, method="thin", evidence=0.0).accuracy
    assert found.results["latency_ms"] > 0
    assert bench.trained == [(S, 1.0, 1)]
    take_steps(evaluator.steps(XXS), lambda request: evaluator.answer(request, lambda stage: None))
    assert bench.trained == [(S, 1.0, 1)]


def test_the_judge_ends_what_it_would_end() -> None:
    """At half of a training, scored once; or by a limit, before any of it."""

    def at_half(results: Any, rungs: Sequence[Rung]) -> str | None:
        return "enough" if rungs else None

    def never(results: Any, rungs: Sequence[Rung]) -> str | None:
        if "latency_ms" in results:
            raise TrialFailed("too slow")
        return None

    evaluator = evaluator_of(experiment_of(search={"rungs": [0.5]}))
    bench = evaluator.bench
    assert isinstance(bench, ImaginedBench)
    found = take_steps(evaluator.steps(S, at_half), lambda request: evaluator.answer(request, lambda stage: None))
    assert found.stopped == "enough"
    assert bench.trained == [(S, 0.5, 1)]
    with pytest.raises(TrialFailed, match="too slow"):
        take_steps(evaluator.steps(S, never), lambda request: evaluator.answer(request, lambda stage: None))
    assert bench.trained == [(S, 0.5, 1)]

    def late(results: Any, rungs: Sequence[Rung]) -> str | None:
        if rungs:
            raise TrialFailed("too late")
        return None

    with pytest.raises(TrialFailed, match="too late"):
        take_steps(evaluator.steps(S, late), lambda request: evaluator.answer(request, lambda stage: None))
