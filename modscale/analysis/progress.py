"""How far a run is, from its files alone: what is finished, its front so far, its pace. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.analysis.comparison import Compared, compare_references
from modscale.analysis.front import pick_band, split_front
from modscale.analysis.results import load_run
from modscale.errors import naming_file
from modscale.runs.experiment import Experiment
from modscale.runs.folder import RUN_FILE, TRIALS_FILE
from modscale.runs.locking import is_locked
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial, complete_trials

PACE = 8
"""Finished networks, the last ones, by which the pace is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """A run as its files have it now."""

    folder: Path
    is_running: bool | None
    """Whether a search is at work in the folder; None where that cannot be told."""
    experiment: Experiment
    trials: tuple[Trial, ...]
    """In the order in which they were finished."""
    front: tuple[Trial, ...]
    """Of the complete ones, fastest first along the first objective."""
    compared: tuple[Compared, ...]
    """References that are measured."""
    picks: Mapping[str, int]
    """Band to the trial that it would pick now; bands that nothing fits are left out."""
    references: int
    """References that are finished."""
    seconds: tuple[float, ...]
    """Of each finished network, references included, in the order of the files."""

    @property
    def limit(self) -> int:
        """Trials that the run was asked for."""
        return self.experiment.search.trials

    @property
    def is_over(self) -> bool:
        """Whether all is measured that was asked for."""
        return len(self.trials) >= self.limit and self.references >= len(self.experiment.search.references)

    @property
    def pace_s(self) -> float | None:
        """Seconds a network, by the last few trials; None before the first."""
        last = [trial.seconds for trial in self.trials if trial.seconds > 0][-PACE:]
        return sum(last) / len(last) if last else None

    @property
    def to_do(self) -> int:
        """Networks that are still to be measured, references included."""
        references = len(self.experiment.search.references) - self.references
        return max(self.limit - len(self.trials), 0) + max(references, 0)

    @property
    def left_s(self) -> float | None:
        """Seconds until all is measured, at that pace; None where it is not known, or networks go side by side."""
        if self.pace_s is None or (self.experiment.search.window or 1) > 1:
            return None
        return self.pace_s * self.to_do


def read_progress(folder: Path) -> RunProgress | None:
    """A run's progress; None where a search has begun there and measured nothing yet.

    Raises:
        RunError: the folder is no run, or one of its files is broken.
        InputError: a complete trial lacks an objective.
    """
    is_running = is_locked(folder)  # before the files are read: what ends after this is seen the next time
    if is_running and not (folder / RUN_FILE).exists():
        return None
    run = load_run(folder)
    experiment, trials = run.experiment, run.trials
    objectives, stated = experiment.objectives, experiment.search.references
    with naming_file(folder / TRIALS_FILE):
        front, _ = split_front(complete_trials(trials), objectives)
    picks = {band: pick_band(limits, front, (), objectives).trial for band, limits in experiment.bands.items()}
    measured: list[Trial | MeasuredRival] = [*run.references, *run.rivals]
    return RunProgress(
        folder=folder,
        is_running=is_running,
        experiment=experiment,
        trials=trials,
        front=front,
        compared=tuple(compare_references(front, run.references, run.rivals, objectives, stated)),
        picks={band: trial.number for band, trial in picks.items() if trial is not None},
        references=len({one.number for one in measured}),
        seconds=tuple(one.seconds for one in (*trials, *measured)),
    )


def progress_to_json(progress: RunProgress) -> dict[str, Any]:
    """What `modscale watch --json` answers."""
    states = [trial.state for trial in progress.trials]
    return {
        "run": str(progress.folder),
        "running": progress.is_running,
        "over": progress.is_over,
        "trials": len(states),
        "limit": progress.limit,
        **{state: states.count(state) for state in ("complete", "failed", "stopped")},
        "references": progress.references,
        "seconds_per_trial": progress.pace_s,
        "seconds_left": progress.left_s,
        "measured_seconds": sum(progress.seconds),
        "front": [trial.number for trial in progress.front],
        "bands": {band: progress.picks.get(band) for band in progress.experiment.bands},
    }
