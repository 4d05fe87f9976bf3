"""The pool on real processes that train nothing: whatever dies, nothing is lost, doubled or timed beside a training."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modscale.errors import InputError, TrialFailed
from modscale.processes import Child
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial, read_trials
from modscale.searching import agenda
from modscale.searching.engine import Task, run_all
from modscale.searching.loop import run_search
from modscale.searching.measures import Evaluation
from modscale.searching.pool import Pool, Staff
from modscale.searching.steps import Steps, Timing, Work
from modscale.searching.study import SearchStudy
from modscale.searching.worker import Judge
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

TESTS = Path(__file__).parents[1]
ANCHOR = Work(stage="training", function="anchor", is_shared=True)
EXPERIMENT = parse_experiment({
    "name": "fake",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [{"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [2, 4]}, {"dim": [32, 48, 64], "depth": [1, 2]}],
    "search": {"startup_trials": 4, "references": []},
})  # fmt: skip


class Nobody:
    def started(self, label: str, spec: ModelSpec | None) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: object) -> None: ...


@pytest.fixture(autouse=True)
def _found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@contextmanager
def pool_of(
    workers: int, log: Path, *, most_s: float = 0.004, capacity: int = 8, time_models: Any = None
) -> Iterator[Pool]:
    def start() -> Child:
        return Child("fake_worker", "Tasks", (str(log), most_s), name="the worker", waits=False)

    def times(request: Timing, announce: Any) -> list[dict[str, float]]:
        return [{"latency_ms": float(str(model))} for model in request.models]

    staff = Staff(start=start, first=("load",))
    with Pool(staff, time_models or times, workers=workers, capacity=capacity, in_advance=[ANCHOR]) as pool:
        yield pool
    for worker in pool.workers:
        assert not Path(f"/proc/{worker.child.pid}").exists()


def steps(spec: ModelSpec, judge: Judge | None = None) -> Steps[Evaluation]:
    """A candidate that is exported, timed and trained, all of it made up."""
    count = count_model(spec)
    name = yield Work(stage="export", function="export", arguments=(spec.name,))
    assert name == spec.name
    (timed,) = yield Timing(models=(Path(str(count.flops / 1e6)),), told=({"name": spec.name},))
    anchor = yield ANCHOR
    accuracy = yield Work(stage="training", function="train", arguments=(spec.name, count.params / 1e7 * anchor))
    return Evaluation(results={"params": count.params, "flops": count.flops, **timed, "accuracy": accuracy})


def search(folder: Path, pool: Pool, *, limit: int = 14, window: int = 6) -> list[Trial]:
    folder.mkdir()
    return list(
        run_search(
            SearchStudy(EXPERIMENT, build_tables(EXPERIMENT.space), seed=0), steps, Nobody(), engine=pool,
            window=window, limit=limit, trials_file=folder / "trials.jsonl", references=[],
            references_file=folder / "references.jsonl",
        ).trials
    )  # fmt: skip


def untimed(trials: Sequence[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def test_one_two_and_four_workers_find_the_same(tmp_path: Path) -> None:
    """The same trials, whatever they took; the shared work is done once."""
    found = []
    for workers in (1, 2, 4):
        log = tmp_path / f"{workers}.log"
        with pool_of(workers, log) as pool:
            found.append(untimed(search(tmp_path / str(workers), pool, limit=44)))
        assert Counter(log.read_text().splitlines())["anchor"] == 1
    assert found[0] == found[1] == found[2]
    assert [trial.number for trial in found[0]] == list(range(44))
    assert {trial.state for trial in found[0]} == {"complete"}


def test_workers_killed_at_random_moments_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four workers, two killed, twenty times: the same trials, each told once, only what was killed started twice."""
    told: list[tuple[int, int]] = []
    tell = SearchStudy.tell
    monkeypatch.setattr(SearchStudy, "tell", lambda self, t: (told.append((id(self), t.number)), tell(self, t))[1])
    monkeypatch.setattr(agenda, "MOST_TRIES", 3)  # both may hit one candidate, which is its failure otherwise
    log = tmp_path / "log"
    with pool_of(4, log) as pool:
        expected = untimed(search(tmp_path / "whole", pool, limit=10))
        for turn in range(20):
            log.write_text("")
            told.clear()
            killed: list[int] = []

            def kill(turn: int = turn, killed: list[int] = killed) -> None:
                rng = random.Random(turn)
                while len(killed) < 2:
                    time.sleep(rng.uniform(0, 0.03))
                    pid = rng.choice(list(pool.workers)).child.pid
                    if pid not in killed:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                            killed.append(pid)

            killer = threading.Thread(target=kill)
            killer.start()
            trials = untimed(search(tmp_path / str(turn), pool, limit=10))
            killer.join()
            assert trials == expected
            assert sorted(t.number for t in read_trials(tmp_path / str(turn) / "trials.jsonl")) == list(range(10))
            assert len(told) == len(set(told))
            starts = Counter(log.read_text().splitlines())
            assert sum(starts.values()) - len(starts) <= 2


