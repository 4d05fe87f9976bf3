"""What a run's front says: members, ties, probabilities and the picks of the bands."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from fake_runs import remeasured

from modscale.analysis.front import (
    _could_be_on_front,
    find_front,
    front_probability,
    half_width,
    metric_error,
    pick_band,
    tied_with,
)
from modscale.errors import InputError
from modscale.runs.trials import Trial
from modscale.spaces.space import Bounds
from modscale.specs.spec import ModelSpec, StageSpec

BOTH = {"accuracy": "maximize", "latency_ms": "minimize"}
SPEC = ModelSpec(stages=(StageSpec(dim=8, depth=1),))


def trial(number: int, accuracy: float, latency_ms: float, *, ci: float = 0.0, params: int = 10**6) -> Trial:
    return Trial(
        number=number, state="complete", spec=SPEC, seconds=1,
        results={
            "params": params, "flops": 10**9, "latency_ms": latency_ms, "latency_ci95_ms": ci,
            "accuracy": accuracy, "val_images": 1000,
        },
    )  # fmt: skip


def numbers(trials: object) -> list[int]:
    return [t.number for t in trials]  # type: ignore[attr-defined]


def test_sorts_trials_by_dominance_fastest_first() -> None:
    """Members and dominated ones as the definition has them; the volume is the area of the staircase."""
    trials = [trial(0, 0.5, 30), trial(1, 0.3, 10), trial(2, 0.25, 12), trial(3, 0.5, 31), trial(4, 0.4, 20)]
    front = find_front(trials, BOTH, {})
    assert numbers(front.members) == [1, 4, 0]
    assert numbers(front.dominated) == [2, 3]
    # Reference: 0.25 - 0.1 * 0.25 and 31 + 0.1 * 21.
    assert front.reference == pytest.approx({"accuracy": 0.225, "latency_ms": 33.1})
    area = (20 - 10) * 0.075 + (30 - 20) * 0.175 + (33.1 - 30) * 0.275
    assert front.hypervolume == pytest.approx(area)
    assert front.hypervolume_share == pytest.approx(area / (0.275 * 23.1))


def test_no_trial_has_an_empty_front() -> None:
    """Nothing complete: hypervolume 0, every band none."""
    front = find_front([], BOTH, {"xs": {"params": Bounds(max=5e6)}})
    assert (front.members, front.hypervolume, dict(front.reference)) == ((), 0.0, {})
    assert (front.picks["xs"].trial, front.picks["xs"].reason) == (None, "no trial is complete")


def test_a_complete_trial_without_an_objective_is_named() -> None:
    """An edited file cannot put a trial without latency on a latency front."""
    with pytest.raises(InputError, match="trial 3: is complete and must have latency_ms"):
        find_front([remeasured(trial(3, 0.5, 1), latency_ms=None)], BOTH, {})


def test_accuracy_error_is_binomial() -> None:
    """1,000 images at 30 % have a standard error near 1.5 points; none right is not certainty."""
    assert metric_error(trial(0, 0.3, 1), "accuracy") == pytest.approx(sqrt(0.3 * 0.7 / 1000))
    assert metric_error(trial(0, 0.0, 1), "accuracy") == pytest.approx(5e-4 * sqrt(2), rel=1e-3)
    assert metric_error(remeasured(trial(0, 0.3, 1), val_images=None), "accuracy") == 0.0


def test_ties_are_what_noise_cannot_tell_apart() -> None:
    """At 30 % on 1,000 images, differences up to 4.0 points are ties unless the other is clearly slower."""
    first = trial(0, 0.30, 10, ci=0.3)
    near = trial(1, 0.265, 9, ci=0.3)
    far = trial(2, 0.255, 9, ci=0.3)
    a_little_slower = trial(3, 0.30, 10.4, ci=0.3)
    clearly_slower = trial(4, 0.31, 10.5, ci=0.3)
    clearly_better = trial(5, 0.35, 10, ci=0.3)
    everyone = [first, near, far, a_little_slower, clearly_slower, clearly_better]
    assert numbers(tied_with(first, everyone, BOTH)) == [1, 3]


def test_exact_objectives_have_no_noise() -> None:
    """One parameter more is clearly worse where params is an objective."""
    objectives = {"accuracy": "maximize", "params": "minimize"}
    first, same, larger = trial(0, 0.3, 1), trial(1, 0.29, 1), trial(2, 0.3, 1, params=10**6 + 1)
    assert numbers(tied_with(first, [same, larger], objectives)) == [1]


def test_front_probability_of_two_trials_is_the_normal_integral() -> None:
    """Two equally fast trials: the better of two normals, 3 points apart, wins with the normal distribution's odds."""
    trials = [trial(0, 0.32, 10), trial(1, 0.29, 10)]
    chances = front_probability(trials, BOTH, draws=40_000)
    z = 0.03 / sqrt((0.32 * 0.68 + 0.29 * 0.71) / 1000)
    grid = np.linspace(-8, z, 200_001)
    expected = np.trapezoid(np.exp(-(grid**2) / 2), grid) / sqrt(2 * np.pi)
    assert chances == pytest.approx([expected, 1 - expected], abs=0.01)


