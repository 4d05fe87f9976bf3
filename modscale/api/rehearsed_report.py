"""Trials of a search that has not begun: how far each would come, and the report of all.

The trials are imagined: candidates as the search would draw them, with latencies between those that were measured and
the accuracy that their size alone tells. The search's own judge tells which of them it would end before their training
is over. The report tells how long it takes to write, how large it is, how many are on the front. Nobody sees it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from modscale.analysis.results import load_run
from modscale.api.session import final_candidates
from modscale.errors import TrialFailed
from modscale.files import path_text
from modscale.report.build import build_report
from modscale.runs.experiment import Experiment
from modscale.runs.folder import STUDY_FILE, TRIALS_FILE, write_run
from modscale.runs.metrics import learnt_of
from modscale.runs.trials import Rung, Trial, append_trial
from modscale.searching.costs import Costs
from modscale.searching.mirror import StudyMirror
from modscale.searching.rehearsal import Rehearsed
from modscale.searching.rungs import make_judge
from modscale.searching.screen import comparing, limiting
from modscale.searching.study import Candidate
from modscale.specs.counts import count_model
from modscale.training.estimate import estimate_accuracy

MOST_REPORTED = 64
"""Trials of the report at most; what more of them would take is reckoned in proportion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RehearsedReport:
    """What the report came to."""

    seconds: float
    """To write it, and the study of Optuna's."""
    fixed_bytes: int
    """Of the files but `trials.jsonl`."""
    trial_bytes: float
    """Of a line of that."""
    finals: int
    """Networks of the front and the picks."""


def imagined_trials(experiment: Experiment, costs: Costs, candidates: Sequence[Candidate]) -> list[Trial]:
    """A complete trial of each candidate."""
    trials = []
    for number, candidate in enumerate(candidates):
        count = count_model(candidate.spec)
        nearest = min(costs.rehearsal.networks, key=lambda one: abs(one.flops - count.flops)).results
        latency = {
            key: value if isinstance(value, bool) else costs.between(count.flops, partial(_result, key=key))
            for key, value in nearest.items()
        }
        estimate = estimate_accuracy(candidate.spec, method="thin", evidence=0.0)
        learnt = "accuracy" if experiment.proxy.task == "classification" else "miou"
        trials.append(
            Trial(
                number=number,
                state="complete",
                spec=replace(candidate.spec, name=f"{experiment.space.name}-{number}"),
                results={
                    "params": count.params,
                    "flops": count.flops,
                    **latency,
                    learnt: estimate.accuracy,
                    f"{learnt}_standard_error": estimate.standard_error,
                },
                seconds=0.0,
                choice=candidate.choice,
            )
        )
    return trials


def imagined_ends(experiment: Experiment, trials: Sequence[Trial]) -> list[tuple[float, int]]:
    """How far each of the trials would come: its share of the training, and how often it would be scored.

    0 and 0: it fails by what was measured before. At each rung all stand by what their size tells of them, which a
    real training blurs: who is ended early is imagined, how many are follows from the rule.
    """
    judge = comparing(limiting(experiment.limits, make_judge(experiment.objectives, experiment.search)))
    learnt = learnt_of(experiment.objectives)
    shares = experiment.search.rungs if learnt else ()
    found, known = [], list[Trial]()
    for trial in trials:
        end, reached = (1.0, len(shares) + 1), list[Rung]()
        before = {key: value for key, value in trial.results.items() if not key.startswith(("accuracy", "miou"))}
        try:
            if judge is not None:
                judge(known, before, ())
            for share in shares:
                reached.append(Rung(share=share, value=trial.results[learnt.name if learnt else ""], seconds=0.0))
                if judge is not None and judge(known, before, reached) is not None:
                    end = (share, len(reached))
                    break
        except TrialFailed:
            end = (0.0, 0)
        known.append(replace(trial, rungs=tuple(reached)))
        found.append(end)
    return found


def _result(one: Rehearsed, *, key: str) -> float:
    return one.results[key]


def rehearse_report(
    folder: Path, experiment: Experiment, data: Mapping[str, Any], trials: Sequence[Trial], space_file: str
) -> RehearsedReport:
    """Writes the report of these trials, as many as the search has and `MOST_REPORTED` at most, into a new `folder`."""
    folder.mkdir()
    trials = trials[: min(experiment.search.trials, MOST_REPORTED)]
    write_run(folder, experiment, path_text(space_file), data)
    for trial in trials:
        append_trial(folder / TRIALS_FILE, trial)
    began = time.monotonic()
    StudyMirror(folder / STUDY_FILE, experiment, lambda text: None).update(list(trials))
    build_report(load_run(folder))
    seconds = time.monotonic() - began
    sizes = {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    lines = sizes.pop(TRIALS_FILE)
    return RehearsedReport(
        seconds=seconds,
        fixed_bytes=sum(sizes.values()),
        trial_bytes=lines / len(trials),
        finals=len(final_candidates(folder, experiment)),
    )
