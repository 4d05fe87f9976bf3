"""A search rehearsed on a few networks: which, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching import rehearsal
from modscale.searching.rehearsal import choose_networks, draw_candidates, rehearse
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


def test_a_small_and_a_large_one_are_rehearsed() -> None:
    """The middle of each half by FLOPs; of one network that one."""
    specs = [candidate.spec for candidate in draw_candidates(study_of(experiment_of()), 9, 5)]
    chosen = [count_model(spec).flops for spec in choose_networks(specs)]
    assert chosen == [sorted(count_model(spec).flops for spec in specs)[i] for i in (6, 18)]
    assert choose_networks(specs[:1]) == specs[:1]
    assert len(choose_networks(specs[:2])) == 2


class FakeWorker:
    """Says how fast it is, and what it was asked for."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.asked = step_s, list[str]()

    def ask(self, task: str, *arguments: Any) -> Any:
        self.asked.append(task)
        if task == "take_pace":
            return Pace(start_s=1.0, step_s=self.step_s, score_image_s=0.001, steps_an_epoch=10, val_images=100)
        return None

    def begin(self, task: str, *arguments: Any) -> None:
        self.asked.append(task)

    def finish(self) -> Any:
        return self.ask("take_pace") if self.asked[-1:] == ["take_pace"] else None


class FakeDevice(Device):
    """The reference takes `looks_ms` when it is looked at, and 1 ms otherwise; a model takes its name in ms."""

    looks_ms = (4.0, 2.0, 2.0, 4.0)

    def __init__(self, settings: LatencySettings, facts: Any = None) -> None:
        super().__init__(settings, FACTS)
        self.looked = 0

    def start(self, count: int) -> None:
        """No process is needed."""

    def time(self, onnx_file: Path, *, runs: int, shape: Any, is_probed: bool | None = None) -> Timings:
        ms = 10.0 + int(onnx_file.stem) if onnx_file.stem.isdigit() else 1.0
        if type(self) is FakeDevice and not onnx_file.stem.isdigit():
            ms = self.looks_ms[self.looked]
            self.looked += 1
        ns = round(ms * 1e6)
        return Timings(times_ns=(ns,) * runs, preemptions=0, cpu_ns=ns * runs, main_cpu_ns=ns * runs)


class Beside(FakeDevice):
    """The same in the session itself."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a bench of workers with these seconds a step, one after the other."""

    def make(*steps_s: float, **latency: Any) -> Any:
        first, *others = map(FakeWorker, steps_s)
        monkeypatch.setattr(rehearsal, "Device", Beside)
        return SimpleNamespace(
            devices={"": FakeDevice(LatencySettings(threads=1, **latency))}, seed=0, loading=others, ask=first.ask,
            first=first, check=lambda summary: None,
        )  # fmt: skip

    return make


def test_all_is_put_to_one_speed(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Worked by hand: between the trainings the reference took 3 ms, in the session 1 ms, over all ten rounds 1.8 ms.

    So the trainings ran at 3 / 1.8 of the time that they would take at the mean speed.
    """
    specs = [published("s"), published("xxs")]
    found = rehearse(bench(0.03), specs, anchor=published("xxs"), timings=tmp_path / "timings.jsonl")
    assert [one.spec.name for one in found.networks] == ["xxs", "s"]  # by FLOPs
    assert found.reference_ms == pytest.approx((4 + 2 + 2 + 4 + 6 * 1) / 10)
    assert found.networks[0].pace.step_s == pytest.approx(0.03 * 1.8 / 3)
    assert found.anchor is not None
    assert found.anchor.pace.start_s == pytest.approx(1.8 / 3)
    (session,) = found.sessions
    assert session.device.settings == LatencySettings(threads=1)  # those of the search
    assert [len(rounds) for rounds in session.rounds] == [5, 5]
    assert len(session.rounds[0][0].timings.times_ns) == 20
    assert [one.results["latency_ms"] for one in found.networks] == [10.0, 11.0]
    assert found.timing_s(0) == pytest.approx(0.0, abs=0.1)  # a device that takes no time


def test_several_workers_train_beside_each_other(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Each is asked for the pace of each network, and the mean counts."""
    made = bench(0.03, 0.05, reference=False)
    found = rehearse(made, [published("xxs")], anchor=None, workers=2, timings=tmp_path / "timings.jsonl")
    assert found.networks[0].pace.step_s == pytest.approx(0.04)
    assert found.reference_ms is None
    assert made.first.asked == ["export", "take_pace"]
    assert made.loading[0].asked == ["take_pace", "take_pace"]  # begun, and answered


def test_more_workers_than_are_started_share_what_there_is(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six workers two are started: each of the six is three times as slow."""
    monkeypatch.setattr(rehearsal, "MOST_AT_ONCE", 2)
    made = bench(0.03, 0.05, reference=False)
    found = rehearse(made, [published("xxs")], anchor=None, workers=6, timings=tmp_path / "timings.jsonl")
    assert found.networks[0].pace.step_s == pytest.approx(0.12)
