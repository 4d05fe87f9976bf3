"""The reading of a design space on runs whose answer is known by construction."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from fake_runs import fake_trials, remeasured

from modscale.analysis.design_reading import MIN_TRIALS, DesignReading, ParameterReading, read_design
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial

SPACE = parse_experiment(
    {
        "name": "small",
        "base": {"resolution": 64, "num_classes": 10},
        "stages": [
            {
                "dim": [8, 16, 24, 32],
                "depth": {"low": 1, "high": 8},
                "fusion": ["mul", "sum"],
                "kernel_size": [3, [3, 5]],
            }
        ],
    }
)
DIM, DEPTH, FUSION = "stages[0].dim", "stages[0].depth", "stages[0].fusion"


def trials_with(count: int, accuracy: object, *, seed: int = 0) -> list[Trial]:
    """Random choices whose accuracy is exactly `accuracy(choice, rng)`."""
    rng = np.random.default_rng(seed + 100)
    trials = fake_trials(SPACE, count, seed=seed)
    return [remeasured(t, accuracy=float(accuracy(t.choice, rng))) for t in trials]  # type: ignore[operator]


def parameter(reading: DesignReading, name: str) -> ParameterReading:
    return next(p for p in reading.parameters if p.name == name)


def stand_out(reading: DesignReading, metric: str) -> list[str]:
    return [p.name for p in reading.parameters if p.importance[metric].share.value > p.importance[metric].chance]


def test_the_one_choice_that_matters_is_found() -> None:
    """Where accuracy is depth and a little noise, depth and nothing else stands out from chance."""
    trials = trials_with(100, lambda choice, rng: choice[DEPTH] / 10 + 0.01 * rng.standard_normal())
    reading = read_design(SPACE, trials, draws=12)
    assert stand_out(reading, "accuracy") == [DEPTH]
    importance = parameter(reading, DEPTH).importance["accuracy"]
    assert importance.share.value > 0.7
    assert importance.share.low > 0.5
    assert DEPTH in reading.summary
    assert sum(p.importance["accuracy"].share.value for p in reading.parameters) == pytest.approx(1)


def test_good_half_is_where_it_was_put() -> None:
    """With accuracy rising in depth 1 to 8, the better half lies in 5 to 8 and the worse in 1 to 4."""
    trials = trials_with(200, lambda choice, rng: choice[DEPTH] / 10 + 1e-3 * rng.random())
    depth = parameter(read_design(SPACE, trials, draws=1), DEPTH)
    better, worse = depth.better["accuracy"], depth.worse["accuracy"]
    assert better.low is not None
    assert worse.high is not None
    assert better.high is not None
    assert (better.low.value, better.high.value) in [(5, 8), (4, 8)]
    assert worse.high.value in (4, 5)
    assert better.low.low <= better.low.value <= better.low.high
    dim = parameter(read_design(SPACE, trials, draws=1), DIM).better["accuracy"]
    assert dim.low is not None
    assert dim.high is not None
    assert (dim.low.value, dim.high.value) == (8, 32)


def test_ranges_are_the_quantiles_of_the_halves() -> None:
    """Ends and median of each half equal those of the sorted options, counted by hand."""
    trials = trials_with(31, lambda choice, rng: rng.random(), seed=4)
    depth = parameter(read_design(SPACE, trials, draws=1), DEPTH)
    ranked = sorted(trials, key=lambda t: -t["accuracy"])
    for half, part in ((depth.better, ranked[:16]), (depth.worse, ranked[16:])):
        options = sorted(int(t.choice[DEPTH]) for t in part)
        ends = [options[ceil(q * len(options)) - 1] for q in (0.1, 0.5, 0.9)]
        found = half["accuracy"]
        assert [e and e.value for e in (found.low, found.median, found.high)] == ends


def test_categories_are_read_as_shares() -> None:
    """Where only `mul` does well, nearly all of the better half has it, and the shares of a half sum to 1."""
    trials = trials_with(150, lambda choice, rng: 0.3 * (choice[FUSION] == "mul") + 0.1 * rng.random())
    reading = read_design(SPACE, trials, draws=12)
    assert FUSION in stand_out(reading, "accuracy")
    shares = parameter(reading, FUSION).better["accuracy"].shares
    assert shares is not None
    assert shares["mul"].value > 0.85
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    kernels = parameter(reading, "stages[0].kernel_size").better["accuracy"].shares
    assert kernels is not None
    assert set(kernels) == {"3", "3+5"}


def test_noise_does_not_stand_out() -> None:
    """Accuracies that depend on nothing: in four runs at most one parameter is taken for more than chance."""
    false = sum(
        len(stand_out(read_design(SPACE, trials_with(30, lambda c, rng: rng.random(), seed=s), draws=10), "accuracy"))
        for s in range(4)
    )
    assert false <= 1


def test_more_trials_are_surer() -> None:
    """The intervals of a half's ends and median narrow from 12 to 400 trials."""
    widths = []
    for count in (12, 400):
        trials = trials_with(count, lambda choice, rng: choice[DEPTH] / 10 + 0.3 * rng.random())
        half = parameter(read_design(SPACE, trials, draws=1), DEPTH).better["accuracy"]
        widths.append(sum(end.high - end.low for end in (half.low, half.median, half.high) if end))
    assert widths[1] < widths[0]


