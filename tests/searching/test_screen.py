"""Limits of the latency in a search: by prediction before, and by measurement after, and always before training."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from fake_runs import fake_trials
from fake_steps import as_steps

from modscale.api.watching import Silence
from modscale.errors import InputError, TrialFailed
from modscale.latency.predictor import Prediction
from modscale.runs.experiment import experiment_to_dict, parse_experiment
from modscale.runs.trials import read_trials
from modscale.searching.loop import run_search
from modscale.searching.measures import Evaluation
from modscale.searching.rungs import make_judge
from modscale.searching.screen import check_limits, comparing, limiting, make_screen
from modscale.searching.study import SearchStudy
from modscale.spaces.space import Bounds
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model

DOCUMENT = {
    "name": "fake",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [
        {"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [2, 4]},
        {"dim": {"low": 32, "high": 64, "step": 8}, "depth": [1, 2], "attention_depth": [0, 1]},
    ],
    "search": {"trials": 12, "startup_trials": 4},
}
LIMITED = parse_experiment(DOCUMENT | {"constraints": {"latency_ms": {"max": 3.0}, "params": {"max": 200_000}}})


def true_ms(spec) -> float:
    return count_model(spec).flops / 1e6


class Fake:
    """A predictor that is right, and whose interval is a tenth to either side."""

    def predict(self, networks):
        found = [sum(piece.flops for piece in pieces) / 1e6 for pieces in networks]
        return [Prediction(latency_ms=ms, ci90_ms=(0.9 * ms, 1.1 * ms), unseen=0) for ms in found]


def search(folder, *, predictor=None, sampler="surrogate"):
    """The trials of a search, and which networks it trained."""
    experiment = parse_experiment(experiment_to_dict(LIMITED) | {"search": DOCUMENT["search"] | {"sampler": sampler}})
    trained = []

    def evaluate(spec, judge=lambda results, rungs: None):
        results = {"params": count_model(spec).params, "flops": count_model(spec).flops, "latency_ms": true_ms(spec)}
        judge(results, [])
        trained.append(spec)
        return Evaluation(results=results | {"accuracy": 0.5, "val_images": 100})

    study = SearchStudy(
        experiment, build_tables(experiment.space), seed=0, allows=make_screen(predictor, experiment.limits)
    )
    run_search(
        study, as_steps(evaluate), Silence(), limit=12, trials_file=folder / "trials.jsonl", references=[],
        references_file=folder / "references.jsonl", judge=limiting(experiment.limits, None),
    )  # fmt: skip
    return read_trials(folder / "trials.jsonl"), trained


def test_limits_are_read_and_written():
    """A constraint of the latency is the experiment's, and none of the space, whose counts know nothing of it."""
    assert LIMITED.limits == {"latency_ms": Bounds(max=3.0)}
    assert parse_experiment(experiment_to_dict(LIMITED)) == LIMITED
    assert LIMITED.space.constraints.params.max == 200_000


def test_what_is_measured_beyond_a_limit_is_never_trained(tmp_path):
    """Without a prediction a candidate is timed, and fails by that, with both figures in its reason."""
    trials, trained = search(tmp_path)
    slow = [trial for trial in trials if true_ms(trial.spec) > 3.0]
    assert 0 < len(slow) < 12
    assert {trial.state for trial in slow} == {"failed"}
    assert slow[0].reason == f"its latency of {true_ms(slow[0].spec):.3g} ms is more than the 3 ms of the constraints"
    assert {trial.state for trial in trials if trial not in slow} == {"complete"}
    assert max(map(true_ms, trained)) <= 3.0


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "random"])
def test_what_is_predicted_beyond_a_limit_is_drawn_again(tmp_path, sampler):
    """With a prediction hardly a trial is lost: none whose whole interval lies beyond the limit is even timed."""
    trials, trained = search(tmp_path, predictor=Fake(), sampler=sampler)
    assert len(trials) == 12
    assert all(0.9 * true_ms(trial.spec) <= 3.0 for trial in trials)
    assert max(map(true_ms, trained)) <= 3.0


def test_a_limit_that_nothing_can_keep_is_told():
    """Instead of looking for ever."""
    allows = make_screen(Fake(), {"latency_ms": Bounds(max=1e-6)})
    spec = fake_trials(LIMITED, 1)[0].spec
    specs = [replace(spec, num_classes=1 + i) for i in range(5000)]
    assert not any(allows(one) for one in specs[:4999] * 2)
    with pytest.raises(InputError, match=r"constraints.latency_ms: no network is predicted to be within this"):
        allows(specs[-1])


def test_a_lower_limit_counts_too():
    """Less than the least is told as such; what was not measured breaks nothing."""
    with pytest.raises(TrialFailed, match="its latency of 1 ms is less than the 2 ms of the constraints"):
        check_limits({"latency_ms": Bounds(min=2.0)}, {"latency_ms": 1.0})
    check_limits({"latency_ms": Bounds(min=2.0)}, {"params": 1})


@pytest.mark.parametrize("limits", [{}, {"latency_ms": Bounds(max=20.0)}])
def test_the_judge_of_a_search_reaches_the_process_that_trains(limits):
    """It is pickled on its way, whatever it is made of."""
    experiment = parse_experiment(DOCUMENT | {"search": {"rungs": [0.5]}})
    judge = comparing(limiting(limits, make_judge(experiment.objectives, experiment.search)))
    assert judge is not None
    pickle.loads(pickle.dumps(judge))  # noqa: S301  # our own
