"""Several runs laid over each other: whether their figures may be compared, and whose networks are on the front of all.

Accuracies compare where data and proxy are the same, latencies where device, provider, threads and precision are;
params and FLOPs always do. Hypervolumes compare at one reference point, which is that of all trials together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from modscale.analysis.front import front_probability, objective_values
from modscale.analysis.results import Run
from modscale.errors import InputError, RunError, naming_file
from modscale.pareto import hypervolume, pareto_front, reference_point
from modscale.runs.conditions import differences, told
from modscale.runs.folder import TRIALS_FILE, section
from modscale.runs.metrics import METRICS
from modscale.runs.trials import Trial, complete_trials
from modscale.settings import UNSTEADY, LatencySettings

MOST_RUNS = 6
"""Runs laid over each other: so many marks are told apart."""
TIMED_BY = ("provider", "threads", "precision", "graph_level", "target")
"""Settings of the latency by which two are of different things; the others move its noise alone."""
TRAINED_ANYHOW = ("threads", "device")
"""Settings of the proxy that change no more of an accuracy than its noise."""

Member = tuple[int, int]
"""Place of a run, and the number of a trial in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """What several runs come to together."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    """What each run is called."""
    objectives: Mapping[str, str]
    """Metric to direction, those that all runs have."""
    odd: Mapping[str, str]
    """Of these the ones whose values are not comparable, each with why, in a clause."""
    fronts: tuple[tuple[Trial, ...], ...]
    """Each run's own front in these objectives, best first along the first."""
    joint: frozenset[Member] = frozenset()
    """The front of all trials together; empty where something is odd."""
    probability: Mapping[Member, float] = field(default_factory=dict)
    """Of each trial, to be on that front, given the noise; empty where something is odd."""
    beaten_by: Mapping[Member, tuple[Member, ...]] = field(default_factory=dict)
    """Of a trial on its own front and not on that of all, who there dominates it."""
    reference: Mapping[str, float] = field(default_factory=dict)
    """Objective to its coordinate of the reference point of all; empty where something is odd."""
    volumes: tuple[float, ...] = ()
    """Each run's hypervolume at that point, as a share of that of all together."""


def lay_over(runs: Sequence[Run], names: Sequence[str]) -> Overlay:
    """Lays runs over each other in the objectives that all of them have.

    Raises:
        RunError: they have no objective in common, a run has no complete trial, or one lacks an objective.
    """
    first = runs[0].experiment.objectives
    objectives = {m: d for m, d in first.items() if all(run.experiment.objectives.get(m) == d for run in runs)}
    if not objectives:
        rule = f"has no objective in common with {names[0]}: {', '.join(first)} there"
        other = next(run for run in runs if not set(first) & set(run.experiment.objectives))
        raise RunError(rule, file=other.folder, value=", ".join(other.experiment.objectives))
    trials, directions = [complete_trials(run.trials) for run in runs], list(objectives.values())
    values = []
    for run, those in zip(runs, trials, strict=True):
        if not those:
            raise RunError("has no complete trial to be compared by", file=run.folder)
        with naming_file(run.folder / TRIALS_FILE):
            values.append(objective_values(those, objectives))
    fronts = tuple(
        tuple(those[i] for i in sorted(pareto_front(array, directions), key=lambda i: tuple(-array[i])))
        for those, array in zip(trials, values, strict=True)
    )
    odd = {metric: why for metric in objectives if (why := _why_odd(metric, runs, names))}
    plain = Overlay(runs=tuple(runs), names=tuple(names), objectives=objectives, odd=odd, fronts=fronts)
    return plain if odd else _together(plain, trials, values)