def test_distance_to_the_front_weighs_latency() -> None:
    """Equal accuracies, `sum` twice as slow: by accuracy nothing is better, by distance to the front `mul` is."""
    trials = [
        remeasured(t, latency_ms=(10.0 if t.choice[FUSION] == "mul" else 20.0) + i / 100, accuracy=0.3 + (i % 7) / 1000)
        for i, t in enumerate(fake_trials(SPACE, 80))
    ]
    fusion = parameter(read_design(SPACE, trials, draws=1), FUSION)
    by_front, by_accuracy = fusion.better["front"].shares, fusion.better["accuracy"].shares
    assert by_front is not None
    assert by_accuracy is not None
    assert by_front["mul"].value > 0.7 > by_accuracy["mul"].value


def test_too_few_trials_say_so() -> None:
    """Seven complete trials are not read, and failed ones do not count."""
    trials = trials_with(MIN_TRIALS, lambda choice, rng: rng.random())
    trials[0] = remeasured(replace(trials[0], state="failed", reason="no room"), accuracy=None, latency_ms=None)
    reading = read_design(SPACE, trials)
    assert (reading.trials, reading.parameters) == (MIN_TRIALS - 1, ())
    assert "too few" in reading.summary


def test_a_choice_of_another_space_is_left_out() -> None:
    """Trials whose choice lacks a parameter or has no such option are not counted."""
    trials = trials_with(12, lambda choice, rng: rng.random())
    trials[0] = replace(trials[0], choice={})
    trials[1] = replace(trials[1], choice={**trials[1].choice, DIM: 9})
    assert read_design(SPACE, trials, draws=1).trials == 10


def test_a_fixed_space_has_nothing_to_read() -> None:
    """Without a searched parameter the reading says so."""
    fixed = parse_experiment({"stages": [{"dim": 8, "depth": 1}]})
    assert "nothing to choose" in read_design(fixed, []).summary


def test_equal_accuracies_have_no_importance() -> None:
    """A metric that is the same everywhere is told as such and divides nothing by zero."""
    reading = read_design(SPACE, trials_with(10, lambda choice, rng: 0.25), draws=1)
    assert "All trials have the same accuracy." in reading.summary
    assert "accuracy" not in reading.parameters[0].importance


def test_the_same_seed_gives_the_same_reading() -> None:
    """A report rebuilt later says the same."""
    trials = trials_with(20, lambda choice, rng: rng.random())
    assert read_design(SPACE, trials, draws=3) == read_design(SPACE, trials, draws=3)
