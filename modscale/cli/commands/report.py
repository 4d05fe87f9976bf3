"""`modscale report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument
from modscale.cli.arguments import DebugOption, JsonOption
from modscale.files import user_path


def report(
    run: Annotated[Path, argument("RUN", "A run's folder, or a training's.", parser=user_path)],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rebuild the report of a run, or of a training, from its files."""
    from modscale.api.session import report_run
    from modscale.kinds import is_training, naming_kind

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

        show_report(summary, reported.trials)
        show_next(summary, searched=False)

    answer(summary, as_json, show)
