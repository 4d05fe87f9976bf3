"""A search rehearsed on a few networks: which, and what follows for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching.rehearsal import Costs, Rehearsed, choose_networks, draw_candidates
from modscale.searching.study import SearchStudy
from modscale.settings import LatencySettings
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.training.pace import Pace

STAGES = [{"dim": [16, 24, 40], "depth": {"low": 1, "high": 9}}, {"dim": [48, 64, 80], "depth": [1, 2, 3]}]
FACTS = {"processor": "one", "system": "Linux", "runtime": "1.0", "cores": 2, "threads": 1}


def experiment_of(**keys: object) -> Experiment:
    return parse_experiment({"name": "toy", "stages": STAGES, "base": {"resolution": 64}, **keys})


def study_of(experiment: Experiment) -> SearchStudy:
    return SearchStudy(experiment, build_tables(experiment.space), seed=0)


def rehearsed(flops: int, *, export_s: float = 1.0, latency_s: float, step_s: float) -> Rehearsed:
    pace = Pace(start_s=0.5, step_s=step_s, score_image_s=0.001, steps_an_epoch=100, val_images=1000)
    return Rehearsed(spec=published("xxs"), flops=flops, results={}, export_s=export_s, latency_s=latency_s, pace=pace)


def measurement(*, each_s: float, reference_s: float, spread: float, settings: LatencySettings) -> Measurement:
    """Five rounds of a network whose medians differ by `spread` of a millisecond, and six of the reference."""

    def taken(order: int, seconds: float, ms: float) -> Round:
        ns = round(ms * 1e6)
        timings = Timings(times_ns=(ns, ns), preemptions=0, cpu_ns=2 * ns, main_cpu_ns=2 * ns)
        return Round(order=order, at_s=float(order), seconds=seconds, timings=timings)

    rounds = tuple(taken(2 * i + 1, each_s, 1 + spread * (i % 3 - 1)) for i in range(5))
    references = tuple(taken(2 * i, reference_s, 1.0) for i in range(6))
    device = Device(settings, FACTS)
    return Measurement(models=({"name": "a"},), device=device, rounds=(rounds,), references=references)


def test_the_first_are_those_that_a_search_asks_for() -> None:
    """The candidates that are drawn begin with the search's own; all differ, and there are enough to know the sizes."""
    experiment = experiment_of(search={"trials": 9, "startup_trials": 5})
    drawn = draw_candidates(study_of(experiment), 9, 5)
    study = study_of(experiment)
    asked = [study.ask() for _ in range(5)]
    assert [candidate.spec for candidate in drawn[:5]] == [one.spec for one in asked if one is not None]
    assert [candidate.choice for candidate in drawn[:5]] == [one.choice for one in asked if one is not None]
    assert len(drawn) == 24
    assert len({candidate.spec.stages for candidate in drawn}) == 24
    assert len(draw_candidates(study_of(experiment), 2, 5)) == 24


def test_a_small_space_is_drawn_to_its_end() -> None:
    """Fewer networks than are wanted, and each once."""
    experiment = experiment_of(stages=[{"dim": [16, 24], "depth": [1, 2]}])
    assert len(draw_candidates(study_of(experiment), 9, 2)) == 4


def test_small_middling_and_large_ones_are_rehearsed() -> None:
    """The middle of each third by FLOPs; of one network that one."""
    specs = [candidate.spec for candidate in draw_candidates(study_of(experiment_of()), 9, 5)]
    chosen = [count_model(spec).flops for spec in choose_networks(specs)]
    assert chosen == [sorted(count_model(spec).flops for spec in specs)[i] for i in (4, 12, 20)]
    assert choose_networks(specs[:1]) == specs[:1]
    assert len(choose_networks(specs[:2])) == 2


def test_what_others_take_lies_between() -> None:
    """By FLOPs in a straight line, the nearest beyond; a training grows by its epochs and images."""
    costs = Costs([rehearsed(300, latency_s=9.0, step_s=0.03), rehearsed(100, latency_s=5.0, step_s=0.01)], [])
    assert costs.timing_s(100) == 6.0
    assert costs.timing_s(150) == pytest.approx(7.0)
    assert costs.timing_s(10) == 6.0
    assert costs.timing_s(10**9) == 10.0
    assert costs.training_s(200, 2) == pytest.approx(0.5 + 200 * 0.02 + 1.0)
    assert costs.training_s(200, 4, 5000) == pytest.approx(0.5 + 400 * 0.02 + 5.0)


def test_the_end_takes_rounds_in_turns() -> None:
    """Worked by hand: exports, then the first rounds or those within the patience, with the reference between."""
    one = rehearsed(100, export_s=2.0, latency_s=5.0, step_s=0.01)
    settings = LatencySettings(runs=50, patience_s=4.0, threads=1)
    steady = Costs([one], [measurement(each_s=0.5, reference_s=0.25, spread=0.0, settings=settings)])
    # 4 networks: 5 turns of 4 x 0.5 s and two references of 0.25 s
    assert steady.finals_s(4) == pytest.approx(4 * 2.0 + 5 * (2.0 + 0.5))
    assert steady.rounds() == 11
    assert steady.finals_bytes(4, 100.0) == pytest.approx(5 * 100 * (4 + 2))
    shaky = Costs([one], [measurement(each_s=0.5, reference_s=0.25, spread=0.3, settings=settings)])
    assert shaky.finals_s(4) == pytest.approx(4 * 2.0 + (5 + 6) * (2.0 + 0.5))  # 6 rounds of 0.625 s are the patience
    alone = replace(settings, reference=False)
    found = measurement(each_s=0.5, reference_s=0.25, spread=0.0, settings=alone)
    assert Costs([one], [replace(found, references=())]).finals_s(4) == pytest.approx(8.0 + 5 * 2.0)
