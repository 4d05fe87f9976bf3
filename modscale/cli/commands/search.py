"""`modscale search`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import DebugOption, JsonOption, SpaceArgument, read_experiment
from modscale.errors import UsageError
from modscale.files import path_text, user_path, user_text


def search(
    space_file: SpaceArgument,
    more: Annotated[list[Path] | None, argument("[RUN]...", "More of --from.", parser=user_path)] = None,
    data: Annotated[
        str,
        option(
            "`synthetic`, a folder of train/CLASS/* and val/CLASS/*, or of CLASS/* (of masks: ADE20K's), or a .npz.",
            metavar="DATA",
            parser=user_text,
        ),
    ] = "synthetic",
    trials: Annotated[
        int | None, option("Finished trials, failed ones included [default: the space's].", low=1)
    ] = None,
    seed: Annotated[
        int | None, option("Seed of the whole search [default: the space's].", low=0, high=2**32 - 1)
    ] = None,
    out: Annotated[
        Path | None, option("The run's folder [default: reports/NAME].", metavar="PATH", parser=user_path)
    ] = None,
    calibration: Annotated[
        Path | None,
        option("Screen candidates by a file of `modscale calibrate`.", metavar="FILE", parser=user_path),
    ] = None,
    storage: Annotated[
        str | None,
        option("Keep a copy of the study in this Optuna storage, for a dashboard.", metavar="URL"),
    ] = None,
    log: Annotated[
        str, option("Send each trial's figures to tensorboard or mlflow, if installed.", metavar="NAME")
    ] = "none",
    earlier: Annotated[
        list[Path] | None,
        option("Start from what earlier runs found. Several may follow.", "--from", metavar="RUN...", parser=user_path),
    ] = None,
    dry_run: Annotated[
        bool, option("Tell what the search would take here and could tell apart; begins nothing.", "--dry-run")
    ] = False,
    workers: Annotated[
        str,
        option("How many candidates at a time, or a Ray cluster: ray, ray://HOST.", metavar="N"),
    ] = "1",
    window: Annotated[
        int | None, option("W: trial n is drawn knowing trials 0 to n-W [default: from the workers].", low=1)
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Search a space: count, time and train candidates, then report. The same command again resumes."""
    from modscale.api.session import search_space
    from modscale.api.workers import parse_workers
    from modscale.cli.progress import Terminal
    from modscale.document import check_choice
    from modscale.training.settings import LOGS

    if more and not earlier:
        raise UsageError(f"takes one SPACE; runs to start from follow --from, got {more[0]}", command="modscale search")
    chosen = parse_workers(workers)
    experiment = read_experiment(space_file)
    settings = replace(
        experiment.search,
        trials=experiment.search.trials if trials is None else trials,
        seed=experiment.search.seed if seed is None else seed,
        window=experiment.search.window if window is None else window,
    )
    latency = experiment.latency
    if calibration is not None:
        latency = replace(latency, calibration=path_text(calibration))
    experiment = replace(experiment, search=settings, latency=latency)
    folder = Path("reports") / experiment.space.name if out is None else out
    if dry_run:
        from modscale.api.plan import plan_search, plan_to_json
        from modscale.cli.plan_table import show_plan

        fitted, plan = plan_search(
            experiment,
            space_file=space_file,
            source=data,
            folder=folder,
            workers=chosen,
            watcher=Terminal(),
            debug=debug,
        )
        if isinstance(chosen, str):
            from modscale.cli.console import say

            say("note: this is planned for one worker of this machine, not for a Ray cluster")
        answer(plan_to_json(fitted, plan), as_json, lambda: show_plan(fitted, plan, experiment.space.name))
        return
    run, summary = search_space(
        experiment,
        space_file=space_file,
        source=data,
        folder=folder,
        watcher=Terminal(),
        storage=storage,
        workers=chosen,
        log=check_choice(log, "--log", LOGS),
        start_from=[*(earlier or ()), *(more or ())],
        debug=debug,
    )

    def show() -> None:
        from modscale.cli.tables import show_next, show_report
        from modscale.runs.folder import data_source

        show_report(summary, run.trials)
        show_next(summary, data_source(run.document))

    answer(summary, as_json, show)
