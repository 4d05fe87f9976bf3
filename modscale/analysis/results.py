"""A run and what it found: its folder read once, with the front and the picks worked out from it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from modscale.analysis.comparison import Compared, compare_references
from modscale.analysis.front import Front, find_front
from modscale.analysis.growth import Growth, find_growth
from modscale.errors import InputError, RunError
from modscale.files import user_path
from modscale.runs.earlier import EarlierTrial, Origin, read_begun, read_earlier
from modscale.runs.experiment import Experiment
from modscale.runs.finals import read_finals, with_finals
from modscale.runs.folder import REFERENCES_FILE, TRIALS_FILE, read_run, read_run_trials, run_experiment
from modscale.runs.machine_speed import at_levels, reference_levels, trials_at
from modscale.runs.metrics import Metric, metrics_among
from modscale.runs.references import MeasuredRival, read_references
from modscale.runs.trials import Trial, complete_trials


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder holds, and what follows from it."""

    folder: Path
    document: Mapping[str, Any]
    """`run.yaml` as it stands."""
    experiment: Experiment
    trials: tuple[Trial, ...]
    """In the order in which they were finished."""
    references: tuple[Trial, ...]
    """Published networks, and others that have a spec, measured the same way."""
    rivals: tuple[MeasuredRival, ...] = ()
    """Networks that have none: counted and timed as they are."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """By latency metric what the reference takes, milliseconds, in whose terms the latencies are."""
    timed_again: Mapping[int, float] = field(default_factory=dict)
    """By number, the trials whose latency is that of the session at the end of the run: how many times their first."""

    origins: tuple[Origin, ...] = ()
    """The earlier runs that it was begun with."""
    earlier: tuple[EarlierTrial, ...] = ()
    """What was taken of them."""

    @cached_property
    def front(self) -> Front:
        """The complete trials sorted out. Raises RunError where one lacks an objective."""
        try:
            return find_front(complete_trials(self.trials), self.experiment.objectives, self.experiment.bands)
        except InputError as error:
            raise RunError(error.rule, file=self.folder / TRIALS_FILE, place=error.place) from error

    @cached_property
    def growth(self) -> Growth | None:
        """How the hypervolume grew with the complete trials. Raises RunError as `front` does."""
        seed = self.experiment.search.seed
        return find_growth(complete_trials(self.trials), self.experiment.objectives, self.front.reference, seed=seed)

    @cached_property
    def compared(self) -> list[Compared]:
        """What it was compared with, beside its front. Raises RunError as `front` does."""
        experiment = self.experiment
        return compare_references(
            self.front.members, self.references, self.rivals, experiment.objectives, experiment.search.references
        )

    @cached_property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics that a table of the run has a column for: its objectives, and what it measured besides."""
        known = {key for trial in (*self.trials, *self.references) for key in trial.results}
        known |= {key for rival in self.rivals for key in rival.results}
        return metrics_among([*known, *self.experiment.objectives])

    def trial(self, number: int) -> Trial:
        """The finished trial of this number. Raises InputError where there is none."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        rule = f"has no finished trial of this number; it has {len(self.trials)}"
        raise InputError(rule, file=self.folder, value=number)

    def pick(self, band: str) -> Trial:
        """The trial that the front has for `band`. Raises InputError: no such band, or nothing fits it."""
        picks = self.front.picks
        if band not in picks:
            rule = f"must be one of the run's bands: {', '.join(picks) or 'it has none'}"
            raise InputError(rule, place="--pick", value=band)
        trial = picks[band].trial
        if trial is None:
            raise InputError("no trial of the run fits this band; report.md says why", place="--pick", value=band)
        return trial

    def _repr_html_(self) -> str:
        """Its front, as a notebook shows it."""
        headings = ["trial", *(metric.noun for metric in self.columns), "on the front", "pick of"]
        rows = [
            [
                str(trial.number),
                *(metric.cell(trial.results) for metric in self.columns),
                f"{100 * self.front.probability[trial.number]:.0f} %",
                ", ".join(self.front.bands_of(trial.number)),
            ]
            for trial in self.front.members
        ]
        head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
        complete = len(complete_trials(self.trials))
        title = f"{self.experiment.space.name}: {complete} of {len(self.trials)} trials complete, its Pareto front"
        caption = f"<caption>{html.escape(title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def load_run(folder: str | Path) -> Run:
    """Reads a run's folder.

    >>> import modscale
    >>> run = modscale.load_run("reports/example")
    >>> len(run.trials), run.pick("xxs") in run.front.members
    (220, True)

    Raises:
        RunError: the folder is no run, or one of its files is broken.
    """
    folder = user_path(folder)
    document = read_run(folder)
    experiment = run_experiment(document, folder)
    compared = read_references(folder / REFERENCES_FILE)
    finals = read_finals(folder)
    tried = read_run_trials(folder, experiment.space)
    measured = [trial.results for trial in (*tried, *compared.trials)]
    measured += [*(rival.results for rival in compared.rivals), *finals.values()]
    levels = reference_levels(measured)
    first = {trial.number: trial.results for trial in trials_at(tried, levels)}
    trials = trials_at(with_finals(tried, finals), levels)
    return Run(
        folder=folder,
        document=document,
        experiment=experiment,
        trials=tuple(trials),
        references=tuple(trials_at(compared.trials, levels)),
        rivals=tuple(replace(rival, results=at_levels(rival.results, levels)) for rival in compared.rivals),
        levels=levels,
        origins=tuple(read_begun(folder) or ()),
        earlier=tuple(read_earlier(folder, experiment.space)),
        timed_again={
            trial.number: trial["latency_ms"] / first[trial.number]["latency_ms"]
            for trial in complete_trials(trials)
            if "latency_ms" in finals.get(trial.number, {})
        },
    )
