"""A whole search, from a space to a report.

This is where the parts meet: the run's folder, the study, the evaluator, the loop, the terminal and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modscale.analysis.front import split_front
from modscale.analysis.results import Run
from modscale.analysis.time_left import Ahead
from modscale.api.comparisons import check_references, reference_network
from modscale.api.final_timing import final_candidates, time_front_again
from modscale.api.finished import report_run
from modscale.api.mirrors import check_storage, mirrored
from modscale.api.warm_start import load_earlier_runs, plan_start
from modscale.api.watching import Silence, Watcher
from modscale.api.workers import Workers, cores_each, make_engine, resolve
from modscale.errors import AllTrialsFailed, RunError, naming_file
from modscale.files import file_digest, path_text
from modscale.interrupts import check_stop, forget_stop, hearing_stops
from modscale.latency.calibration import load_predictor
from modscale.latency.predictor import Predictor
from modscale.rivals import Rival
from modscale.runs.conditions import check_same_data
from modscale.runs.earlier import check_from, read_begun, read_earlier, write_earlier
from modscale.runs.experiment import Experiment, mismatch_note
from modscale.runs.folder import (
    REFERENCES_FILE,
    RUN_FILE,
    TIMINGS_FILE,
    TRIALS_FILE,
    check_folder,
    check_machine,
    locked_run,
    read_run,
    read_run_experiment,
    read_run_trials,
    section,
    update_run,
    write_run,
)
from modscale.runs.machine_speed import reference_levels, trials_at
from modscale.runs.references import read_references
from modscale.runs.trials import Trial, complete_trials, read_trials
from modscale.searching.engine import Engine
from modscale.searching.exports import Exports
from modscale.searching.loop import Evaluate, MeasureRival, Observer, Outcome, require_complete, run_search
from modscale.searching.measures import MEASURES, Evaluator
from modscale.searching.prediction import with_prediction
from modscale.searching.rivals import check_unchanged, measure_rival
from modscale.searching.rungs import make_judge
from modscale.searching.screen import comparing, limiting, make_screen
from modscale.searching.study import SearchStudy
from modscale.searching.worker import summary_to_dict
from modscale.settings import check_kernels
from modscale.spaces.feasibility import require_feasible, require_possible
from modscale.spaces.tables import build_tables
from modscale.specs.spec import ModelSpec
from modscale.training.loggers import check_log

if TYPE_CHECKING:  # SQLAlchemy takes a while to import, and is there for whoever asks for a storage
    from modscale.searching.storage import Storage


def search_space(
    experiment: Experiment,
    *,
    space_file: str,
    source: str,
    folder: Path,
    watcher: Watcher | None = None,
    storage: str | None = None,
    workers: Workers = 1,
    log: str = "none",
    start_from: Sequence[Path] = (),
    debug: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """Runs or resumes the search of `experiment` in `folder`, then writes its report; returns what `report_run` does.

    `storage` is the URL of an Optuna storage, in which a copy of the study is kept, `log` one of
    `training.settings.LOGS`. So many `workers` evaluate candidates side by side, or those of a Ray cluster, see
    `workers.py`.
    `start_from` are the folders of runs from which it starts (`warm_start.py`).

    Raises:
        InputError: the space has nothing feasible, the data, the provider or the folder cannot be used.
        AllTrialsFailed: trials were finished and none is complete; the report says why.
        KeyboardInterrupt: after the report of what stands was written.
    """
    watcher = watcher or Silence()
    there = check_storage(storage, folder)
    check_log(log, "--log")
    experiment, resumed = join_run(experiment, folder, workers, space_file)
    with locked_run(folder):
        done = len(read_run_trials(folder, experiment.space)) if resumed else 0
        limit = experiment.search.trials
        if resumed:
            check_from(folder, start_from, done=done)
            watcher.say(f"resuming {folder}: {done} of {limit} trials finished")
        elif isinstance(workers, str):
            watcher.say(f"W is {experiment.search.window}: so many candidates are under way at most (--window)")
        with hearing_stops():
            stop: BaseException | None = None
            try:
                _search(
                    experiment, space_file, source, folder, watcher,
                    storage=there, workers=workers, log=log, start_from=start_from,
                    resumed=resumed, done=done, debug=debug,
                )  # fmt: skip
                check_stop()
            except (KeyboardInterrupt, AllTrialsFailed) as error:
                stop = error
                forget_stop()
            if not (folder / RUN_FILE).exists():
                if isinstance(stop, KeyboardInterrupt):
                    watcher.say("stopped before anything was measured; the same command begins again")
                raise stop or RunError("nothing was measured", file=folder)
            reported = _reported(folder, limit, stop, watcher)
            if stop is not None:
                raise stop
    return reported


def join_run(experiment: Experiment, folder: Path, workers: Workers, space_file: str) -> tuple[Experiment, bool]:
    """The experiment as it is begun, or gone on with, in `folder`, which is left as it is; and whether it is gone on.

    Raises:
        InputError: the space has nothing feasible, its proxy needs what is not installed, or the folder holds something
            else.
    """
    earlier = read_run_experiment(folder) if (folder / RUN_FILE).is_file() else None
    experiment = resolve(experiment, earlier, workers)
    begun = check_folder(folder, experiment)
    experiment = begun or experiment
    with naming_file(space_file):
        check_kernels(experiment.proxy)
        require_possible(experiment.space)
    return experiment, begun is not None


def _reported(folder: Path, limit: int, stop: BaseException | None, watcher: Watcher) -> tuple[Run, dict[str, Any]]:
    """Writes the report, also of a search that was stopped; a second stop ends that too."""
    goes_on = "the same command goes on from here"
    try:
        run, summary = report_run(folder)
        check_stop()
    except KeyboardInterrupt:
        finished = len(read_trials(folder / TRIALS_FILE))
        watcher.say(f"stopped: {finished} of {limit} trials finished, the report not written; {goes_on}")
        raise
    if isinstance(stop, KeyboardInterrupt):
        watcher.say(f"stopped: {summary['trials']} of {limit} trials finished, reported in {folder}; {goes_on}")
    return run, summary


def _search(
    experiment: Experiment,
    space_file: str,
    source: str,
    folder: Path,
    watcher: Watcher,
    *,
    storage: Storage | None,
    workers: Workers,
    log: str,
    start_from: Sequence[Path],
    resumed: bool,
    done: int,
    debug: bool,
) -> None:
    say = watcher.say
    others = load_earlier_runs(start_from, folder) if start_from and read_begun(folder) is None else []
    predictor = load_run_predictor(experiment, folder)
    compared, home = read_references(folder / REFERENCES_FILE), Path(space_file).parent
    finished = len(compared.numbers)
    is_over = resumed and done >= experiment.search.trials and finished >= len(experiment.search.references)
    check_unchanged(compared.rivals, home, folder)
    is_over = is_over and not final_candidates(folder, experiment)
    if is_over and section(read_run(folder), "data").get("source") == path_text(source):
        _record_changes(folder, experiment, watcher)
        trials = read_trials(folder / TRIALS_FILE)
        with mirrored(folder, experiment, storage, log, say) as mirror:
            mirror(trials)
        require_complete(trials)
        return
    if resumed and not is_over:
        for change in check_machine(folder):
            say(f"note: {change} since this run began; what is measured now may differ for it")
    check_references(experiment, compared.numbers, space_file)
    with (
        Exports() as exports,
        Evaluator(
            experiment, source, measures=with_prediction(MEASURES, predictor),
            workers=workers if isinstance(workers, int) else 1, cores=cores_each(workers),
            checks_devices=isinstance(workers, int), debug=debug, note=say, timings=folder / TIMINGS_FILE,
            exports=exports,
        ) as evaluator,
    ):  # fmt: skip
        data = summary_to_dict(evaluator.summary) | {"source": path_text(source)}
        if resumed:
            check_same_data(section(read_run(folder), "data"), data, folder / RUN_FILE)
        left, experiment = experiment.space.from_data, experiment.fitted(data)
        if left:
            with naming_file(space_file):
                require_feasible(experiment.space)
        data["notes"] += [note for note in (mismatch_note(experiment.space.base, data),) if note]
        for note in data["notes"]:
            say(f"note: {note}")
        if resumed:
            _record_changes(folder, experiment, watcher, data["notes"])
        else:
            calibration = experiment.latency.calibration
            write_run(
                folder, experiment, path_text(space_file), data, from_data=left,
                calibration=None if calibration is None else file_digest(calibration),
            )  # fmt: skip
        if others:
            write_earlier(folder, *plan_start(others, experiment, data))
        for origin in read_begun(folder) or ():
            say(origin.sentence())
        references = [reference_network(one, home, experiment.space) for one in experiment.search.references]
        study = open_study(folder, experiment, predictor)
        done, limit = done + finished, experiment.search.trials
        pace_s = _pace(read_trials(folder / TRIALS_FILE), workers)
        with (
            make_engine(evaluator, workers, experiment.search.window or 1) as engine,
            mirrored(folder, experiment, storage, log, say) as mirror,
        ):
            ahead = Ahead(
                experiment=experiment,
                trials=read_trials(folder / TRIALS_FILE),
                references=[one for i, one in enumerate(references) if i not in compared.numbers],
            )
            with watcher.searching(
                done=done, limit=limit, references=len(references), pace_s=pace_s, ahead=ahead
            ) as progress:
                outcome = measure_all(
                    folder,
                    experiment,
                    study,
                    evaluator.steps,
                    engine,
                    progress,
                    references=references,
                    measure_rival=partial(measure_rival, folder=home, resolution=experiment.space.base.resolution),
                    mirror=mirror,
                    exports=exports,
                    say=say,
                )
    if outcome.exhausted:
        known = sum(one.use == "known" for one in read_earlier(folder, experiment.space))
        beside = f" beside the {known} that were known" if known else ""
        say(f"the space is exhausted: all of its {len(outcome.trials)} feasible networks{beside} were tried")


def open_study(folder: Path, experiment: Experiment, predictor: Predictor | None) -> SearchStudy:
    """The study of a run in `folder`, with what that was begun with of earlier ones, and none of its own trials."""
    start = read_earlier(folder, experiment.space)
    return SearchStudy(
        experiment,
        build_tables(experiment.space),
        seed=experiment.search.seed,
        allows=make_screen(predictor, experiment.limits),
        known=[one.trial for one in start if one.use == "known"],
        first=[one.trial for one in start if one.use == "first"],
    )


def measure_all(
    folder: Path,
    experiment: Experiment,
    study: SearchStudy,
    evaluate: Evaluate,
    engine: Engine,
    observer: Observer,
    *,
    references: Sequence[ModelSpec | Rival],
    measure_rival: MeasureRival,
    mirror: Callable[[Sequence[Trial]], None] = lambda trials: None,
    exports: Exports,
    say: Callable[[str], None],
) -> Outcome:
    """What a run lacks of its trials and references, and at the end its front once more. Raises as `run_search`.

    `exports` are kept for that end.
    """
    if experiment.search.finals:
        exports.leave_out(one for one in references if isinstance(one, ModelSpec))
    else:
        exports.most = 0

    def show(trials: Sequence[Trial]) -> None:
        mirror(trials)
        exports.drop(_off_the_front(trials, experiment))

    outcome = run_search(
        study,
        evaluate,
        observer,
        engine=engine,
        window=experiment.search.window or 1,
        limit=experiment.search.trials,
        trials_file=folder / TRIALS_FILE,
        references=references,
        references_file=folder / REFERENCES_FILE,
        measure_rival=measure_rival,
        judge=comparing(limiting(experiment.limits, make_judge(experiment.objectives, experiment.search))),
        mirror=show,
    )
    time_front_again(folder, experiment, engine, exports, observer, say)
    return outcome


def _off_the_front(trials: Sequence[Trial], experiment: Experiment) -> list[ModelSpec]:
    """The networks of finished trials that are not on the front of these."""
    compared = trials_at(trials, reference_levels([trial.results for trial in trials]))
    members, _ = split_front(complete_trials(compared), experiment.objectives)
    on_front = {trial.number for trial in members}
    return [trial.spec for trial in trials if trial.number not in on_front]


def _pace(finished: Sequence[Trial], workers: Workers) -> float | None:
    """Seconds from one finished trial to the next, as far as what each took tells it; None before the first."""
    if not finished or isinstance(workers, str):
        return None
    return sum(trial.seconds for trial in finished) / len(finished) / workers


def load_run_predictor(experiment: Experiment, folder: Path) -> Predictor | None:
    """What predicts latencies in a search, where it has a calibration.

    Raises:
        InputError: the calibration is none for its conditions, or a run goes on with another one than it began with.
    """
    file = experiment.latency.calibration
    begun = folder / RUN_FILE
    if begun.exists():
        before = read_run(folder).get("calibration_sha256")
        now = None if file is None else file_digest(file)
        if before != now:
            what = "no calibration" if before is None else "another calibration" if now else "a calibration"
            give = "another --out" if before is None else "that by --calibration, or another --out"
            raise RunError(f"was begun with {what}; give {give}", file=folder)
    if file is None:
        return None
    predictor, _ = load_predictor(file, experiment.latency)
    return predictor


def _record_changes(folder: Path, experiment: Experiment, watcher: Watcher, notes: Sequence[str] | None = None) -> None:
    """Records what is new in the experiment of a run that goes on, and says what of it a report shows anew."""
    shown = [place for place in update_run(folder, experiment, notes) if place in ("bands", "name")]
    if shown:
        watcher.say(f"new {' and '.join(shown)}: nothing is measured again for them, the report is made anew")
