"""A whole search, from a space to a report, and the way back from a run to one of its networks.

This is where the parts meet: the run's folder, the study, the evaluator, the loop, the terminal and the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modscale.console import SearchProgress, say
from modscale.errors import AllTrialsFailed, InputError, RunError, naming_file, shorten
from modscale.experiment import Experiment
from modscale.feasibility import require_feasible
from modscale.files import path_text, read_plain
from modscale.interrupts import check_stop, forget_stop, hearing_stops
from modscale.kinds import is_network_folder, naming_kind, weights_in
from modscale.machine import available_cores
from modscale.measures import Evaluator
from modscale.mirror import StudyMirror
from modscale.report import build_report
from modscale.runs import (
    REFERENCES_FILE,
    RUN_FILE,
    STUDY_FILE,
    TRIALS_FILE,
    check_folder,
    check_machine,
    locked_run,
    read_run,
    read_run_trials,
    section,
    update_run,
    write_run,
)
from modscale.search import require_complete, run_search
from modscale.space import SearchSpace, mismatch_note
from modscale.spec import ModelSpec
from modscale.study import SearchStudy
from modscale.tables import build_tables
from modscale.trials import Trial, read_trials
from modscale.variants import is_published, published, resolve_model
from modscale.worker import summary_to_dict


def search_space(
    experiment: Experiment, *, space_file: str, source: str, folder: Path, debug: bool = False
) -> dict[str, Any]:
    """Runs or resumes the search of `experiment` in `folder`, then writes its report; returns a summary.

    Raises:
        InputError: the space has nothing feasible, the data, the provider or the folder cannot be used.
        AllTrialsFailed: trials were finished and none is complete; the report says why.
        KeyboardInterrupt: after the report of what stands was written.
    """
    experiment = _resolve(experiment)
    begun = check_folder(folder, experiment)
    resumed, experiment = begun is not None, begun or experiment
    if not experiment.space.from_data:
        with naming_file(space_file):
            require_feasible(experiment.space)
    with locked_run(folder):
        done = len(read_run_trials(folder, experiment.space)) if resumed else 0
        limit = experiment.search.trials
        if resumed:
            say(f"resuming {folder}: {done} of {limit} trials finished")
        with hearing_stops():
            stop: BaseException | None = None
            try:
                _search(experiment, space_file, source, folder, resumed=resumed, done=done, debug=debug)
                check_stop()
            except (KeyboardInterrupt, AllTrialsFailed) as error:
                stop = error
                forget_stop()
            if not (folder / RUN_FILE).exists():
                if isinstance(stop, KeyboardInterrupt):
                    say("stopped before anything was measured; the same command begins again")
                raise stop or RunError("nothing was measured", file=folder)
            summary = _reported(folder, limit, stop)
            if stop is not None:
                raise stop
    return summary


def report_run(folder: Path) -> dict[str, Any]:
    """Rebuilds the report of a run from its files; returns what stands in `front.json`, and where the files are.

    Raises:
        RunError: the folder is no run, is broken or cannot be written to.
    """
    files = build_report(folder)
    trials = run_trials(folder)
    return {
        "run": str(folder),
        "trials": len(trials),
        "complete": sum(trial.state == "complete" for trial in trials),
        "files": {key: str(path) for key, path in files.items()},
        **json.loads(files["front"].read_text(encoding="utf-8")),
    }


def run_trials(folder: Path) -> list[Trial]:
    """The finished trials of a run. Raises RunError."""
    return read_trials(folder / TRIALS_FILE)


def choose_spec(model: str, *, pick: str | None = None, trial: int | None = None) -> ModelSpec:
    """The network that `export` is asked for: a model, or a run's pick or trial.

    Raises:
        InputError: no such model, band or trial; or a run without saying which of its networks.
    """
    folder = Path(model)
    chooses = pick is not None or trial is not None
    if not folder.is_dir() or (is_published(model) and not chooses):
        if chooses:
            raise InputError("--pick and --trial choose from a run's folder; this is none", value=model)
        return resolve_model(model)
    if not chooses and is_network_folder(folder):
        return resolve_model(model)
    with naming_kind(folder, "run"):
        read_run(folder)
    if (pick is None) == (trial is None):
        raise InputError("say which network of the run: --pick BAND or --trial N", file=folder)
    trials = {finished.number: finished for finished in read_trials(folder / TRIALS_FILE)}
    if pick is not None:
        trial = _picked(folder, pick)
    if trial not in trials:
        raise InputError(f"has no finished trial of this number; it has {len(trials)}", file=folder, value=trial)
    return trials[trial].spec


def choose_weights(model: str, weights: Path | None, *, chooses: bool) -> Path | None:
    """The checkpoint that `export` is to load: the one that is given, else the one in the folder that MODEL is.

    A folder of one network may be given in place of a checkpoint, too. None: the weights start fresh.
    """
    if weights is not None:
        return weights_in(weights) or weights if is_network_folder(weights) else weights
    if chooses or is_published(model) or not is_network_folder(model):
        return None
    return weights_in(model)


def _reported(folder: Path, limit: int, stop: BaseException | None) -> dict[str, Any]:
    """Writes the report, also of a search that was stopped; a second stop ends that too."""
    goes_on = "the same command goes on from here"
    try:
        summary = report_run(folder)
        check_stop()
    except KeyboardInterrupt:
        finished = len(run_trials(folder))
        say(f"stopped: {finished} of {limit} trials finished, the report not written; {goes_on}")
        raise
    if isinstance(stop, KeyboardInterrupt):
        say(f"stopped: {summary['trials']} of {limit} trials finished, reported in {folder}; {goes_on}")
    return summary


def _search(
    experiment: Experiment, space_file: str, source: str, folder: Path, *, resumed: bool, done: int, debug: bool
) -> None:
    finished = len(read_trials(folder / REFERENCES_FILE))
    is_over = resumed and done >= experiment.search.trials and finished >= len(experiment.search.references)
    if is_over and section(read_run(folder), "data").get("source") == path_text(source):
        _record_changes(folder, experiment)
        trials = read_trials(folder / TRIALS_FILE)
        StudyMirror(folder / STUDY_FILE, experiment, say).update(trials)
        require_complete(trials)
        return
    if resumed and not is_over:
        for change in check_machine(folder):
            say(f"note: {change} since this run began; what is measured now may differ for it")
    say(f"loading the data ({source})")
    with Evaluator(experiment, source, debug=debug, note=say) as evaluator:
        data = summary_to_dict(evaluator.summary) | {"source": path_text(source)}
        if resumed:
            _check_same_data(folder, data)
        left, experiment = experiment.space.from_data, experiment.fitted(data)
        if left:
            with naming_file(space_file):
                require_feasible(experiment.space)
        data["notes"] += [note for note in (mismatch_note(experiment.space.base, data),) if note]
        for note in data["notes"]:
            say(f"note: {note}")
        if resumed:
            _record_changes(folder, experiment, data["notes"])
        else:
            write_run(folder, experiment, path_text(space_file), data, from_data=left)
        references = [published_reference(name, experiment.space) for name in experiment.search.references]
        study = SearchStudy(experiment, build_tables(experiment.space), seed=experiment.search.seed)
        progress = SearchProgress(done=done + finished, limit=experiment.search.trials, references=len(references))
        with progress.shown():
            outcome = run_search(
                study,
                evaluator,
                progress,
                limit=experiment.search.trials,
                trials_file=folder / TRIALS_FILE,
                references=references,
                references_file=folder / REFERENCES_FILE,
                mirror=StudyMirror(folder / STUDY_FILE, experiment, say).update,
            )
    if outcome.exhausted:
        say(f"the space is exhausted: all of its {len(outcome.trials)} feasible networks were tried")


def _record_changes(folder: Path, experiment: Experiment, notes: Sequence[str] | None = None) -> None:
    """Records what is new in the experiment of a run that goes on, and says what of it a report shows anew."""
    shown = [place for place in update_run(folder, experiment, notes) if place in ("bands", "name")]
    if shown:
        say(f"new {' and '.join(shown)}: nothing is measured again for them, the report is made anew")


def published_reference(name: str, space: SearchSpace) -> ModelSpec:
    """A published network as the space would make it: input, classes and drop path are those of its candidates."""
    base = space.base
    return replace(
        published(name),
        resolution=base.resolution,
        in_chans=base.in_chans,
        num_classes=base.num_classes,
        drop_path_rate=base.drop_path_rate,
    )


def _resolve(experiment: Experiment) -> Experiment:
    """The experiment with every setting that depends on the machine filled in, as `run.yaml` records it."""
    return replace(
        experiment,
        latency=replace(experiment.latency, threads=experiment.latency.resolved_threads()),
        proxy=replace(experiment.proxy, threads=experiment.proxy.threads or available_cores()),
    )


def _check_same_data(folder: Path, data: dict[str, Any]) -> None:
    old = section(read_run(folder), "data")
    for key, what in (("fingerprint", "belongs to other data"), ("device", "was trained on another device")):
        if old.get(key) != data[key]:
            rule = f"{what}: its {key} is {shorten(old.get(key))}, and {shorten(data[key])} here; give another --out"
            raise RunError(rule, file=folder / RUN_FILE, place=f"data.{key}")


def _picked(folder: Path, band: str) -> int:
    file = folder / "front.json"
    try:
        bands = json.loads(read_plain(file))["bands"]
        numbers = {str(name): None if number is None else int(number) for name, number in bands.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError("cannot be read; `modscale report` rebuilds it", file=file) from error
    if band not in numbers:
        raise InputError(
            f"must be one of the run's bands: {', '.join(numbers) or 'it has none'}", place="--pick", value=band
        )
    chosen = numbers[band]
    if chosen is None:
        raise InputError("no trial of the run fits this band; report.md says why", place="--pick", value=band)
    return chosen
