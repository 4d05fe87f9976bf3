"""Runs laid over each other: the front of all by brute force, and what makes figures not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE, fake_trials, remeasured, write_run

from modscale.analysis.overlay import check_distinct, lay_over
from modscale.analysis.results import Run, load_run
from modscale.errors import InputError, RunError
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial

FAKE = parse_experiment(SPACE)


def run(folder: Path, trials: list[Trial] | None = None, *, seed: int = 0, **changes: Any) -> Run:
    return load_run(write_run(folder, fake_trials(FAKE, 25, seed=seed) if trials is None else trials, [], **changes))


def beats(a: Trial, b: Trial) -> bool:
    pairs = (-a["accuracy"], a["latency_ms"]), (-b["accuracy"], b["latency_ms"])
    return pairs[0] != pairs[1] and all(x <= y for x, y in zip(*pairs, strict=True))


def test_the_front_of_all_is_that_of_all_trials(tmp_path):
    """By brute force over the trials of both, with who beats whom, the point of reference and the two areas."""
    runs = [run(tmp_path / "a", seed=1), run(tmp_path / "b", seed=2)]
    found = lay_over(runs, ["a", "b"])
    everyone = [((i, t.number), t) for i, one in enumerate(runs) for t in one.trials]
    assert found.joint == {me for me, t in everyone if not any(beats(o, t) for _, o in everyone)}
    assert {i for i, _ in found.joint} == {0, 1}
    for i, one in enumerate(runs):
        own = {t.number for t in one.trials if not any(beats(o, t) for o in one.trials)}
        assert {t.number for t in found.fronts[i]} == own
        for t in found.fronts[i]:
            by = {me for me, o in everyone if me in found.joint and beats(o, t)}
            assert set(found.beaten_by.get((i, t.number), ())) == by
    accuracies, latencies = ([t[key] for _, t in everyone] for key in ("accuracy", "latency_ms"))
    wall = max(latencies) + 0.1 * (max(latencies) - min(latencies))
    floor = max(min(accuracies) - 0.1 * (max(accuracies) - min(accuracies)), 0)
    assert dict(found.reference) == pytest.approx({"accuracy": floor, "latency_ms": wall})

    def area(trials: list[Trial]) -> float:
        steps = sorted((t["latency_ms"], t["accuracy"]) for t in trials)
        ends = [latency for latency, _ in steps[1:]] + [wall]
        heights = [max(a for _, a in steps[: k + 1]) - floor for k in range(len(steps))]
        return sum((end - start) * h for (start, _), end, h in zip(steps, ends, heights, strict=True))

    whole = area([t for _, t in everyone])
    assert found.volumes == pytest.approx([area(list(one.trials)) / whole for one in runs])


@pytest.mark.parametrize(
    ("space", "changes", "metric", "why"),
    [
        ({"proxy": {"epochs": 5}}, {}, "accuracy", "a and b differ in proxy.epochs (2, 5)"),
        ({"proxy": {"threads": 1}}, {}, None, ""),
        ({"latency": {"threads": 3}}, {}, "latency_ms", "a and b differ in latency.threads (not set, 3)"),
        ({"latency": {"runs": 30}}, {}, None, ""),
        ({"latency": {"precision": "int8"}}, {}, "latency_ms", "differ in latency.precision ('fp32', 'int8')"),
        ({}, {"machine": {"cpu": "Other"}}, "latency_ms", "differ in machine ('Imaginary 9000', 'Other')"),
        ({}, {"data": {"name": "pets", "fingerprint": "1"}}, "accuracy", "differ in data ('synthetic', 'pets')"),
        ({}, {"data": {"name": "synthetic", "fingerprint": "1"}}, "accuracy", "in images (both of 'synthetic')"),
    ],
)  # fmt: skip
def test_what_is_not_comparable_is_told_and_not_compared(tmp_path, space, changes, metric, why):
    """Data and proxy of an accuracy, device and precision of a latency; what only moves the noise is neither."""
    runs = [run(tmp_path / "a"), run(tmp_path / "b", seed=1, space=SPACE | space, **changes)]
    found = lay_over(runs, ["a", "b"])
    assert list(found.odd) == ([metric] if metric else [])
    assert all(each.endswith(why) for each in found.odd.values())
    assert bool(found.joint) == bool(found.volumes) == bool(found.reference) == (metric is None)
    assert all(found.fronts)


@pytest.mark.parametrize(("level_ms", "is_odd"), [(9.1, False), (9.3, True)])
def test_latencies_of_runs_on_a_machine_at_two_speeds_are_not_compared(tmp_path, level_ms, is_odd):
    """By what the reference took at best in each: 9.1 ms is within 1.15 times 8 ms, 9.3 is not."""
    trials = fake_trials(FAKE, 12)
    runs = [
        run(tmp_path / str(ms), [remeasured(trial, latency_reference_ms=ms) for trial in trials])
        for ms in (8.0, level_ms)
    ]
    found = lay_over(runs, ["a", "b"])
    why = "a and b differ in speed of the machine (the reference takes 8 ms, 9.3 ms)"
    assert found.odd == ({"latency_ms": why} if is_odd else {})


def test_an_estimate_is_not_compared_with_an_accuracy(tmp_path):
    """As runs of older versions have them."""
    trials = [remeasured(t, accuracy_standard_error=0.02) for t in fake_trials(FAKE, 9)]
    found = lay_over([run(tmp_path / "a"), run(tmp_path / "b", trials)], ["a", "b"])
    assert "what accuracy is (an estimate of full training in one alone)" in found.odd["accuracy"]


def test_runs_of_other_objectives_meet_in_what_they_have_in_common(tmp_path):
    """Or in nothing, which is an error that names both."""
    other = SPACE | {"objectives": {"latency_ms": "minimize", "params": "minimize", "accuracy": "maximize"}}
    found = lay_over([run(tmp_path / "a"), run(tmp_path / "b", space=other)], ["a", "b"])
    assert dict(found.objectives) == {"accuracy": "maximize", "latency_ms": "minimize"}
    alone = run(tmp_path / "c", space=SPACE | {"objectives": {"params": "minimize"}})
    with pytest.raises(
        RunError, match="c: has no objective in common with a: accuracy, latency_ms there, got 'params'"
    ):
        lay_over([run(tmp_path / "a2"), alone], ["a", "c"])
    with pytest.raises(RunError, match="d: has no complete trial to be compared by"):
        lay_over([run(tmp_path / "a3"), run(tmp_path / "d", [])], ["a", "d"])


def test_a_run_stands_once_and_there_are_six_at_most(tmp_path):
    one = run(tmp_path / "a")
    with pytest.raises(InputError, match="a: stands twice among the runs"):
        check_distinct([one, one], ["b", "a"])
    with pytest.raises(InputError, match="at most 6 runs are laid over each other, got 7"):
        check_distinct([one] * 7, ["a"] * 7)
