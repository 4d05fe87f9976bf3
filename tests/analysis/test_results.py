"""A run read from its folder: its latencies in terms of one machine, whatever that did meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run

from modscale.analysis.results import load_run
from modscale.api.finished import report_run
from modscale.runs.experiment import parse_experiment
from modscale.runs.finals import write_finals
from modscale.runs.folder import TRIALS_FILE

FAKE = parse_experiment(SPACE)


def beside(trials, times):
    """The trials beside a reference of 8 ms, each as a machine measures that takes so many times as long."""
    return [
        remeasured(
            trial,
            latency_ms=factor * trial["latency_ms"],
            latency_reference_ms=factor * 8.0,
            latency_relative=trial["latency_ms"] / 8.0,
            latency_relative_ci95=0.01,
            latency_relative_standard_error=0.005,
        )
        for trial, factor in zip(trials, times, strict=True)
    ]


def test_front_picks_and_figures_are_those_of_a_steady_machine(tmp_path: Path) -> None:
    """Every third trial at 1.6 times: the same front and picks; the slow ones are marked and have a wider interval."""
    trials = fake_trials(FAKE, 24)
    references = fake_references(FAKE)
    times = [1.6 if trial.number % 3 == 0 else 1.0 for trial in trials]
    steady = load_run(write_run(tmp_path / "a", beside(trials, [1.0] * 24), references))
    fitful = load_run(write_run(tmp_path / "b", beside(trials, times), references))
    assert [one.number for one in fitful.front.members] == [one.number for one in steady.front.members]
    assert {band: pick.trial and pick.trial.number for band, pick in fitful.front.picks.items()} == {
        band: pick.trial and pick.trial.number for band, pick in steady.front.picks.items()
    }
    assert fitful.levels == {"latency_ms": 8.0}
    for one, other, factor in zip(fitful.trials, steady.trials, times, strict=True):
        assert one["latency_ms"] == pytest.approx(other["latency_ms"])
        assert one.results["latency_measured_ms"] == pytest.approx(factor * one["latency_ms"])
        assert one.results.get("latency_slow", False) == (factor > 1)
        assert (one.results["latency_ci95_ms"] > 1.5 * other.results["latency_ci95_ms"]) == (factor > 1)


def test_a_report_says_in_whose_terms_latencies_are_and_shows_what_was_measured(tmp_path: Path) -> None:
    """The file keeps the measurement; the report has both, and a sentence."""
    trials = fake_trials(FAKE, 8)
    folder = write_run(tmp_path / "run", beside(trials, [1.6] * 4 + [1.0] * 4), fake_references(FAKE))
    run, _ = report_run(folder)
    lines = (folder / "report.md").read_text()
    assert "in terms of the machine on which the reference network takes 8 ms" in lines
    measured = [json.loads(line) for line in (folder / TRIALS_FILE).read_text().splitlines()]
    assert [one["latency_ms"] for one in measured[:4]] == [
        pytest.approx(1.6 * trial["latency_ms"]) for trial in trials[:4]
    ]
    slow = next(trial for trial in run.front.members + run.front.dominated if trial.results.get("latency_slow"))
    assert f"{slow.results['latency_measured_ms']:.2f} as measured" in lines


def test_what_was_timed_again_is_held_against_the_first_figure_at_one_level(tmp_path: Path) -> None:
    """Half the speed at the end moves nothing, since the reference takes twice as long; 10 % more of it is told."""
    trials = fake_trials(FAKE, 8)
    folder = write_run(tmp_path / "run", beside(trials, [1.0] * 8), fake_references(FAKE))
    again = beside([remeasured(trial, latency_ms=1.1 * trial["latency_ms"]) for trial in trials[:2]], [2.0, 2.0])
    keys = [key for key in again[0].results if key.startswith("latency")]
    write_finals(folder, {trial.number: {key: trial.results[key] for key in keys} for trial in again})
    assert load_run(folder).timed_again == {0: pytest.approx(1.1), 1: pytest.approx(1.1)}
