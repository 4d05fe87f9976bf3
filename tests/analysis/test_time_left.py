"""How long the rest of a search takes, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_runs import SPACE, fake_trials

from modscale.analysis.time_left import OWN_ROUNDS, UNTRAINED, Ahead, front_size
from modscale.rivals import Rival
from modscale.runs.experiment import parse_experiment
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial
from modscale.specs.published import published

XXS, S = published("xxs"), published("s")
RIVAL = Rival(kind="timm", source="resnet18", name="resnet18")


def ahead_of(*, trials: int = 12, references: Any = (), **search: Any) -> Ahead:
    experiment = parse_experiment({**SPACE, "search": {"trials": trials, "finals": False, **search}})
    return Ahead(experiment=experiment, trials=[], references=list(references))


def trial(number: int = 0, *, blocks: int = 10, **results: float) -> Trial:
    """A finished one of so many blocks."""
    (found,) = fake_trials(parse_experiment(SPACE), 1)
    stages = found.spec.stages
    spare = blocks - sum(stage.depth + stage.attention_depth for stage in stages[1:])
    spec = replace(found.spec, stages=(replace(stages[0], depth=spare, attention_depth=0), *stages[1:]))
    assert spec.num_blocks() == blocks
    return replace(found, number=number, spec=spec, results={**found.results, **results})


def test_trials_and_references_by_their_size() -> None:
    """The docstring's: two trials of 10 blocks in 20 s each, ten more and a reference of 20 blocks."""
    large = trial(blocks=20).spec
    ahead = ahead_of(references=[large])
    assert ahead.left_s(0.0, {}, pace_s=None) is None
    assert ahead.left_s(0.0, {}, pace_s=20.0) == 13 * 20  # nothing finished: a reference counts like a trial
    for number in range(2):
        ahead.take(trial(number), is_trial=True)
    assert ahead.left_s(40.0, {}, pace_s=None) == 11.5 * 20
    ahead.take(trial(blocks=20), is_trial=False)
    assert ahead.references == []
    # 10, 10 and 20 blocks count 0.5 + 0.5 x 10 / 13.3 twice, and 1.25, which are 3 of the mean size, in 60 s
    assert ahead.left_s(60.0, {}, pace_s=None) == pytest.approx(10 * 20)


def test_the_anchor_is_trained_once() -> None:
    """Its training is not in the pace; as a reference it is exported and timed alone, as a rival is."""
    ahead = ahead_of(trials=3, references=[XXS, RIVAL])
    ahead.take(trial(blocks=XXS.num_blocks()), is_trial=True)
    left = ahead.left_s(50.0, {"anchor": [10.0]}, pace_s=None)
    assert left == pytest.approx(40 * (2 + 2 * UNTRAINED))
    ahead.take(trial(blocks=XXS.num_blocks()), is_trial=True)
    rival = MeasuredRival(number=1, state="failed", rival=RIVAL, results={}, seconds=1.0)
    ahead.references.pop(0)
    ahead.take(rival, is_trial=False)
    assert ahead.finished[-1] == (False, 0)
    assert ahead.left_s(106.0, {"anchor": [10.0]}, pace_s=None) == pytest.approx(96 / (2 + UNTRAINED))
    dense = parse_experiment({**SPACE, "bands": {}, "proxy": {"task": "segmentation"}, "search": {"trials": 2}})
    without = Ahead(experiment=dense, trials=[], references=[XXS])  # there it is trained like any other
    assert without.left_s(0.0, {}, pace_s=10.0) == 30.0


def test_the_front_is_timed_once_more() -> None:
    """Two of a front of two: their share of a short timing; where they tie, more for as long as the patience lasts."""
    ahead = ahead_of(trials=2, finals=True)
    stages = {"export": [1.0, 3.0], "latency": [9.0, 5.0]}
    sharp = {"latency_relative": 1.0, "latency_relative_ci95": 0.01}
    ahead.take(trial(0, accuracy=0.5, latency_ms=5.0, **sharp), is_trial=True)
    ahead.take(trial(1, accuracy=0.6, latency_ms=6.0, **sharp), is_trial=True)
    own = OWN_ROUNDS * 5.0
    assert ahead.left_s(40.0, stages, pace_s=None) == pytest.approx(2 * own)
    # at 1.2 % the interval wants 1.44 times the rounds; at 3 % the patience, of 5 s, is over before
    ahead.trials = [replace(one, results={**one.results, "latency_relative_ci95": 0.012}) for one in ahead.trials]
    assert ahead.left_s(40.0, stages, pace_s=None) == pytest.approx(2 * 1.44 * own)
    ahead.trials = [replace(one, results={**one.results, "latency_relative_ci95": 0.03}) for one in ahead.trials]
    assert ahead.left_s(40.0, stages, pace_s=None) == pytest.approx(2 * (own + 5.0))
    # each ± 0.03: 0.042 together, so that 1.04 is not told apart from 1.00, and 1.05 is
    for relative, more_s in ((1.04, 5.0), (1.05, 0.0)):
        ahead.trials[1] = replace(ahead.trials[1], results={**ahead.trials[1].results, "latency_relative": relative})
        assert ahead.left_s(40.0, stages, pace_s=None) == pytest.approx(2 * (own + more_s))


def test_a_front_grows_with_the_trials() -> None:
    """One on the front after one trial of six: twice 1 + 1/2 + ... + 1/6 at the end, 4.9; never more than trials."""
    assert [front_size(count) for count in (0, 1, 2, 3, 4)] == [1, 1, 2, 3, 4]
    assert front_size(6) == pytest.approx(4.9)
    assert front_size(1000) == pytest.approx(10**2.1)
    ahead = ahead_of(trials=6, finals=True)
    ahead.take(trial(0, latency_relative=1.0, latency_relative_ci95=0.001), is_trial=True)
    left = ahead.left_s(20.0, {"export": [1.0], "latency": [5.0]}, pace_s=None)
    assert left == pytest.approx(5 * 20 + 4.9 * OWN_ROUNDS * 5)
    ahead.trials = [replace(ahead.trials[0], state="failed", reason="x", results={"params": 1, "flops": 1})]
    assert ahead.left_s(20.0, {}, pace_s=None) == pytest.approx(100)


def test_what_is_under_way_is_half_done() -> None:
    """One finished after 40 s with two more under way: two in 40 s, and of seven others six are still to be done."""
    ahead = ahead_of(trials=8)
    ahead.take(trial(), is_trial=True)
    assert ahead.left_s(40.0, {}, pace_s=None, under_way=2) == pytest.approx(20 * 6)
    assert ahead.left_s(40.0, {}, pace_s=None) == pytest.approx(40 * 7)
    last = ahead_of(trials=1)
    last.take(trial(), is_trial=True)
    assert last.left_s(40.0, {}, pace_s=None, under_way=2) == 0.0  # nothing is
