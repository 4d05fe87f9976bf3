"""The evaluator: one worker for torch, a fresh process for the clock, and a search that outlives both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_steps import Listening, die

from modscale.errors import (
    DataError,
    InputError,
    MismatchError,
    ModscaleError,
    ProviderError,
    TargetError,
    TooLargeError,
    TrialFailed,
    WorkerFault,
)
from modscale.latency import summary
from modscale.latency.raw import read_measurements
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching.measures import MEASURES, Evaluator
from modscale.specs.counts import count_model


@pytest.fixture(autouse=True)
def _two_timing_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a latency is taken is no matter of these tests."""
    monkeypatch.setattr(summary, "PROCESSES", 2)


def tiny(**latency: object) -> Experiment:
    return parse_experiment({
        "name": "tiny",
        "base": {"resolution": 32, "num_classes": 10},
        "stages": [{"dim": [8, 16], "depth": 1}, {"dim": 16, "depth": 1}],
        "proxy": {"resolution": 16, "epochs": 1, "threads": 1},
        "latency": {"runs": 12, "warmup": 1, "threads": 1, "patience_s": 0, "reference": False, **latency},
    })  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in brightness: any network learns them."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("data") / "bright.npz"
    arrays = {}
    for split, count in (("train", 128), ("val", 40)):
        labels = np.arange(count) % 2
        noise = rng.integers(0, 60, (count, 16, 16, 3))
        arrays[f"x_{split}"] = (noise + labels[:, None, None, None] * 150).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def evaluator(data: Path) -> Iterator[Evaluator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where a judge's class is found
        with Evaluator(tiny(), str(data)) as running:
            yield running


def test_an_evaluation_measures_everything(evaluator: Evaluator) -> None:
    """Counts are the closed form's, the easy classes are learnt, and the stages are announced in order."""
    stages: list[str] = []
    spec = tiny().space.base
    evaluation = evaluator(spec, stages.append)
    count = count_model(spec)
    assert (evaluation.results["params"], evaluation.results["flops"]) == (count.params, count.flops)
    assert evaluation.results["trained_accuracy"] == 1.0
    assert evaluation.results["val_images"] == 40
    assert evaluation.results["latency_ms"] > 0
    assert stages == [
        "export",
        "latency",
        "anchor",
        "training",
    ]  # what its training is put to comes once, the first time
    assert (evaluator.summary.classes, evaluator.summary.train_images) == (2, 128)


def test_every_device_is_timed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a latency of its own, every run of both is kept, and a device that has become another one ends it."""
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path / "cache"))
    targets = {"pi": {"command": [sys.executable, "-"]}}
    file = tmp_path / "timings.jsonl"
    spec = tiny().space.base
    timing = MEASURES[1:2]
    with Evaluator(tiny(targets=targets), str(data), measures=timing, timings=file) as running:
        results = running(spec).results
    assert results["latency_ms"] > 0 < results["latency_pi_ms"]
    assert results["latency_pi_ci95_ms"] > 0
    kept = read_measurements(file)
    assert [one.latencies()[0].target for one in kept] == [None, "pi"]
    assert [one.latencies()[0].median_ms for one in kept] == [results["latency_ms"], results["latency_pi_ms"]]
    text = file.read_text().splitlines()
    changed = [line.replace(str(kept[0].device.facts["processor"]), "Cortex-A72") for line in text]
    file.write_text("\n".join(changed) + "\n")
    again = Evaluator(tiny(targets=targets), str(data), measures=timing, timings=file)
    with pytest.raises(TargetError, match=r"its processor is .* now, and was Cortex-A72 when this began"), again:
        pass


def test_training_again_gives_the_same_accuracy(evaluator: Evaluator) -> None:
    """A candidate's accuracy is a function of the spec, the data and the seed."""
    spec = tiny().space.base
    first, second = (evaluator.bench.ask("score", spec, 0)[0].results for _ in range(2))
    assert first == second
    assert first["accuracy"] > 0


def test_a_killed_worker_fails_its_candidate_and_not_the_next(evaluator: Evaluator) -> None:
    """As when the system runs out of memory: the trial has a reason, and a new worker takes over."""
    assert evaluator.bench.worker is not None
    os.kill(evaluator.bench.worker.pid, signal.SIGKILL)
    with pytest.raises(TrialFailed, match="ended by SIGKILL, as when memory runs out"):
        evaluator(tiny().space.base)
    assert evaluator(tiny().space.base).results["trained_accuracy"] == 1.0


def test_an_unforeseen_error_ends_the_worker_and_not_the_search(evaluator: Evaluator) -> None:
    """After some of CUDA's errors every later call in the process fails: the next candidate gets a new one."""
    assert evaluator.bench.worker is not None
    before = evaluator.bench.worker.pid
    with pytest.raises(TrialFailed, match="score: the worker process: ValueError: invalid literal"):
        evaluator.bench.ask("score", tiny().space.base, "not a seed")
    assert evaluator(tiny().space.base).results["trained_accuracy"] == 1.0
    assert evaluator.bench.worker.pid != before


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MismatchError("torch differs"), "TrialFailed: work: torch differs"),
        (TooLargeError("at most 2 GiB"), "TrialFailed: work: at most 2 GiB"),
        (TrialFailed("diverged"), "TrialFailed: diverged"),
        (DataError("no images"), "DataError: no images"),
        (WorkerFault("a line of why"), "TrialFailed: work: a line of why"),
    ],
)  # fmt: skip
def test_what_a_worker_answers(raised: Exception, told: str) -> None:
    """What cannot be exported fails its trial, as does a lost worker; what the user can mend stays that."""

    class Worker:
        is_running = True

        def ask(self, task: str) -> None:
            raise raised

    running = Evaluator(tiny(), "synthetic")
    running.bench.worker = Worker()  # type: ignore[assignment]
    with pytest.raises(ModscaleError) as caught:
        running.bench.ask("work")
    assert f"{type(caught.value).__name__}: {caught.value}" == told


