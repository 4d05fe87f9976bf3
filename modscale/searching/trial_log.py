"""The figures of each finished trial in TensorBoard or MLflow, beside `trials.jsonl`: `search --log NAME`.

Like the study's copies it is behind the search: what goes wrong with it is told once, and costs no trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modscale.errors import one_line
from modscale.runs.trials import Trial
from modscale.training.loggers import open_log


class TrialLog:
    """Takes the finished trials and logs those that are new to it."""

    def __init__(self, kind: str, folder: Path, tell: Callable[[str], None]) -> None:
        """Raises InputError where the library that `kind` names is not installed."""
        self.log = open_log(kind, folder, step="trial", anew=True, place="--log")
        self.kind, self.tell = kind, tell
        self.done = 0
        self.is_out = False

    def update(self, trials: Sequence[Trial]) -> None:
        """Logs the trials behind those that it has; after a failure nothing more."""
        if self.is_out:
            return
        try:
            for trial in trials[self.done :]:
                self.log(trial_row(trial))
                self.done += 1
        except Exception as error:  # noqa: BLE001  # whatever a library raises, the search goes on
            self.is_out = True
            why = f"{type(error).__name__}: {one_line(str(error))}"
            self.tell(f"note: {self.kind} is given no more trials ({why}); trials.jsonl has them")


def trial_row(trial: Trial) -> dict[str, Any]:
    """What is logged of a trial: its number, its figures, and the seconds that it took."""
    figures = {key: value for key, value in trial.results.items() if not isinstance(value, bool)}
    return {"trial": trial.number, **figures, "seconds": trial.seconds, "complete": float(trial.state == "complete")}
