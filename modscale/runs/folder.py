"""A run's folder: `run.yaml` (the resolved settings, versions, machine), and what a run is held to.

The other files of the folder: `trials.jsonl` and `references.jsonl` (trials.py), `study.db` (mirror.py), every timed
run in `timings.jsonl` (latency/raw.py), and what report/build.py builds from them.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modscale import __version__
from modscale.document import dump_yaml
from modscale.errors import InputError, RunError
from modscale.files import write_whole
from modscale.runs.conditions import check_conditions, differences, told, uses_gpu
from modscale.runs.experiment import Experiment, experiment_to_dict, parse_experiment
from modscale.runs.finals import FINALS_FILE
from modscale.runs.locking import locked_folder
from modscale.runs.records import is_begun, made_here, read_record
from modscale.runs.trials import Trial, read_trials
from modscale.spaces.space import DATA_KEYS, Space
from modscale.specs.spec import architecture_text, spec_to_dict

RUN_FILE = "run.yaml"
TRIALS_FILE = "trials.jsonl"
REFERENCES_FILE = "references.jsonl"
STUDY_FILE = "study.db"
TIMINGS_FILE = "timings.jsonl"
EARLIER_FILE = "earlier.jsonl"
OUTPUTS = frozenset({
    RUN_FILE, STUDY_FILE, "front.json", "report.md", "report.html", "pareto.png", "design_reading.json",
    "design_reading.png", "hypervolume.png", EARLIER_FILE, FINALS_FILE,
})  # fmt: skip
"""What is written whole into a run's folder."""
MOST_STUDY_CHARS = 400
"""Of the name of a study in a storage; Optuna takes 512."""


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a run's `run.yaml`.

    Raises:
        RunError: the folder is not there, is no run, or its `run.yaml` is broken.
    """
    file = folder / RUN_FILE
    if not folder.is_dir():
        raise RunError("is no folder, as a run is" if folder.is_file() else "no such run folder", file=folder)
    if not file.is_file():
        raise RunError(f"is no run's folder: it has no {RUN_FILE}", file=folder)
    return read_record(file, "space", rule="is not a run's settings: it has no space")


def read_run_experiment(folder: Path) -> Experiment:
    """The experiment of a run, from its `run.yaml`. Raises RunError."""
    return run_experiment(read_run(folder), folder)


def run_experiment(document: Mapping[str, Any], folder: Path) -> Experiment:
    """The experiment in a `run.yaml`: nothing of its space is left to the data. Raises RunError."""
    try:
        space = document["space"]
        proxy = space.get("proxy")
        if isinstance(proxy, Mapping) and "width_factor" not in proxy:  # older runs trained at full width alone
            space = space | {"proxy": {"method": "train"} | dict(proxy)}
        experiment = parse_experiment(space)
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
                check_trial_choice(trial, space)
    return trials


def section(run: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping of `run.yaml`; empty where it is missing or something else."""
    found = run.get(key)
    return found if isinstance(found, Mapping) else {}


def data_source(run: Mapping[str, Any]) -> str:
    """The data as the search was given them, by `run.yaml`."""
    return str(section(run, "data").get("source", "synthetic"))


def check_folder(folder: Path, experiment: Experiment) -> Experiment | None:
    """The experiment with which the run in `folder` goes on; None where it holds none.

    A run is held to what changes what was measured, or how candidates are drawn. The rest is as `experiment` has it:
    its name, its bands, the number of trials, references after those that the run has, and the accuracies that are
    stated of references.

    Raises:
        RunError: it holds a run of another space, or other files.
    """
    if not is_begun(folder, RUN_FILE, what="a run's folder"):
        return None
    began = read_run_experiment(folder)
    experiment = experiment.fitted(_recorded_sizes(read_run(folder), began))
    old, new = experiment_to_dict(began), experiment_to_dict(experiment)
    new["search"]["references"] = new["search"]["references"][: len(began.search.references)]
    for place, before, now in differences(_held(old), _held(new)):
        what = "was made with other threads" if place.endswith(".threads") else "belongs to another space"
        change = f"its {place} is {told(before)}, and {told(now)} here"
        raise RunError(f"{what}: {change}; give another --out", file=folder)
    return replace(experiment, objectives=began.objectives)  # in the order that the study has them