def test_data_that_changes_during_a_search_ends_it(tmp_path: Path, data: Path) -> None:
    """A new worker must find the data that the earlier candidates were trained on."""
    copy = tmp_path / "copy.npz"
    copy.write_bytes(data.read_bytes())
    with Evaluator(tiny(), str(copy)) as running:
        assert running.bench.worker is not None
        running.bench.worker.stop()
        with np.load(data) as arrays:
            np.savez(copy, **{**arrays, "x_val": arrays["x_val"] // 2})
        with pytest.raises(InputError, match="the data or the device changed during the search"):
            running(tiny().space.base)


def test_a_candidate_too_large_for_memory_fails_with_its_reason(evaluator: Evaluator) -> None:
    """An allocation that cannot succeed is the candidate's failure."""
    huge = tiny().space.base
    huge = replace(huge, stages=(replace(huge.stages[0], dim=2**20, mlp_ratios=(64,)),))  # one matrix of 281 TB
    with pytest.raises(TrialFailed, match="export: network: an ONNX file holds at most 2 GiB"):
        evaluator(huge)
    with pytest.raises(TrialFailed, match="out of memory in the proxy training"):
        evaluator.bench.ask("score", huge, 0)


def test_unusable_data_and_providers_end_it_before_it_begins(tmp_path: Path, data: Path) -> None:
    """The error is the user's to mend, and no worker stays behind; the device is asked before the data are loaded."""
    with (
        pytest.raises(DataError, match=r"nowhere: no such file or folder; must be .*, or a .npz$"),
        Evaluator(tiny(), str(tmp_path / "nowhere")),
    ):
        pass
    told: list[str] = []
    with pytest.raises(ProviderError, match="CUDA"), Evaluator(tiny(provider="cuda"), str(data), note=told.append):
        pass
    assert told == []  # the data were not begun
    with Evaluator(tiny(), str(data), note=told.append):
        assert told == [f"loading the data ({data})"]


def test_the_worker_goes_when_the_search_is_killed(data: Path) -> None:
    """kill -9 on the parent leaves no orphan that trains on."""
    script = (
        "import sys, os, tests.searching.test_measures as t\n"
        "from modscale.searching.measures import Evaluator\n"
        "if __name__ == '__main__':\n"
        "    with Evaluator(t.tiny(), sys.argv[1]) as e:\n"
        "        print(e.bench.worker.pid, flush=True); sys.stdin.read()\n"
    )
    file = data.with_name("parent.py")
    file.write_text(script)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(file), str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("the worker is still alive")


def test_a_candidate_that_goes_on_ends_as_one_without_rungs(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same results, and what it had at each rung; one that is stopped has no accuracy."""
    spec, judge = tiny().space.base, Listening(tmp_path / "heard.jsonl", ends_at=5)
    monkeypatch.setattr(evaluator, "measures", (MEASURES[0], MEASURES[2]))
    expected = evaluator(spec)
    monkeypatch.setattr(evaluator, "rungs", (0.25, 0.5))
    found, unjudged = evaluator(spec, judge=judge), evaluator(spec)
    assert found.results == unjudged.results == expected.results
    counts = ["flops", "params"]
    assert judge.heard() == [[counts, []], [counts, [0.25]], [counts, [0.25, 0.5]]]
    assert [rung.share for rung in found.rungs] == [0.25, 0.5, 1.0]
    assert [rung.value for rung in found.rungs] == [rung.value for rung in unjudged.rungs]
    assert found.rungs[-1].value == found.results["accuracy"]
    assert (expected.rungs, found.stopped) == ((), None)
    stopped = evaluator(spec, judge=judge)  # the fifth question is the one at its first rung
    assert (stopped.stopped, [rung.share for rung in stopped.rungs]) == ("enough", [0.25])
    assert sorted(stopped.results) == counts


def test_a_worker_killed_at_a_rung_fails_its_candidate(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the next one."""
    monkeypatch.setattr(evaluator, "measures", MEASURES[2:])
    monkeypatch.setattr(evaluator, "rungs", (0.25, 0.5))
    with pytest.raises(TrialFailed, match="ended by SIGKILL, as when memory runs out"):
        evaluator(tiny().space.base, judge=die)
    assert evaluator(tiny().space.base).results["trained_accuracy"] == 1.0