def test_a_candidate_that_kills_its_worker_fails_and_no_other_does(tmp_path: Path) -> None:
    """It is tried twice; the others that were under way are done once."""
    log = tmp_path / "log"
    tasks = [
        Task(key=name, label=name, steps=iter_steps(name)) for name in ("a", "deadly", "b", "c", "d")
    ]  # fmt: skip
    with pool_of(2, log) as pool:
        for task in tasks:
            pool.submit(task)
        done: list[Task] = []
        while len(done) < 5:
            done += pool.wait()
    found = {task.key: task.outcome for task in done}
    assert {key: found[key] for key in "abcd"} == dict.fromkeys("abcd", 0.5)
    assert isinstance(found["deadly"], TrialFailed)
    assert str(found["deadly"]) == "train: the worker was ended by SIGKILL, as when memory runs out (tried 2 times)"
    assert Counter(log.read_text().splitlines())["train deadly"] == 2


def iter_steps(name: str) -> Steps[float]:
    return (yield Work(stage="training", function="train", arguments=(name, 0.5)))


def test_nothing_is_timed_while_a_worker_runs(tmp_path: Path) -> None:
    """All stand still in the middle of what they do, several models are timed together, and then they go on."""
    log, sizes = tmp_path / "log", []

    def states(pool: Pool) -> set[str]:
        files = [Path(f"/proc/{worker.child.pid}/stat") for worker in pool.workers]
        return {file.read_text().rpartition(")")[2].split()[0] for file in files}

    def times(request: Timing, announce: Any) -> list[dict[str, float]]:
        sizes.append(len(request.models))
        deadline = time.monotonic() + 5
        while states(pool) != {"T"} and time.monotonic() < deadline:
            time.sleep(0.001)
        assert states(pool) == {"T"}
        before = log.read_text()
        time.sleep(0.02)
        assert log.read_text() == before
        return [{"latency_ms": float(str(model))} for model in request.models]

    with pool_of(3, log, time_models=times) as pool:
        trials = search(tmp_path / "run", pool)
    assert sum(sizes) == len(trials) == 14
    assert len(sizes) < 14
    assert {trial.state for trial in trials} == {"complete"}


def test_one_that_cannot_be_timed_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """It is found out by timing each alone."""

    def times(request: Timing, announce: Any) -> list[dict[str, float]]:
        if Path("bad") in request.models:
            raise TrialFailed("the provider cannot run it")
        return [{"latency_ms": 1.0} for _ in request.models]

    def one(name: str) -> Steps[Any]:
        (found,) = yield Timing(models=(Path(name),), told=({"name": name},))
        return found

    with pool_of(2, tmp_path / "log", time_models=times) as pool:
        with pytest.raises(TrialFailed, match="the provider cannot run it"):
            run_all(pool, [one("good"), one("bad"), one("fine")])
        assert run_all(pool, [one("good"), one("fine")]) == [{"latency_ms": 1.0}] * 2


def test_a_worker_that_is_loading_joins(tmp_path: Path) -> None:
    """It works, is held against the first as others are, and ends with the pool."""
    log, seen = tmp_path / "log", []

    def start() -> Child:
        return Child("fake_worker", "Tasks", (str(log), 0.0), name="the worker", waits=False)

    child = start()
    child.finish()
    child.begin("load")
    staff = Staff(start=start, first=("load",), check=seen.append)
    with Pool(staff, lambda request, announce: [], workers=1, capacity=2, asked=[child]) as pool:
        assert [worker.child for worker in pool.workers] == [child]
        assert run_all(pool, [iter_steps("a"), iter_steps("b")]) == [0.5, 0.5]
    assert seen == ["the data"]
    assert not is_alive(child.pid)


def test_workers_that_never_begin_end_the_search(tmp_path: Path) -> None:
    """One line of why, and no endless row of new ones."""

    def start() -> Child:
        return Child("no_such_worker", name="the worker", waits=False)

    pool = Pool(Staff(start=start), lambda request, announce: [], workers=2, capacity=2)
    with pool, pytest.raises(InputError, match=r"no worker begins to work: .*No module named 'no_such_worker'"):
        run_all(pool, [iter_steps("a")])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_worker_outlives_the_search(tmp_path: Path, number: int) -> None:
    """Killed, or stopped by Ctrl-C, in the middle of a timing, when all stand still: none is left."""
    script = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from tests.searching.test_pool import iter_steps, pool_of
from modscale.interrupts import hearing_stops
from modscale.searching.engine import Task
from modscale.searching.steps import Timing, Work

def times(request, announce):
    print(*(worker.child.pid for worker in pool.workers), flush=True)
    time.sleep(60)

def timed():
    yield Timing(models=(Path("a"),), told=({{}},))

def spinning():
    yield Work(stage="training", function="spin")

with hearing_stops(), pool_of(3, Path(sys.argv[1]), time_models=times) as pool:
    for steps in (spinning(), spinning(), timed()):
        pool.submit(Task(key=0, label="", steps=steps))
    pool.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=TESTS.parent,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        workers = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(workers) == 3
        os.kill(driver.pid, number)
        driver.wait(timeout=20)
    deadline = time.monotonic() + 10
    while (left := [pid for pid in workers if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