def check_machine(folder: Path) -> list[str]:
    """What may move a run's numbers since it began, as `check_conditions` tells it. Raises RunError as that does."""
    run = read_run(folder)
    provider = section(section(run, "space"), "latency").get("provider")
    return check_conditions(run, folder, on_gpu=uses_gpu(provider, section(run, "data").get("device")))


@contextlib.contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """As `locked_folder`, of a search."""
    with locked_folder(folder, appended=(TRIALS_FILE, REFERENCES_FILE, TIMINGS_FILE), written=OUTPUTS, what="search"):
        yield


def write_run(
    folder: Path,
    experiment: Experiment,
    space_file: str,
    data: Mapping[str, Any],
    *,
    from_data: Sequence[str] = (),
    calibration: str | None = None,
) -> None:
    """Records how a run was made. Raises InputError where it cannot be written.

    `from_data` is what of the space is its data's, `calibration` the digest of the file that predicts latencies.
    """
    run = {
        "modscale": __version__,
        "space_file": space_file,
        "data": dict(data),
        "seed": experiment.search.seed,
        "trials": experiment.search.trials,
        "from_data": list(from_data),
        "space": experiment_to_dict(experiment),
        **({} if calibration is None else {"calibration_sha256": calibration}),
        **made_here(),
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
    changed += [place for place, _, _ in differences(old, new) if not place.startswith("bands.")]
    data = dict(section(run, "data"))
    if notes is not None and data.get("notes") != list(notes):
        data["notes"] = list(notes)
        changed.append("notes")
    if changed:
        run |= {"trials": experiment.search.trials, "space": new, "data": data}
        write_whole(folder / RUN_FILE, dump_yaml(run))
    return changed


def storage_study(folder: Path, storage: str) -> str:
    """The name of a run's study in a storage, which `run.yaml` keeps, with the storage as `storage` shows it.

    Raises:
        RunError: `run.yaml` cannot be read.
        InputError: it cannot be written.
    """
    run = read_run(folder)
    before = section(run, "storage")
    study = before.get("study")
    if not isinstance(study, str) or not 0 < len(study) <= MOST_STUDY_CHARS:
        study = f"{folder.resolve().name[:100]}-{secrets.token_hex(4)}"
    now = {"url": storage, "study": study}
    if before != now:
        write_whole(folder / RUN_FILE, dump_yaml(run | {"storage": now}))
    return study


@contextlib.contextmanager
def naming_trial(file: Path, trial: Trial) -> Iterator[None]:
    """Makes an InputError in here a RunError that names the file and the trial."""
    try:
        yield
    except InputError as error:
        place = f"trial {trial.number}, {error.place}" if error.place else f"trial {trial.number}"
        raise RunError(error.rule, file=file, place=place, value=error.value) from error


def check_trial_choice(trial: Trial, space: Space) -> None:
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
        for place, there, here in differences(spec_to_dict(expected), document, "spec"):
            raise InputError(f"must be {told(there)}, as its choice and the space have it", place=place, value=here)
    if not space.constraints.allow(trial.spec, trial["params"], trial["flops"]):
        raise InputError("breaks a constraint of the space", place="spec", value=architecture_text(trial.spec))


def _held(document: dict[str, Any]) -> dict[str, Any]:
    """Of an experiment, what a run is held to: all but what only names, chooses, or says how long."""
    search = {key: value for key, value in document["search"].items() if key not in ("trials", "finals")}
    search["window"] = search["window"] or 1  # older runs have none
    search["references"] = [  # what is stated of one is measured by nobody here, and may be put right
        {key: value for key, value in one.items() if key != "accuracy"} if isinstance(one, dict) else one
        for one in search["references"]
    ]
    unheld = ("calibration", "warmup")  # the one by its content, the other moves no figure
    latency = {key: value for key, value in document["latency"].items() if key not in unheld}
    return {key: value for key, value in document.items() if key not in ("name", "bands")} | {
        "search": search,
        "latency": latency,
    }


def _recorded_sizes(run: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Classes and channels of a run's data; where they are not on record, those that its networks were counted with."""
    data = section(run, "data") if "from_data" in run else {}
    return {word: data.get(word, getattr(experiment.space.base, key)) for key, word in DATA_KEYS.items()}
