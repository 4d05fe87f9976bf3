"""What a search takes over from earlier runs: what is known from them, and what is tried first because of them.

A measurement is taken as known where nothing differs that moves it: data, device, proxy (but for its threads), latency
settings, processor, versions. Where anything does, the other run's front says where to look, and is measured again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modscale import __version__
from modscale.analysis.results import Run, load_run
from modscale.errors import InputError, TrialFailed
from modscale.files import path_text
from modscale.kinds import naming_kind
from modscale.machine import describe_machine, describe_versions
from modscale.runs.conditions import TIMERS, differences, told, uses_gpu
from modscale.runs.earlier import EarlierTrial, Origin
from modscale.runs.experiment import Experiment, experiment_to_dict
from modscale.runs.folder import read_run_trials, section
from modscale.runs.trials import Trial, complete_trials
from modscale.searching.screen import check_limits
from modscale.spaces.space import Space, as_candidate
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

OUTSIDE = "not in this space"


def load_earlier_runs(folders: Sequence[Path], own: Path) -> list[Run]:
    """The runs in `folders`, none of them the search's own or given twice. Raises InputError."""
    runs, seen = [], {own.resolve()}
    for folder in folders:
        if folder.resolve() in seen:
            rule = "must be another run than this one" if folder.resolve() == own.resolve() else "is given twice"
            raise InputError(rule, place="--from", value=str(folder))
        seen.add(folder.resolve())
        with naming_kind(folder, "run"):
            runs.append(load_run(folder))
    return runs


def plan_start(
    runs: Sequence[Run], experiment: Experiment, data: Mapping[str, Any]
) -> tuple[list[EarlierTrial], list[Origin]]:
    """What is taken of each run, and why. A network that several have is taken once, of the first that gives it.

    `data` is what a run's record says of its data.
    """
    taken: dict[tuple[Any, ...], EarlierTrial] = {}
    origins = []
    for run in runs:
        differs = _difference(run, experiment, data)
        name, before, left = path_text(str(run.folder)), len(taken), Counter[str]()
        # With the latencies that the run itself was searched by; of a front no figure is taken.
        found = read_run_trials(run.folder, run.experiment.space) if differs is None else _front(run)
        for trial in found:
            placed = _known(trial, experiment) if differs is None else _first(trial, experiment.space)
            if isinstance(placed, Trial) and network_key(placed.spec) in taken:
                placed = "taken already"
            if isinstance(placed, Trial):
                use = "known" if differs is None else "first"
                taken[network_key(placed.spec)] = EarlierTrial(run=name, use=use, trial=placed)
            else:
                left[placed] += 1
        more = len(taken) - before
        known, first = (more, 0) if differs is None else (0, more)
        trials = len(run.trials)
        origins.append(Origin(run=name, trials=trials, known=known, first=first, differs=differs, left=left))
    return list(taken.values()), origins


def _front(run: Run) -> Sequence[Trial]:
    return run.front.members if complete_trials(run.trials) else ()


def _difference(run: Run, experiment: Experiment, data: Mapping[str, Any]) -> str | None:
    """The first thing that moves measurements and is not as in `run`, in words; None where there is none."""
    theirs = section(run.document, "data")
    if theirs.get("fingerprint") != data.get("fingerprint"):
        return "other data"
    if theirs.get("device") != data.get("device"):
        return f"trained on {told(theirs.get('device'))}, and on {told(data.get('device'))} here"
    old, new = experiment_to_dict(run.experiment), experiment_to_dict(experiment)
    for part, free in (("proxy", ("threads",)), ("latency", ("calibration",))):
        before_all, now_all = (
            {key: value for key, value in one[part].items() if key not in free} for one in (old, new)
        )
        for place, before, now in differences(before_all, now_all, part):
            return f"its {place} is {told(before)}, and {told(now)} here"
    machine, here = section(run.document, "machine"), describe_machine()
    for part in ("cpu", "gpu") if uses_gpu(experiment.latency.provider, data.get("device")) else ("cpu",):
        if machine.get(part) != here[part]:
            return f"its {part} is {told(machine.get(part))}, and {told(here[part])} here"
    versions, ours = section(run.document, "versions"), describe_versions()
    pairs = [(name, versions.get(name), ours.get(name)) for name in TIMERS]
    pairs.append(("modscale", run.document.get("modscale"), __version__))
    return next((f"its {name} is {told(old)}, and {told(new)} here" for name, old, new in pairs if old != new), None)


def _known(trial: Trial, experiment: Experiment) -> Trial | str:
    """The trial as one of this experiment's, or why it is none."""
    if trial.state != "complete":
        return "not complete"
    missing = [metric for metric in experiment.objectives if metric not in trial.results]
    if missing:
        return f"without {' and '.join(missing)}"
    placed = _placed(trial, trial.spec, experiment.space)
    if isinstance(placed, Trial):
        try:
            check_limits(experiment.limits, placed.results)
        except TrialFailed:
            return "beyond the limits of this one"
    return placed


def _first(trial: Trial, space: Space) -> Trial | str:
    """The network of a trial as the space would make it, with its counts and no other figure; or why it makes none."""
    placed = _placed(trial, as_candidate(trial.spec, space), space)
    if isinstance(placed, str):
        return placed
    count = count_model(placed.spec)
    return replace(placed, results={"params": count.params, "flops": count.flops})


def _placed(trial: Trial, spec: ModelSpec, space: Space) -> Trial | str:
    """The trial with the choice by which the space makes the network of `spec`, or why it makes none."""
    if len(spec.stages) != space.num_stages:
        return OUTSIDE
    options = {}
    for parameter in space.searched:
        stage = spec.stages[parameter.stage]
        fields = {option: parameter.field(option) for option in parameter.options}
        fitting = [option for option, (key, value) in fields.items() if getattr(stage, key) == value]
        options[parameter.name] = (fitting or parameter.options)[0]  # where none fits, it may be of no effect
    made = space.spec(options, name=trial.spec.name)
    count = count_model(made)
    if network_key(made) != network_key(spec) or not space.constraints.allow(made, count.params, count.flops):
        return OUTSIDE
    choice = {parameter.name: parameter.label(options[parameter.name]) for parameter in space.searched}
    return replace(trial, spec=made, choice=choice, rungs=())
