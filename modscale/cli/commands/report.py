"""`modscale report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import DebugOption, JsonOption
from modscale.files import user_path


def report(
    runs: Annotated[
        list[Path],
        argument("RUN...", "A run's folder, or a training's; several runs are laid over each other.", parser=user_path),
    ],
    out: Annotated[
        Path | None,
        option("Where several runs are compared [default: reports/A+B].", metavar="PATH", parser=user_path),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rebuild the report of a run, a training, or several runs."""
    from modscale.api.finished import report_run, report_runs
    from modscale.kinds import is_training, naming_kind

    if len(runs) > 1:
        compared = report_runs(runs, out)

        def show_compared() -> None:
            from modscale.cli.tables import show_overlay

            show_overlay(compared)

        answer(compared, as_json, show_compared)
        return
    (run,) = runs
    if out is not None:
        from modscale.errors import InputError

        raise InputError("is for several runs; the report of one lies in its folder", place="--out", value=str(out))
    if is_training(run):
        from modscale.api.train_report import report_training

        trained = report_training(run)

        def show_trained() -> None:
            from modscale.cli.tables import show_training_report

            show_training_report(trained)

        answer(trained, as_json, show_trained)
        return
    with naming_kind(run, "run"):
        reported, summary = report_run(run)

    def show() -> None:
        from modscale.cli.tables import show_next, show_report
        from modscale.runs.folder import data_source

        show_report(summary, reported.trials)
        show_next(summary, data_source(reported.document))

    answer(summary, as_json, show)
