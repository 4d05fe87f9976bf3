"""A run's folder: `run.yaml` (the resolved settings, versions, machine), and who may write into it.

The other files of the folder: `trials.jsonl` and `references.jsonl` (trials.py), `study.db` (study.py), and what
report/build.py builds from them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modscale import __version__
from modscale.document import dump_yaml, read_yaml
from modscale.errors import InputError, RunError, shorten
from modscale.files import sweep_halves, write_whole
from modscale.machine import describe_machine, describe_versions
from modscale.runs.experiment import Experiment, experiment_to_dict, parse_experiment
from modscale.runs.trials import Trial, read_trials
from modscale.spaces.space import DATA_KEYS, Space
from modscale.specs.spec import architecture_text, spec_to_dict

RUN_FILE = "run.yaml"
TRIALS_FILE = "trials.jsonl"
REFERENCES_FILE = "references.jsonl"
STUDY_FILE = "study.db"
LOCK_FILE = ".lock"
OUTPUTS = frozenset({
    RUN_FILE, STUDY_FILE, "front.json", "report.md", "report.html", "pareto.png", "design_reading.json",
    "design_reading.png",
})  # fmt: skip
"""What is written whole into a run's folder."""
TIMERS = ("torch", "onnxruntime", "onnxruntime-gpu")
"""Packages whose version moves accuracies or latencies."""


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a run's `run.yaml`.

    Raises:
        RunError: the folder is not there, is no run, or its `run.yaml` is broken.
    """
    file = folder / RUN_FILE
    if not folder.is_dir():
        raise RunError("no such run folder", file=folder)
    if not file.is_file():
        raise RunError(f"is no run's folder: it has no {RUN_FILE}", file=folder)
    try:
        run = read_yaml(file)
    except InputError as error:
        raise RunError(error.rule, file=error.file, place=error.place, value=error.value) from error
    if not isinstance(run, dict) or not isinstance(run.get("space"), dict):
        raise RunError("is not a run's settings: it has no space", file=file)
    return run


def read_run_experiment(folder: Path) -> Experiment:
    """The experiment of a run, from its `run.yaml`. Raises RunError."""
    return run_experiment(read_run(folder), folder)


def run_experiment(document: Mapping[str, Any], folder: Path) -> Experiment:
    """The experiment in a `run.yaml`: nothing of its space is left to the data. Raises RunError."""
    try:
        experiment = parse_experiment(document["space"])
        return replace(experiment, space=replace(experiment.space, from_data=()))
    except RunError:
        raise
    except InputError as error:
        raise RunError(error.rule, file=folder / RUN_FILE, place=f"space.{error.place}", value=error.value) from error


def read_run_trials(folder: Path, space: Space) -> list[Trial]:
    """The finished trials of a run of `space`, each held to its space and to what it says itself.

    Raises:
        RunError: see `read_trials`; or the network of a trial is not the one of its choice, or breaks a constraint.
            A line of the contract's keys alone, without a choice, can be reported and not gone on from.
    """
    trials = read_trials(folder / TRIALS_FILE)
    for trial in trials:
        if trial.choice:
            with naming_trial(folder / TRIALS_FILE, trial):
                _check_choice(trial, space)
    return trials


def section(run: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping of `run.yaml`; empty where it is missing or something else."""
    found = run.get(key)
    return found if isinstance(found, Mapping) else {}


