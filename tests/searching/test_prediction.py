"""What a calibration foretells of a candidate stands beside what was measured of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_runs import SPACE, fake_trials

from modscale.errors import InputError
from modscale.latency.predictor import Prediction
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import append_trial, read_trials
from modscale.searching.measures import MEASURES, Subject
from modscale.searching.prediction import with_prediction
from modscale.searching.steps import take_steps
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import ModelSpec, StageSpec


class Fake:
    """A predictor of modulation blocks alone: a millisecond a piece, a tenth to either side."""

    def predict(self, networks):
        if any(piece.kind == "mbconv" for pieces in networks for piece in pieces):
            raise InputError("has no piece like one of this network")
        return [Prediction(latency_ms=(n := len(one)), ci90_ms=(0.9 * n, 1.1 * n), unseen=0) for one in networks]


def spec(**stage) -> ModelSpec:
    return ModelSpec(resolution=64, stages=(StageSpec(dim=16, depth=2, **stage),))


def predict(network: ModelSpec):
    _, prediction, *_ = with_prediction(MEASURES, Fake())
    return take_steps(prediction.take(Subject(spec=network)), answer=None)


def test_it_comes_before_anything_is_timed():
    """After the counts, and only where a calibration is."""
    assert [one.name for one in with_prediction(MEASURES, Fake())] == ["counts", "prediction", "latency", "training"]
    assert with_prediction(MEASURES, None) == MEASURES


def test_a_network_of_another_kind_has_none():
    """A search ends by none of those that it is compared with."""
    pieces = len(network_pieces(spec()))
    low, high = pytest.approx(0.9 * pieces), pytest.approx(1.1 * pieces)
    expected = {"predicted_latency_ms": pieces, "predicted_latency_low_ms": low, "predicted_latency_high_ms": high}
    assert predict(spec()) == expected
    assert predict(spec(block="mbconv")) == {}


def test_a_trial_keeps_it(tmp_path):
    """In its line, and when it is read again; the latency itself stays what was measured."""
    (trial,) = fake_trials(parse_experiment(SPACE), 1)
    found = predict(spec())
    trial = replace(trial, results={**trial.results, **found})
    append_trial(tmp_path / "trials.jsonl", trial)
    line = json.loads((tmp_path / "trials.jsonl").read_text())
    assert (line["predicted_latency_ms"], line["latency_ms"]) == (found["predicted_latency_ms"], trial["latency_ms"])
    assert read_trials(tmp_path / "trials.jsonl")[0].results == trial.results
