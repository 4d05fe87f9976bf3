"""What a report says of the earlier runs that a run was begun with: what was known, and what of that is still ahead."""

from __future__ import annotations

from dataclasses import replace

from modscale.analysis.results import Run
from modscale.pareto import pareto_front
from modscale.runs.earlier import EarlierTrial
from modscale.runs.machine_speed import trials_at
from modscale.runs.trials import Trial, complete_trials

MOST_AHEAD = 8
"""Known networks that are named."""


def earlier_notes(run: Run) -> list[str]:
    """A sentence an earlier run, without full stops, and one on the known networks that no trial of the run beats."""
    notes = [origin.sentence() for origin in run.origins]
    known = [one for one in _at_our_level(run) if one.use == "known"]
    if known:
        ahead = _ahead(run, known)
        named = [f"trial {one.trial.number} of {one.run} ({_figures(run, one.trial)})" for one in ahead[:MOST_AHEAD]]
        more = f" and {len(ahead) - MOST_AHEAD} more" if len(ahead) > MOST_AHEAD else ""
        what = f"{'; '.join(named)}{more}" if named else "none"
        notes.append(
            f"the {len(known)} networks that were known are no trials of this run, and not on its front; no trial of it"
            f" is as good as these: {what}"
        )
    return notes


def _at_our_level(run: Run) -> list[EarlierTrial]:
    """What was taken of earlier runs, its latencies in terms of the machine that the report's are of."""
    return [
        replace(one, trial=trial)
        for one, trial in zip(run.earlier, trials_at([one.trial for one in run.earlier], run.levels), strict=True)
    ]


def _ahead(run: Run, known: list[EarlierTrial]) -> list[EarlierTrial]:
    """Those of the known networks that would be on a front of both, best first by the first objective."""
    objectives = run.experiment.objectives
    own = [[trial[metric] for metric in objectives] for trial in complete_trials(run.trials)]
    theirs = [[one.trial[metric] for metric in objectives] for one in known]
    both = pareto_front([*own, *theirs], list(objectives.values()))
    ahead = [known[i - len(own)] for i in both if i >= len(own) and theirs[i - len(own)] not in own]
    first, direction = next(iter(objectives.items()))
    return sorted(ahead, key=lambda one: one.trial[first], reverse=direction == "maximize")


def _figures(run: Run, trial: Trial) -> str:
    cells = [
        (metric.noun, metric.cell(trial.results)) for metric in run.columns if metric.name in run.experiment.objectives
    ]
    return ", ".join(f"{noun} {cell}" for noun, cell in cells)