def check_folder(folder: Path, experiment: Experiment) -> Experiment | None:
    """The experiment with which the run in `folder` goes on; None where it holds none.

    A run is held to what changes what was measured, or how candidates are drawn. The rest is as `experiment` has it:
    its name, its bands, the number of trials, and references after those that the run has.

    Raises:
        RunError: it holds a run of another space, or other files.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise RunError("must be a folder, and is a file", file=folder)
    if not (folder / RUN_FILE).exists():
        # Hidden files are the lock, the system's, or what a killed search had half written.
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise RunError(f"must be empty or a run's folder: it has {others[0]} and no {RUN_FILE}", file=folder)
        return None
    began = read_run_experiment(folder)
    experiment = experiment.fitted(_recorded_sizes(read_run(folder), began))
    old, new = experiment_to_dict(began), experiment_to_dict(experiment)
    new["search"]["references"] = new["search"]["references"][: len(began.search.references)]
    for place, before, now in _differences(_held(old), _held(new)):
        what = "was made with other threads" if place.endswith(".threads") else "belongs to another space"
        change = f"its {place} is {_told(before)}, and {_told(now)} here"
        raise RunError(f"{what}: {change}; give another --out", file=folder)
    return replace(experiment, objectives=began.objectives)  # in the order that the study has them


def check_machine(folder: Path) -> list[str]:
    """What is not as it was when the run began, and may move its numbers: versions of packages, a line each.

    Raises:
        RunError: the processor, or a GPU that it used, is another one; latencies of two machines have no common front.
    """
    run = read_run(folder)
    machine, versions = section(run, "machine"), section(run, "versions")
    provider = section(section(run, "space"), "latency").get("provider")
    uses_gpu = provider == "cuda" or str(section(run, "data").get("device")).startswith("cuda")
    now_here = describe_machine()
    for part in ("cpu", "gpu") if uses_gpu else ("cpu",):
        now = now_here[part]
        before = machine.get(part)
        if None not in (before, now) and before != now:
            rule = f"was measured on another machine: its {part} is {_told(before)}, and {_told(now)} here"
            raise RunError(f"{rule}; give another --out", file=folder)
    here = describe_versions()
    pairs = [(package, versions.get(package), here.get(package)) for package in TIMERS]
    pairs += [("the GPU's driver", machine.get("gpu_driver"), now_here["gpu_driver"])] if uses_gpu else []
    return [f"{name} was {old or 'absent'} and is {new or 'absent'}" for name, old, new in pairs if old != new]


@contextlib.contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other searches out of it while this one runs; a killed one leaves no lock.

    What a killed one has half written is removed.

    Raises:
        RunError: the folder cannot be made or written to, or another search is running in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder, LOCK_FILE, TRIALS_FILE, REFERENCES_FILE)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError("another search is running in this folder", file=folder) from error
    except OSError as error:
        raise RunError(f"cannot be written to: {error.strerror or error}", file=folder) from error
    try:
        sweep_halves(folder, lambda name: name in OUTPUTS)
        yield
    finally:
        lock.release()


def refuse_links(folder: Path, *names: str) -> None:
    """Raises RunError where one of the names is a link: what a run writes stays in its folder."""
    for name in names:
        if (folder / name).is_symlink():
            raise RunError("is a link, and a run writes only into its own folder; remove it", file=folder / name)


def write_run(
    folder: Path, experiment: Experiment, space_file: str, data: Mapping[str, Any], *, from_data: Sequence[str] = ()
) -> None:
    """Records how a run was made; `from_data` is what of the space is its data's. Raises InputError if it cannot."""
    run = {
        "modscale": __version__,
        "space_file": space_file,
        "data": dict(data),
        "seed": experiment.search.seed,
        "trials": experiment.search.trials,
        "from_data": list(from_data),
        "space": experiment_to_dict(experiment),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(folder / RUN_FILE, dump_yaml(run))


def update_run(folder: Path, experiment: Experiment, notes: Sequence[str] | None = None) -> list[str]:
    """Records the experiment with which a run goes on, see `check_folder`; returns what of it is new.

    `notes` are the data's, where they were looked at again.

    Raises:
        RunError: `run.yaml` cannot be read.
        InputError: it cannot be written.
    """
    run = read_run(folder)
    old, new = experiment_to_dict(read_run_experiment(folder)), experiment_to_dict(experiment)
    changed = ["bands"] if list(old["bands"].items()) != list(new["bands"].items()) else []
    changed += [place for place, _, _ in _differences(old, new) if not place.startswith("bands.")]
    data = dict(section(run, "data"))
    if notes is not None and data.get("notes") != list(notes):
        data["notes"] = list(notes)
        changed.append("notes")
    if changed:
        run |= {"trials": experiment.search.trials, "space": new, "data": data}
        write_whole(folder / RUN_FILE, dump_yaml(run))
    return changed


@contextlib.contextmanager
def naming_trial(file: Path, trial: Trial) -> Iterator[None]:
    """Makes an InputError in here a RunError that names the file and the trial."""
    try:
        yield
    except InputError as error:
        place = f"trial {trial.number}, {error.place}" if error.place else f"trial {trial.number}"
        raise RunError(error.rule, file=file, place=place, value=error.value) from error


def _check_choice(trial: Trial, space: Space) -> None:
    """Raises InputError where a trial's spec is not what its choice makes of the space, or is not allowed in it."""
    options = {}
    for parameter in space.searched:
        if parameter.name not in trial.choice:
            raise InputError("is required: the space has a choice there", place=f"choice.{parameter.name}")
        label = trial.choice[parameter.name]
        try:
            options[parameter.name] = parameter.option(label)
        except KeyError as error:
            rule = "must be one of the space's options"
            raise InputError(rule, place=f"choice.{parameter.name}", value=label) from error
    unknown = set(trial.choice) - set(options)
    if unknown:
        raise InputError("the space has no choice of this name", place="choice", value=min(unknown))
    expected = space.spec(options, name=trial.spec.name)
    if expected != trial.spec:
        document = spec_to_dict(trial.spec)
        for place, there, here in _differences(spec_to_dict(expected), document, "spec"):
            raise InputError(f"must be {_told(there)}, as its choice and the space have it", place=place, value=here)
    widths = [stage.dim for stage in trial.spec.stages]
    limits = space.constraints
    if not (limits.params.allow(trial["params"]) and limits.flops.allow(trial["flops"])) or (
        limits.nondecreasing_widths and widths != sorted(widths)
    ):
        raise InputError("breaks a constraint of the space", place="spec", value=architecture_text(trial.spec))


def _held(document: dict[str, Any]) -> dict[str, Any]:
    """Of an experiment, what a run is held to: all but what only names, chooses, or says how long."""
    search = {key: value for key, value in document["search"].items() if key != "trials"}
    return {key: value for key, value in document.items() if key not in ("name", "bands")} | {"search": search}


def _recorded_sizes(run: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Classes and channels of a run's data; where they are not on record, those that its networks were counted with."""
    data = section(run, "data") if "from_data" in run else {}
    return {word: data.get(word, getattr(experiment.space.base, key)) for key, word in DATA_KEYS.items()}


def _differences(old: object, new: object, place: str = "") -> Iterator[tuple[str, object, object]]:
    """Every place in which two documents differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, now, f"{place}[{i}]")
    elif old != new:
        yield place, old, new


def _told(value: object) -> str:
    return "not set" if value is None else shorten(value)
