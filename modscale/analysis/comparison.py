"""How a run's front stands beside the networks that it is compared with: which of them beat it, and how surely.

A published network, or another that has a spec, has the estimate of its accuracy that the candidates have. A rival
without a spec has what somebody states of it, without an error of its own; it is set against estimates of the same
thing, the ImageNet-1K top-1 after full training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modscale.analysis.front import metric_error
from modscale.analysis.proxy_ranking import published_figure
from modscale.pareto import pareto_front
from modscale.rivals import Rival
from modscale.runs.metrics import ACCURACY, METRICS, Z95, Results
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial
from modscale.specs.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A network beside the front."""

    name: str
    """By which it is told."""
    results: Results
    """As those of a trial; `accuracy` is the estimate, or of a rival what is stated."""
    top1: float | None
    """Published or stated top-1 in %; None where there is neither."""
    spec: ModelSpec | None = None
    """What it is; None of a rival that has none."""
    rival: MeasuredRival | None = None
    """What was measured of a network without a spec; None of another."""
    reason: str | None = None
    """Why it is not complete; None where it is."""
    beats: tuple[int, ...] = ()
    """Front trials that it dominates."""
    clearly: tuple[int, ...] = ()
    """Of those, the ones over which its lead in some objective is more than 1.96 standard errors."""
    beaten_by: tuple[int, ...] = ()
    """Front trials that dominate it."""
    is_whole: bool = False
    """Whether it is complete and has a value for each objective, so that the front can be compared with it."""

    def value(self, key: str) -> float | None:
        """What it has for a metric; None where that is not known."""
        return self.results.get(key)


def compare_references(
    members: Sequence[Trial],
    references: Sequence[Trial],
    rivals: Sequence[MeasuredRival],
    objectives: Mapping[str, str],
    stated: Sequence[str | Rival],
) -> list[Compared]:
    """Every network that a run was compared with beside its front's `members`, those with a spec first.

    `stated` is the references as the run's space has them now, by whose places they are numbered.
    """
    told = {i: one.accuracy for i, one in enumerate(stated) if isinstance(one, Rival)}
    found = []
    for trial in references:
        accuracy = told.get(trial.number)
        top1 = published_figure(trial) if accuracy is None else 100 * accuracy
        name, why = trial.spec.name, _why_not(trial)
        found.append(Compared(name=name, results=trial.results, top1=top1, spec=trial.spec, reason=why))
    for rival in rivals:
        accuracy = told.get(rival.number)
        results = rival.results if accuracy is None else {**rival.results, ACCURACY.name: accuracy}
        top1 = None if accuracy is None else 100 * accuracy
        found.append(Compared(name=rival.rival.name, results=results, top1=top1, rival=rival, reason=_why_not(rival)))
    return [_beside(one, members, objectives) for one in found]


def _why_not(one: Trial | MeasuredRival) -> str | None:
    return None if one.state == "complete" else one.reason or one.state


def _beside(one: Compared, members: Sequence[Trial], objectives: Mapping[str, str]) -> Compared:
    if one.reason is not None or any(one.value(metric) is None for metric in objectives):
        return one
    beats = [trial for trial in members if dominates(one.results, trial.results, objectives)]
    return replace(
        one,
        is_whole=True,
        beats=tuple(trial.number for trial in beats),
        clearly=tuple(trial.number for trial in beats if _is_clear(one.results, trial, objectives)),
        beaten_by=tuple(trial.number for trial in members if dominates(trial.results, one.results, objectives)),
    )


def dominates(ours: Results, theirs: Results, objectives: Mapping[str, str]) -> bool:
    """Whether the first is no worse in any objective, and better in one."""
    values = np.array([[results[metric] for metric in objectives] for results in (ours, theirs)])
    return pareto_front(values, list(objectives.values())) == [0]


def _is_clear(ours: Results, trial: Trial, objectives: Mapping[str, str]) -> bool:
    for metric in objectives:
        error = np.hypot(METRICS[metric].standard_error(ours), metric_error(trial, metric))
        if abs(ours[metric] - trial[metric]) > Z95 * error:
            return True
    return False
