"""Scores networks of known accuracy by a proxy, one after the other, each seed in turn, and writes each down.

How one is scored, and timed, are arguments. A finished one is on disk before the next begins, so that a run killed at
any moment loses none, and the same call goes on with what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from modscale.errors import TrialFailed
from modscale.interrupts import check_stop
from modscale.runs.metrics import Results
from modscale.runs.scores import Scored, append_scored
from modscale.specs.known import KnownNetwork
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec
from modscale.training.proxies import ProxyScore

Score = Callable[[ModelSpec, int], tuple[ProxyScore, float]]
"""Takes a spec and a seed; gives the score, and the CPU seconds it took. Raises TrialFailed."""
Time = Callable[[ModelSpec, Callable[[str], None]], Results]
"""Gives the latency of a spec as a trial has it, and tells of its stages. Raises TrialFailed."""


class ScoringObserver(Protocol):
    """Who watches; each call is a moment of it."""

    def started(self, label: str, spec: ModelSpec) -> None:
        """A network is about to be measured."""

    def stage(self, name: str) -> None:
        """It has come to `name`: export, latency or training."""

    def finished(self, label: str, row: Scored) -> None:
        """It is scored or timed, or failed, and is on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One measurement of one network."""

    network: KnownNetwork
    """The network."""
    seed: int | None
    """By which it is scored; None where it is timed."""

    @property
    def key(self) -> tuple[Any, ...]:
        """That of what comes of it."""
        return (network_key(self.network.spec), self.seed)


def plan_jobs(networks: Sequence[KnownNetwork], seeds: Sequence[int], *, times: bool) -> list[Job]:
    """Every network by the first seed, each timed before it is scored if at all, then every network by the next.

    One network under two names is measured once.
    """
    jobs: dict[Any, Job] = {}
    for seed in seeds:
        for network in networks:
            kinds = [None, seed] if times else [seed]
            for job in (Job(network=network, seed=kind) for kind in kinds):
                jobs.setdefault(job.key, job)
    return list(jobs.values())


def run_jobs(
    jobs: Sequence[Job], score: Score, time_one: Time, observer: ScoringObserver, file_of: Callable[[Job], Path]
) -> None:
    """Measures one after the other, each written to its file before the next begins.

    Raises:
        RunError: the folder can no longer be written to.
        KeyboardInterrupt: a stop was asked for; what is finished is on disk.
    """
    for job in jobs:
        check_stop()
        observer.started(job.network.name, job.network.spec)
        row = _measure(job, score, time_one, observer)
        append_scored(file_of(job), row)
        observer.finished(job.network.name, row)


def _measure(job: Job, score: Score, time_one: Time, observer: ScoringObserver) -> Scored:
    start = time.perf_counter()
    row = Scored(name=job.network.name, spec=job.network.spec, seed=job.seed, state="failed", seconds=0.0)
    try:
        if job.seed is None:
            row = replace(row, state="complete", results=time_one(row.spec, observer.stage))
        else:
            observer.stage("training")
            found, cpu_seconds = score(row.spec, job.seed)
            row = replace(
                row,
                state="complete",
                score=found.score,
                standard_error=found.standard_error,
                results=found.results,
                cpu_seconds=cpu_seconds,
            )
    except TrialFailed as failure:
        check_stop()  # what was stopped has not failed
        row = replace(row, reason=str(failure))
    return replace(row, seconds=time.perf_counter() - start)
