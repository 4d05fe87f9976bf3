"""The workers of a search: what `--workers` means, and what of a run follows from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from modscale.errors import InputError
from modscale.machine import available_cores, describe_versions
from modscale.runs.experiment import Experiment
from modscale.searching.engine import Engine, Inline
from modscale.searching.measures import Evaluator, begin_anchor, time_models
from modscale.searching.pool import Pool, Staff

MOST_WORKERS = 256
AHEAD = 2
"""Trials that are drawn ahead for each worker: more cost the front of a short search more than they save time."""
RAY_AHEAD = 5
"""The same on a cluster, where each time that trials are of different lengths costs more: workers_simulation.md."""
SHARE = 4
"""On a cluster W is at most so small a part of the trials, lest most of a short search be drawn at random."""
LEAST_WINDOW = 4
"""But at least that: it costs nothing after 20 trials."""
RAY = re.compile(r"ray(://[A-Za-z0-9_.-]+(:[0-9]{1,5})?)?")
RAY_PORT = 10001
"""Where Ray hears clients by default."""

Workers = int | str
"""A number of processes on this machine, or the address of a Ray cluster, `auto` for the one of this machine."""


def parse_workers(text: str) -> Workers:
    """What `--workers` says. Raises InputError."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    found = RAY.fullmatch(text)
    if found is None:
        rule = f"must be a number of workers, 1 to {MOST_WORKERS}, ray, or ray://HOST[:PORT]"
        raise InputError(rule, place="--workers", value=text)
    if found[1] is None:
        return "auto"
    return text if found[2] else f"{text}:{RAY_PORT}"


def resolve(experiment: Experiment, begun: Experiment | None, workers: Workers) -> Experiment:
    """The experiment as `run.yaml` has it, with every setting filled in that depends on the machine or the workers.

    `begun` is that of the run that goes on: what it resolved stays, so that a run may go on with other workers.

    Raises InputError where a cluster must be asked how many it can train at a time, and is not there.
    """
    proxy, search = experiment.proxy, experiment.search
    threads, window = proxy.threads, search.window
    if begun is not None:
        threads, window = threads or begun.proxy.threads, window or begun.search.window or 1
    if isinstance(workers, str):
        default_threads, default_window = 1, 0
        if window is None:
            slots = import_ray_engine(workers).ray_cluster.count_slots(workers, threads or default_threads)
            default_window = min(RAY_AHEAD * slots, max(LEAST_WINDOW, search.trials // SHARE))
    else:
        default_threads = max(1, available_cores() // workers)
        default_window = 1 if workers == 1 else AHEAD * workers
    return replace(
        experiment,
        latency=replace(experiment.latency, threads=experiment.latency.resolved_threads()),
        proxy=replace(proxy, threads=threads or default_threads),
        search=replace(search, window=window or default_window),
    )


def cores_each(workers: Workers) -> int | None:
    """Cores for the trainings of one of so many workers at most; None where there is one, which has what is stated."""
    return max(1, available_cores() // workers) if isinstance(workers, int) and workers > 1 else None


def make_engine(
    evaluator: Evaluator, workers: Workers, window: int, pool: Callable[..., Pool] = Pool
) -> AbstractContextManager[Engine]:
    """What evaluates a run's candidates by its workers, as far as its window lets them; `pool` makes that of several.

    Raises InputError where Ray is asked for and not installed.
    """
    if workers == 1:
        return Inline(evaluator.answer, evaluator.bench.now)
    bench = evaluator.bench
    in_advance = (begin_anchor(evaluator.seed, (*evaluator.rungs, 1.0)),)
    if isinstance(workers, int):
        return pool(
            Staff(start=bench.start, first=("load",), check=bench.check),
            partial(time_models, bench),
            ready=[] if bench.worker is None else [bench.worker],
            asked=bench.loading,
            workers=workers,
            capacity=window + 1,
            in_advance=in_advance,
            stands_still=any(device.settings.target is None for device in bench.devices.values()),
        )
    ray_engine = import_ray_engine(workers)
    from modscale.searching.far_tasks import Place

    place = Place(
        source=bench.source,
        proxy=bench.proxy,
        latency=evaluator.latency,
        seed=bench.seed,
        cores=bench.proxy.threads or 1,
        summary=bench.summary,
        versions=tuple(describe_versions().items()),
    )
    return ray_engine.RayEngine(workers, place, bench, capacity=window + 1, in_advance=in_advance)


def import_ray_engine(workers: str) -> Any:
    """The module that knows Ray. Raises InputError where Ray is not installed."""
    try:
        from modscale.searching import ray_engine
    except ImportError as error:
        rule = f"needs Ray, which is not there ({error}): pip install 'modscale[ray]'"
        raise InputError(rule, place="--workers", value=workers) from error
    return ray_engine
