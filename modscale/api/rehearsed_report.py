"""The report of a search that has not begun: how long it takes to write, how large it is, how many are on the front.

The trials are imagined: candidates as the search would draw them, with latencies between those that were measured and
the accuracy that their size alone tells. Nobody sees the report.
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
from modscale.files import path_text
from modscale.report.build import build_report
from modscale.runs.experiment import Experiment
from modscale.runs.folder import STUDY_FILE, TRIALS_FILE, write_run
from modscale.runs.trials import Trial, append_trial
from modscale.searching.mirror import StudyMirror
from modscale.searching.rehearsal import Costs, Rehearsed
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
    """As many complete trials as the search would have, `MOST_REPORTED` and one a candidate at most."""
    trials = []
    for number, candidate in enumerate(candidates[: min(experiment.search.trials, MOST_REPORTED)]):
        count = count_model(candidate.spec)
        nearest = min(costs.rehearsed, key=lambda one: abs(one.flops - count.flops)).results
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


def _result(one: Rehearsed, *, key: str) -> float:
    return one.results[key]


def rehearse_report(
    folder: Path, experiment: Experiment, data: Mapping[str, Any], trials: Sequence[Trial], space_file: str
) -> RehearsedReport:
    """Writes the report of these trials into a new `folder`."""
    folder.mkdir()
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
