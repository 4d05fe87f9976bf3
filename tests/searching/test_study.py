"""The Optuna study: what it stores, what Optuna's own tools see, and how candidates are drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from modscale.errors import RunError
from modscale.pareto import hypervolume
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.runs.trials import Trial
from modscale.searching.draws import iter_feasible
from modscale.searching.study import Candidate, SearchStudy, parameter_importances, stored_trials
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model

STAGES = [
    {"dim": [16, 24, 40], "depth": {"low": 1, "high": 3}, "kernel_size": [[3], [3, 5], [7]]},
    {"dim": [48, 64], "depth": [1, 2], "attention_depth": [0, 2], "attention_mlp_ratio": [2, 2.5, 4]},
]


def experiment_of(**keys: Any) -> Experiment:
    return parse_experiment({"name": "toy", "stages": STAGES, "base": {"resolution": 64}, **keys})


def study_of(experiment: Experiment) -> SearchStudy:
    return SearchStudy(experiment, build_tables(experiment.space), seed=0)


def finish(candidate: Candidate, *, accuracy: float = 0.5, latency_ms: float = 1.0, state: str = "complete") -> Trial:
    count = count_model(candidate.spec)
    complete = state == "complete"
    measured = {"latency_ms": latency_ms, "latency_ci95_ms": 0.1, "accuracy": accuracy, "val_images": 100}
    return Trial(
        number=candidate.number,
        state=state,
        reason=None if complete else "a reason",
        spec=candidate.spec,
        results={"params": count.params, "flops": count.flops, **(measured if complete else {})},
        seconds=1.0,
        choice=candidate.choice,
    )


def test_a_failed_trial_is_failed_in_the_study() -> None:
    """Optuna's own state says which trials failed."""
    study = study_of(experiment_of())
    candidate = study.ask()
    assert candidate is not None
    study.tell(finish(candidate, state="failed"))
    assert study.study.trials[0].state == optuna.trial.TrialState.FAIL


def test_startup_trials_are_spread_over_the_sizes() -> None:
    """Each start-up trial lies in its own step of log(params), where uniform draws would crowd near the largest."""
    experiment = experiment_of(search={"startup_trials": 8})
    study = study_of(experiment)
    candidates = [study.ask() for _ in range(8)]
    sizes = np.log([count_model(candidate.spec).params for candidate in candidates if candidate])
    tables = build_tables(experiment.space)
    every = np.log(tables.count(tables.sample(np.random.default_rng(1), 20_000))[0])
    steps = np.floor((sizes - every.min()) / (every.max() - every.min()) * 8).clip(0, 7)
    assert len(set(steps)) >= 7


def test_the_surrogate_finds_in_sixteen_trials_more_than_chance_in_thirty_two() -> None:
    """Networks of one width are twice as good in both objectives: by hypervolume, three seeds."""
    volumes = {}
    for sampler, budget in (("surrogate", 16), ("random", 32)):
        experiment = experiment_of(search={"startup_trials": 4, "sampler": sampler})
        volumes[sampler] = []
        for seed in range(3):
            study, values = SearchStudy(experiment, build_tables(experiment.space), seed=seed), []
            for _ in range(budget):
                candidate = study.ask()
                assert candidate is not None
                count, good = count_model(candidate.spec), candidate.choice["stages[0].dim"] == 24
                values.append((count.params / (2e5 if good else 4e5), count.flops / (1e6 if good else 5e5)))
                study.tell(finish(candidate, accuracy=values[-1][0], latency_ms=values[-1][1]))
            volumes[sampler].append(hypervolume(values, (0.0, 40.0), ("maximize", "minimize")))
    assert sum(volumes["surrogate"]) > sum(volumes["random"])


def test_a_killed_search_by_surrogate_goes_on_as_if_it_had_not_been() -> None:
    """At every number a study made again from the finished trials, one of them failed, asks for the same candidate."""
    experiment = experiment_of(search={"startup_trials": 3})
    study = study_of(experiment)
    trials: list[Trial] = []
    for number in range(12):
        candidate = study.ask()
        assert candidate is not None
        again = study_of(experiment)
        again.replay(trials)
        other = again.ask()
        assert other is not None
        assert other.choice == candidate.choice
        count = count_model(candidate.spec)
        state = "failed" if number == 5 else "complete"
        trials.append(
            finish(candidate, accuracy=min(1.0, count.params / 1e6), latency_ms=count.flops / 1e6, state=state)
        )
        study.tell(trials[-1])


@pytest.mark.parametrize("sampler", ["surrogate", "tpe"])
def test_a_machine_that_runs_at_half_its_speed_for_a_while_changes_no_candidate(sampler: str) -> None:
    """Every other trial at half speed, its reference too: the same draws as on a steady machine, also after a kill.

    And the copy of the study says what the sampler was told, at the level of the first trial's reference.
    """
    experiment = experiment_of(search={"startup_trials": 3, "sampler": sampler})
    steady, fitful = study_of(experiment), study_of(experiment)
    trials: list[Trial] = []
    for number in range(10):
        candidate, other = steady.ask(), fitful.ask()
        assert candidate is not None
        assert other is not None
        assert candidate.choice == other.choice
        count = count_model(candidate.spec)
        told = finish(candidate, accuracy=min(1.0, count.params / 1e6), latency_ms=count.flops / 1e6)
        steady.tell(told)
        times = 2.0 if number % 2 == 0 else 1.0
        slower = {"latency_ms": times * told["latency_ms"], "latency_reference_ms": 8.0 * times}
        trials.append(replace(told, results={**told.results, **slower}))
        fitful.tell(trials[-1])
        fitful = study_of(experiment) if number == 6 else fitful
        if number == 6:
            fitful.replay(trials)
    levelled = [2 * trial.values[1] for trial in steady.study.trials]
    assert [trial.values[1] for trial in fitful.study.trials] == levelled
    assert [stored.values[1] for stored in stored_trials(experiment, trials)] == levelled


