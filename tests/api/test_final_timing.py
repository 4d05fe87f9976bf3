"""The front timed again at the end of a search, with timings made up: who is timed when, and what is kept of it."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run

from modscale.analysis.results import load_run
from modscale.api import final_timing
from modscale.runs.experiment import parse_experiment
from modscale.runs.finals import read_finals
from modscale.searching.engine import Inline
from modscale.searching.exports import Exports
from modscale.searching.steps import Request, Work

FAKE = parse_experiment(SPACE)
SLOWER = (1.0, 1.5)


class Watching:
    """An observer that keeps everything to itself."""

    def started(self, label: str, spec: object) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: object) -> None: ...


def latency(ms: float, *, reference_ms: float, units: bool) -> dict[str, float]:
    """A latency, and the same in units of a reference."""
    found = {"latency_ms": ms, "latency_ci95_ms": 0.01, "latency_standard_error_ms": 0.005}
    if units:
        relative = {"relative": ms / reference_ms, "relative_ci95": 0.001, "relative_standard_error": 0.0005}
        found |= {"latency_reference_ms": reference_ms, **{f"latency_{key}": value for key, value in relative.items()}}
    return found


def timed_again(folder: Path, *, units: bool, slow: Collection[int] = ()) -> tuple[list[list[int]], list[str]]:
    """Times a made-up run's front again, every other network 1.5 times as slow as it was, with a reference as it was.

    In the sessions that are `slow` all takes twice as long, the reference too. Returns the trial numbers of each
    session, and what was said.
    """
    trials = [
        remeasured(trial, **latency(trial["latency_ms"], reference_ms=8.0, units=units))
        for trial in fake_trials(FAKE, 40)
    ]
    write_run(folder, trials, fake_references(FAKE))
    sessions: list[list[int]] = []

    def answer(request: Request, announce: object) -> Any:
        if isinstance(request, Work):
            return None
        named = {trial.spec.name: trial for trial in trials}
        asked = [named[told["name"]] for told in request.told]
        sessions.append([trial.number for trial in asked])
        speed = 2.0 if len(sessions) - 1 in slow else 1.0
        return [
            latency(speed * SLOWER[trial.number % 2] * trial["latency_ms"], reference_ms=speed * 8.0, units=units)
            for trial in asked
        ]

    said: list[str] = []
    with Exports() as exports:
        final_timing.time_front_again(folder, FAKE, Inline(answer), exports, Watching(), said.append)
    return sessions, said


def test_who_joins_the_front_is_to_be_told_apart_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was timed before goes along with the next session, and nothing with the first."""
    beside: list[list[float]] = []
    real = final_timing.time_again

    def time_again(*arguments: Any, **options: Any) -> Any:
        beside.append([one["latency_relative"] for one in options["beside"]])
        return real(*arguments, **options)

    monkeypatch.setattr(final_timing, "time_again", time_again)
    sessions, _ = timed_again(tmp_path / "run", units=True)
    assert [len(known) for known in beside] == list(itertools.accumulate(map(len, sessions[:-1]), initial=0))
    finals = read_finals(tmp_path / "run")
    assert beside[1] == [finals[number]["latency_relative"] for number in sessions[0]]


def test_who_joins_the_front_is_timed_alone(tmp_path: Path) -> None:
    """Each network once: the front first, then those that join it."""
    folder = tmp_path / "run"
    sessions, said = timed_again(folder, units=True)
    numbers = [number for session in sessions for number in session]
    assert len(sessions) > 1, "nobody joined, and nothing is tested"
    assert len(numbers) == len(set(numbers))
    assert said[0] == f"timing the {len(sessions[0])} networks of the front and the picks again, in turns"
    joined = len(sessions[1])
    assert said[1] == f"timing {joined} network{'s' * (joined != 1)} again that joined the front by that"
    finals = read_finals(folder)
    assert finals.keys() == set(numbers)
    run = load_run(folder)
    assert {trial.number for trial in run.front.members} <= finals.keys()
    assert all(trial["latency_ms"] == pytest.approx(finals[trial.number]["latency_ms"]) for trial in run.front.members)
    assert final_timing.final_candidates(folder, FAKE) == {}


def test_without_a_reference_all_are_timed_together(tmp_path: Path) -> None:
    """Milliseconds of two sessions do not compare: who was timed is timed once more beside who joins."""
    sessions, said = timed_again(tmp_path / "run", units=False)
    assert len(sessions) > 1
    assert all(set(before) < set(after) for before, after in itertools.pairwise(sessions))
    assert all("of the front and the picks again" in line for line in said)
    assert read_finals(tmp_path / "run").keys() == set(sessions[-1])


def test_what_a_slow_machine_timed_is_timed_anew(tmp_path: Path) -> None:
    """Those who join while it is slow, once it is not; while it stays slow twice; and not at all where all are slow."""
    sessions, said = timed_again(tmp_path / "once", units=True, slow={1})
    joined = set(sessions[1])
    anew = [session for session, line in zip(sessions, said, strict=True) if "the machine was slow" in line]
    assert len(anew) == 1
    assert set(anew[0]) <= joined
    run = load_run(tmp_path / "once")
    assert not any("latency_slow" in trial.results for trial in run.front.members)
    _, said = timed_again(tmp_path / "for ever", units=True, slow=range(1, 99))
    assert sum("the machine was slow" in line for line in said) == final_timing.MOST_SLOW
    _, said = timed_again(tmp_path / "all", units=True, slow=range(99))
    assert not any("the machine was slow" in line for line in said)
