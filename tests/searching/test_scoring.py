"""Scoring networks of known accuracy, on fakes: the order, what a stop leaves, and what a failure costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modscale.errors import DataError, TrialFailed
from modscale.runs.scores import Scored, read_scored
from modscale.searching.scoring import Job, plan_jobs, run_jobs
from modscale.specs.known import known_networks
from modscale.specs.spec import ModelSpec
from modscale.training.proxies import ProxyScore

NETWORKS = known_networks(["xxs", "xs", "s"])


class Log:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.rows: list[Scored] = []

    def started(self, label: str, spec: ModelSpec) -> None:
        self.heard.append(label)

    def stage(self, name: str) -> None:
        self.heard.append(name)

    def finished(self, label: str, row: Scored) -> None:
        self.rows.append(row)


def score(spec: ModelSpec, seed: int) -> tuple[ProxyScore, float]:
    return ProxyScore(score=spec.stages[0].depth + seed / 10, standard_error=0.1, results={"loss": 2.0}), 1.5


def time_one(spec: ModelSpec, announce: Callable[[str], None]) -> dict[str, float]:
    announce("export")
    return {"latency_ms": 10.0}


def run(folder: Path, jobs: list[Job], log: Log, score: Any = score, time_one: Any = time_one) -> None:
    run_jobs(jobs, score, time_one, log, lambda job: folder / ("latency" if job.seed is None else "scores"))


def test_every_network_is_measured_before_the_next_seed(tmp_path: Path) -> None:
    """A stop on the way leaves whole rounds; a network is timed once, before its first score."""
    jobs = plan_jobs(NETWORKS, [4, 5], times=True)
    assert [(job.network.name, job.seed) for job in jobs] == [
        ("xxs", None), ("xxs", 4), ("xs", None), ("xs", 4), ("s", None), ("s", 4), ("xxs", 5), ("xs", 5), ("s", 5)
    ]  # fmt: skip
    assert [job.seed for job in plan_jobs(NETWORKS, [4], times=False)] == [4, 4, 4]
    log = Log()
    run(tmp_path, jobs, log)
    assert log.heard[:5] == ["xxs", "export", "xxs", "training", "xs"]
    assert [(row.name, row.score) for row in read_scored(tmp_path / "scores")] == [
        ("xxs", 2.4), ("xs", 3.4), ("s", 4.4), ("xxs", 2.5), ("xs", 3.5), ("s", 4.5)
    ]  # fmt: skip
    assert [row.results for row in read_scored(tmp_path / "latency")] == [{"latency_ms": 10.0}] * 3
    first = read_scored(tmp_path / "scores")[0]
    assert (first.standard_error, first.cpu_seconds, first.results, first.state) == (
        0.1,
        1.5,
        {"loss": 2.0},
        "complete",
    )
    assert {job.key for job in jobs} == {row.key for row in log.rows}


def test_one_network_under_two_names_is_measured_once(tmp_path: Path) -> None:
    """Its row counts for both; a second one could not be told from it."""
    jobs = plan_jobs(known_networks(["s_conv", "xs", "s_conv/modulation"]), [0, 1], times=True)
    assert [(job.network.name, job.seed) for job in jobs] == [
        ("s_conv", None), ("s_conv", 0), ("xs", None), ("xs", 0), ("s_conv", 1), ("xs", 1)
    ]  # fmt: skip
    run(tmp_path, jobs, Log())
    assert len(read_scored(tmp_path / "scores")) == 4


def test_what_is_finished_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    """Stopped in the third, two stand; what is left is the rest."""
    jobs = plan_jobs(NETWORKS, [0], times=False)

    def stopping(spec: ModelSpec, seed: int) -> tuple[ProxyScore, float]:
        if spec.name == "s":
            raise KeyboardInterrupt
        return score(spec, seed)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, jobs, Log(), stopping)
    known = {row.key for row in read_scored(tmp_path / "scores")}
    assert [job.network.name for job in jobs if job.key not in known] == ["s"]


def test_a_network_that_fails_is_written_down_with_its_reason(tmp_path: Path) -> None:
    """The others go on; what is nobody's failure but the data's ends it all."""

    def failing(spec: ModelSpec, seed: int) -> tuple[ProxyScore, float]:
        raise TrialFailed("diverged") if spec.name == "xs" else DataError("gone")

    def no_time(spec: ModelSpec, announce: Callable[[str], None]) -> dict[str, float]:
        raise TrialFailed("no export")

    with pytest.raises(DataError, match="gone"):
        run(tmp_path, plan_jobs(known_networks(["xs", "s"]), [0], times=True), Log(), failing, no_time)
    (scored,) = read_scored(tmp_path / "scores")
    assert (scored.name, scored.state, scored.reason, scored.score) == ("xs", "failed", "diverged", None)
    assert [row.reason for row in read_scored(tmp_path / "latency")] == ["no export", "no export"]