def test_the_sampler_learns_from_what_it_is_told() -> None:
    """When one width is better on both objectives, TPE proposes it more often than chance (one in three)."""
    experiment = experiment_of(search={"startup_trials": 8, "sampler": "tpe"})
    study = study_of(experiment)
    later = []
    for number in range(40):
        candidate = study.ask()
        assert candidate is not None
        good = candidate.choice["stages[0].dim"] == 24
        study.tell(finish(candidate, accuracy=0.9 if good else 0.1, latency_ms=1.0 if good else 2.0))
        if number >= 20:
            later.append(good)
    assert sum(later) >= 14


def test_importances_find_the_parameter_that_matters() -> None:
    """Accuracy set by one parameter alone: PED-ANOVA gives that one most of the weight."""
    experiment = experiment_of(search={"startup_trials": 60, "sampler": "random"})
    study = study_of(experiment)
    trials = []
    for _ in range(60):
        candidate = study.ask()
        assert candidate is not None
        trials.append(finish(candidate, accuracy=candidate.spec.stages[0].depth / 4))
    importances = parameter_importances(experiment.space, trials, "accuracy")
    assert sum(importances.values()) == pytest.approx(1)
    assert importances["stages[0].depth"] > 0.8
    assert parameter_importances(experiment.space, trials, "latency_ms") == {}


def test_start_up_trials_cover_fixed_steps_of_size() -> None:
    """Each of them falls into another of as many equal steps of log(params), by a count of the whole space."""
    widths = {"low": 16, "high": 512, "step": 4}
    stages = [{"dim": widths, "depth": {"low": 1, "high": 12}, "expansion": [2, 4, 6]}]
    experiment = parse_experiment({"stages": stages, "search": {"startup_trials": 6}})
    study, tables = study_of(experiment), build_tables(experiment.space)
    candidates = [study.ask() for _ in range(6)]
    sizes = [math.log(count_model(candidate.spec).params) for candidate in candidates if candidate]
    everything = np.log(tables.count(np.array(list(iter_feasible(tables))))[0].astype(float))
    edges = np.linspace(everything.min(), everything.max(), 7)
    assert sorted(np.searchsorted(edges[1:-1], sizes)) == list(range(6))


def test_a_study_is_rebuilt_around_numbers_that_are_missing() -> None:
    """A lost line leaves a gap: the study is made again with the same numbers, and hands out new ones after them."""
    experiment = experiment_of(search={"startup_trials": 2})
    study = study_of(experiment)
    trials = [finish(candidate) for candidate in (study.ask() for _ in range(6)) if candidate]
    left = [trial for trial in trials if trial.number not in (1, 4)]
    again = study_of(experiment)
    again.replay(left)
    stored = {t.number: t for t in again.study.get_trials()}
    assert sorted(stored) == list(range(6))
    assert [n for n, t in stored.items() if t.state.name == "COMPLETE"] == [0, 2, 3, 5]
    assert all(stored[trial.number].params == dict(trial.choice) for trial in left)
    candidate = again.ask()
    assert candidate is not None
    assert candidate.number == 6
    far = replace(left[-1], number=10**9)
    with pytest.raises(RunError, match="must not leave more than 1000 numbers out, got 1000000000"):
        study_of(experiment).replay([far])


def test_an_exhausted_space_is_exhausted_again_after_a_restart() -> None:
    """Nothing is left to draw, also for a study that is made again from its trials."""
    experiment = parse_experiment({"stages": [{"dim": [16, 24], "depth": 1}]})
    study = study_of(experiment)
    trials = [finish(candidate) for candidate in (study.ask(), study.ask()) if candidate]
    assert len(trials) == 2
    again = study_of(experiment)
    again.replay(trials)
    assert again.ask() is None
    assert again.ask() is None


@pytest.mark.parametrize("name", ["fake", "toy"])
def test_seeded_searches_draw_what_the_first_release_drew(name: str) -> None:
    """Recorded from version 0.1.0, whose study lay in a file: trials 7k + 5 failed, the others measured by formula."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "candidates.json").read_text())[name]
    experiment = parse_experiment({**golden["space"], "search": {**golden["space"]["search"], "sampler": "tpe"}})
    study = SearchStudy(experiment, build_tables(experiment.space), seed=golden["seed"])
    trials: list[Trial] = []
    for number, expected in enumerate(golden["candidates"]):
        if number % 9 == 4:  # as a kill and a restart would
            study = SearchStudy(experiment, build_tables(experiment.space), seed=golden["seed"])
            study.replay(trials)
        candidate = study.ask()
        assert candidate is not None
        assert list(candidate.choice.values()) == expected
        count = count_model(candidate.spec)
        state = "failed" if number % 7 == 5 else "complete"
        accuracy, latency_ms = min(1.0, count.params / 1e7), count.flops / 1e6
        trials.append(finish(candidate, accuracy=accuracy, latency_ms=latency_ms, state=state))
        study.tell(trials[-1])