def test_front_probability_without_noise_is_the_front() -> None:
    """Exact values are on the front or not; repeated points share it."""
    objectives = {"params": "minimize", "flops": "minimize"}
    trials = [trial(0, 0.3, 1), trial(1, 0.3, 1), trial(2, 0.3, 1, params=10**7)]
    assert list(front_probability(trials, objectives)) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("objectives", [BOTH, {**BOTH, "params": "minimize"}], ids=len)
def test_leaving_out_hopeless_trials_changes_nothing(
    objectives: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the short cut the probabilities agree within their sampling error."""
    rng = np.random.default_rng(0)
    trials = [
        trial(i, a, 5 + 20 * a + 30 * rng.random(), ci=0.5, params=int(1e6 * rng.random()))
        for i, a in enumerate(rng.uniform(0.1, 0.5, 40))
    ]
    losses = np.array([[-t["accuracy"], t["latency_ms"], t["params"]] for t in trials])[:, : len(objectives)]
    errors = np.array([[metric_error(t, metric) for metric in objectives] for t in trials])
    assert 5 < np.flatnonzero(~_could_be_on_front(losses, errors)).size < 40
    quick = front_probability(trials, objectives)
    everything = "modscale.analysis.front._could_be_on_front"
    monkeypatch.setattr(everything, lambda losses, errors: np.ones(len(losses), dtype=bool))
    whole = front_probability(trials, objectives, seed=1)
    assert np.abs(quick - whole).max() < 0.06


def test_pick_is_the_most_accurate_within_the_limits() -> None:
    """The larger trial is out of the band; of two equally accurate the faster one is picked."""
    members = [trial(0, 0.5, 30, params=9 * 10**6), trial(1, 0.4, 20), trial(2, 0.4, 19), trial(3, 0.2, 5)]
    pick = pick_band({"params": Bounds(max=5e6)}, members, [], BOTH)
    assert pick.trial is members[2]
    assert pick.reason == "the most accurate of 3 front trials with at most 5 M params"
    assert pick_band({}, members[:1], [], BOTH).reason == "the only front trial"


def test_pick_names_its_ties_within_the_band() -> None:
    """Tied trials count, dominated ones too, but not those outside the limits."""
    members = [trial(0, 0.4, 20)]
    dominated = [trial(1, 0.39, 20), trial(2, 0.39, 20, params=6 * 10**6), trial(3, 0.3, 20)]
    assert pick_band({"params": Bounds(max=5e6)}, members, dominated, BOTH).ties == (1,)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (
            {"params": Bounds(max=5e6)},
            "no trial on the front has at most 5 M params; the nearest has 6.1 M; "
            "dominated trials within the limits: 7",
        ),
        (
            {"params": Bounds(max=6_099_999)},
            "no trial on the front has at most 6,099,999 params; the nearest has 6,100,000; "
            "dominated trials within the limits: 7",
        ),
        (
            {"accuracy": Bounds(min=0.9)},
            "no trial on the front has an accuracy of at least 90.0 %; the nearest has 50.0 %",
        ),
        (
            {"latency_ms": Bounds(min=12, max=14)},
            "no trial on the front has a latency of 12 ms to 14 ms; the nearest has 10 ms; "
            "dominated trials within the limits: 7",
        ),
        (
            {"params": Bounds(max=7e6), "accuracy": Bounds(min=0.5)},
            "no trial on the front has all of: at most 7 M params, an accuracy of at least 50.0 %",
        ),
    ],
)
def test_no_pick_says_why(limits: dict[str, Bounds], reason: str) -> None:
    """The limit nobody meets, the nearest miss, and the dominated trials that would fit."""
    members = [trial(0, 0.5, 30, params=9 * 10**6), trial(1, 0.4, 10, params=6_100_000)]
    pick = pick_band(limits, members, [trial(7, 0.2, 13)], BOTH)
    assert (pick.trial, pick.reason) == (None, reason)


def test_latency_is_drawn_by_its_standard_error_and_tied_by_its_interval() -> None:
    """Few processes make an interval wider than 1.96 standard errors; without the error the interval is drawn by."""
    measured = remeasured(trial(0, 0.5, 10.0), latency_ci95_ms=0.5, latency_standard_error_ms=0.18)
    assert metric_error(measured, "latency_ms") == 0.18
    assert half_width(measured, "latency_ms") == 0.5
    assert metric_error(remeasured(measured, latency_standard_error_ms=None), "latency_ms") == pytest.approx(
        0.5 / 1.959964
    )
    assert metric_error(remeasured(measured, latency_standard_error_ms=0.0), "latency_ms") == 0.0
    assert half_width(measured, "params") == metric_error(measured, "params") == 0.0
    assert half_width(measured, "accuracy") == pytest.approx(1.96 * (0.5 * 0.5 / 1000) ** 0.5, rel=1e-4)