def _together(plain: Overlay, trials: Sequence[Sequence[Trial]], values: Sequence[Any]) -> Overlay:
    """With what follows where all values may be compared."""
    directions = list(plain.objectives.values())
    everyone = [(i, trial) for i, those in enumerate(trials) for trial in those]
    whole = np.concatenate(list(values))
    on_front = pareto_front(whole, directions)
    joint = frozenset((everyone[k][0], everyone[k][1].number) for k in on_front)
    chances = front_probability([trial for _, trial in everyone], plain.objectives)
    place = {(i, trial.number): k for k, (i, trial) in enumerate(everyone)}
    beaten = {
        (i, t.number): tuple(
            (everyone[k][0], everyone[k][1].number)
            for k in on_front
            if pareto_front(whole[[place[i, t.number], k]], directions) == [1]
        )
        for i, front in enumerate(plain.fronts)
        for t in front
        if (i, t.number) not in joint
    }
    corner = reference_point(whole, directions)
    total = hypervolume(whole, corner, directions)
    return replace(
        plain,
        joint=joint,
        probability={(i, trial.number): float(p) for (i, trial), p in zip(everyone, chances, strict=True)},
        beaten_by=beaten,
        reference=dict(zip(plain.objectives, corner, strict=True)),
        volumes=tuple(hypervolume(array, corner, directions) / total if total else 0.0 for array in values),
    )


def _why_odd(metric: str, runs: Sequence[Run], names: Sequence[str]) -> str:
    """What of a metric's conditions differs from those of the first run; empty where nothing does."""
    tell = _counted if METRICS[metric].is_count else _learnt if METRICS[metric].task else _timed
    whys = []
    for run, name in zip(runs[1:], names[1:], strict=True):
        found = list(tell(metric, runs[0], run))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            whys.append(f"{names[0]} and {name} differ in {', '.join(found[:3])}{more}")
    return "; ".join(whys)


def _counted(metric: str, one: Run, other: Run) -> Iterator[str]:
    return iter(())


def _learnt(metric: str, one: Run, other: Run) -> Iterator[str]:
    data = [section(run.document, "data") for run in (one, other)]
    if data[0].get("fingerprint") != data[1].get("fingerprint"):
        named = [told(each.get("name")) for each in data]
        yield f"images (both of {named[0]})" if named[0] == named[1] else f"data ({', '.join(named)})"
    for key, before, now in differences(asdict(one.experiment.proxy), asdict(other.experiment.proxy)):
        if key not in TRAINED_ANYHOW:
            yield f"proxy.{key} ({told(before)}, {told(now)})"
    estimates = [any(f"{metric}_standard_error" in t.results for t in run.trials) for run in (one, other)]
    if estimates[0] != estimates[1]:
        yield f"what {metric} is (an estimate of full training in one alone)"


def _timed(metric: str, one: Run, other: Run) -> Iterator[str]:
    settings = [_device(run.experiment.latency, metric) for run in (one, other)]
    for key, before, now in differences(settings[0], settings[1]):
        yield f"latency.{key} ({told(before)}, {told(now)})"
    if settings[0].get("target") is None:
        machines = [section(run.document, "machine").get("cpu") for run in (one, other)]
        if machines[0] != machines[1]:
            yield f"machine ({told(machines[0])}, {told(machines[1])})"
    levels = [run.levels.get(metric) for run in (one, other)]
    if levels[0] and levels[1] and max(levels[0], levels[1]) > UNSTEADY * min(levels[0], levels[1]):
        yield f"speed of the machine (the reference takes {levels[0]:.3g} ms, {levels[1]:.3g} ms)"


def _device(latency: LatencySettings, metric: str) -> dict[str, Any]:
    """How the latency of this name is taken, by `TIMED_BY`."""
    here = next(
        (one for one in latency.devices() if one.target is not None and metric == f"latency_{one.target.name}_ms"),
        latency.devices()[0],
    )
    return {key: value for key, value in asdict(here).items() if key in TIMED_BY}


def check_distinct(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Raises InputError where there are too many runs, or one stands twice."""
    if len(runs) > MOST_RUNS:
        raise InputError(f"at most {MOST_RUNS} runs are laid over each other", value=len(runs))
    places = [run.folder.resolve() for run in runs]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise InputError("stands twice among the runs", file=names[i])
