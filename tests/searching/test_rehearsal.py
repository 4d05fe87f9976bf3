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
    """The reference takes 1 ms, a model its name in ms more than ten; both tell when they were timed."""

    events: list[str]

    def __init__(self, settings: LatencySettings, facts: Any = None) -> None:
        super().__init__(settings, FACTS)

    def start(self, count: int) -> None:
        """No process is needed."""

    def time(self, onnx_file: Path, *, runs: int, shape: Any, is_probed: bool | None = None) -> Timings:
        self.events.append(onnx_file.stem)
        ns = round(1e6 * (10.0 + int(onnx_file.stem) if onnx_file.stem.isdigit() else 1.0))
        return Timings(times_ns=(ns,) * runs, preemptions=0, cpu_ns=ns * runs, main_cpu_ns=ns * runs)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a bench of workers with these seconds a step, one after the other."""

    def make(*steps_s: float, **latency: Any) -> Any:
        first, *others = map(FakeWorker, steps_s)
        monkeypatch.setattr(rehearsal, "Device", FakeDevice)
        monkeypatch.setattr(FakeDevice, "events", first.asked, raising=False)
        return SimpleNamespace(
            devices={"": FakeDevice(LatencySettings(threads=1, **latency))}, seed=0, loading=others, ask=first.ask,
            first=first, check=lambda summary: None,
        )  # fmt: skip

    return make


def test_the_rounds_lie_before_between_and_after_the_trainings(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a turn takes long enough, a training follows each; all have the search's settings afterwards."""
    monkeypatch.setattr(rehearsal, "SPREAD_S", 0.0)
    made = bench(0.03)
    specs = [published("s"), published("xxs")]
    found = rehearse(made, specs, anchor=published("xxs"), timings=tmp_path / "timings.jsonl")
    turn, back = ["reference", "0", "1"], ["reference", "1", "0"]
    assert made.first.asked == [
        "export", "export", *turn, "take_pace", *back, "take_pace", *turn, "take_pace", *back, *turn, "reference",
    ]  # fmt: skip
    assert [one.spec.name for one in found.networks] == ["xxs", "s"]  # by FLOPs
    assert found.reference_ms == 1.0
    assert found.networks[0].pace.step_s == 0.03
    assert found.anchor is not None
    (session,) = found.sessions
    assert session.device.settings == LatencySettings(threads=1)  # those of the search
    assert [len(rounds) for rounds in session.rounds] == [5, 5]
    assert len(session.rounds[0][0].timings.times_ns) == 20
    assert [one.results["latency_ms"] for one in found.networks] == [10.0, 11.0]
    assert found.timing_s(0) == pytest.approx(0.0, abs=0.1)  # a device that takes no time


def test_what_is_timed_sooner_leaves_the_trainings_for_the_end(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Each is taken once, in the order of the networks."""
    made = bench(0.03)
    rehearse(made, [published("xxs")], anchor=published("xxs"), timings=tmp_path / "timings.jsonl")
    assert made.first.asked == ["export", *["reference", "0"] * 5, "reference", "take_pace", "take_pace"]


def test_rounds_are_as_long_as_the_searchs_on_every_device(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further devices have their first rounds and no more, each for the time that a round takes at the least."""
    made = bench(0.03, reference=False)
    made.devices["pi"] = FakeDevice(LatencySettings(threads=1, reference=False))
    least_s: list[float] = []
    monkeypatch.setattr(FakeDevice, "start", lambda self, count: least_s.append(self.least_s))
    rehearse(made, [published("xxs")], anchor=None, timings=tmp_path / "timings.jsonl")
    assert made.first.asked == ["export", *["0"] * 10, "take_pace"]
    assert least_s == [0.1] * 10


def test_several_workers_train_beside_each_other(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Each is asked for the pace of each network, and the mean counts."""
    made = bench(0.03, 0.05, reference=False)
    found = rehearse(made, [published("xxs")], anchor=None, workers=2, timings=tmp_path / "timings.jsonl")
    assert found.networks[0].pace.step_s == pytest.approx(0.04)
    assert found.reference_ms is None
    assert made.first.asked == ["export", *["0"] * 5, "take_pace"]
    assert made.loading[0].asked == ["take_pace", "take_pace"]  # begun, and answered


def test_more_workers_than_are_started_share_what_there_is(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six workers two are started: each of the six is three times as slow."""
    monkeypatch.setattr(rehearsal, "MOST_AT_ONCE", 2)
    made = bench(0.03, 0.05, reference=False)
    found = rehearse(made, [published("xxs")], anchor=None, workers=6, timings=tmp_path / "timings.jsonl")
    assert found.networks[0].pace.step_s == pytest.approx(0.12)
