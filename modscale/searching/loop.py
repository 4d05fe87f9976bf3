"""The search: asks the study for a candidate, has it evaluated, writes it down, tells the study; then the next.

"Evaluate one candidate" is an argument. This module knows neither torch nor Optuna's samplers nor ONNX Runtime.
A finished trial is on disk before the next one begins, so a run killed at any moment loses none; the candidate it
was working on is tried again when the same command runs again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from modscale.errors import AllTrialsFailed, TrialFailed, naming_file
from modscale.interrupts import check_stop
from modscale.rivals import Rival
from modscale.runs.metrics import Results
from modscale.runs.references import MeasuredRival, References, append_rival, read_references
from modscale.runs.trials import Rung, Trial, append_trial, complete_trials, read_trials
from modscale.searching.measures import Evaluation, Judge
from modscale.searching.study import Candidate, SearchStudy
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

Evaluate = Callable[..., Evaluation]
"""Takes a spec and who hears of its stages, and of a candidate the judge too where there is one. Raises TrialFailed."""
MeasureRival = Callable[[Rival, int, Callable[[str], None]], MeasuredRival]
"""Takes a rival, its place among the references, and who hears of its stages."""
JudgeAmong = Callable[[Sequence[Trial], Results, Sequence[Rung]], str | None]
"""As `measures.Judge`, given the finished trials."""


class Observer(Protocol):
    """Who watches a search; each call is a moment in it."""

    def started(self, label: str, spec: ModelSpec | None) -> None:
        """A candidate or a reference network is about to be evaluated; a rival has no spec."""

    def stage(self, name: str) -> None:
        """Its evaluation has come to `name`: export, latency or training."""

    def finished(self, label: str, trial: Trial | MeasuredRival) -> None:
        """It is measured, or failed, and is on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What stands when a search ends."""

    trials: tuple[Trial, ...]
    references: References
    exhausted: bool
    """Whether the search ended because no feasible architecture was left."""


def run_search(
    study: SearchStudy,
    evaluate: Evaluate,
    observer: Observer,
    *,
    limit: int,
    trials_file: Path,
    references: Sequence[ModelSpec | Rival],
    references_file: Path,
    measure_rival: MeasureRival | None = None,
    judge: JudgeAmong | None = None,
    mirror: Callable[[Sequence[Trial]], None] = lambda trials: None,
) -> Outcome:
    """Evaluates candidates until `limit` trials are finished, and the reference networks evenly among them.

    The references are spread over the run, so that a drifting machine meets them as it meets the trials. A network
    that is a reference and a candidate is measured once, and what was measured stands in both files. The judge may end
    a candidate early, by the trials that are finished then, and never a reference. `mirror` is given the finished
    trials at the start and after each one.

    Raises:
        AllTrialsFailed: trials were finished and none of them is complete.
        RunError: the run's folder can no longer be written to.
        KeyboardInterrupt: a stop was asked for; what is finished is on disk.
    """
    trials, known = read_trials(trials_file), read_references(references_file)
    measured = known.trials
    with naming_file(trials_file):
        study.replay(trials)
    mirror(trials)
    waiting = [(i, reference) for i, reference in enumerate(references) if i not in known.numbers]
    exhausted = False

    def finish(label: str, candidate: Candidate, file: Path, finished: list[Trial]) -> Trial:
        others = trials if finished is measured else measured
        check_stop()
        judges = [] if judge is None or finished is measured else [partial(judge, trials)]
        twin = _twin(candidate, others)
        trial = _try(label, candidate, evaluate, observer, *judges) if twin is None else _judged(twin, *judges)
        append_trial(file, trial)
        finished.append(trial)
        observer.finished(label, trial)
        return trial

    def meet() -> None:
        """Measures the next reference."""
        number, reference = waiting.pop(0)
        if isinstance(reference, ModelSpec):
            candidate = Candidate(number=number, choice={}, spec=reference)
            finish(reference.name, candidate, references_file, measured)
        elif measure_rival is not None:
            check_stop()
            observer.started(reference.name, None)
            rival = measure_rival(reference, number, observer.stage)
            append_rival(references_file, rival)
            known.rivals.append(rival)
            observer.finished(reference.name, rival)

    while len(trials) < limit:
        while waiting and len(trials) * (len(references) + 1) >= (waiting[0][0] + 1) * limit:
            meet()
        candidate = study.ask()
        if candidate is None:
            exhausted = True
            break
        study.tell(finish(f"trial {candidate.number}", candidate, trials_file, trials))
        mirror(trials)
    while waiting:
        meet()
    require_complete(trials)
    return Outcome(trials=tuple(trials), references=known, exhausted=exhausted)


def require_complete(trials: Sequence[Trial]) -> None:
    """Raises AllTrialsFailed where trials were finished and none of them is complete."""
    if trials and not complete_trials(trials):
        raise AllTrialsFailed(f"all {len(trials)} trials failed; the last one: {trials[-1].reason}")


def _twin(candidate: Candidate, finished: Iterable[Trial]) -> Trial | None:
    """What was measured of the same network before, as the trial of this candidate."""
    key = network_key(candidate.spec)
    for trial in finished:
        if trial.state == "complete" and network_key(trial.spec) == key:
            return replace(trial, number=candidate.number, spec=candidate.spec, choice=candidate.choice)
    return None


def _judged(twin: Trial, *judges: Judge) -> Trial:
    """A candidate that was measured as another one, failed where a judge would have had it fail."""
    try:
        for judge in judges:
            judge(twin.results, twin.rungs)
    except TrialFailed as failure:
        counts = {key: twin.results[key] for key in ("params", "flops")}
        return replace(twin, state="failed", reason=str(failure), results=counts, rungs=())
    return twin


def _try(label: str, candidate: Candidate, evaluate: Evaluate, observer: Observer, *judges: Judge) -> Trial:
    """One finished trial: complete, or failed or stopped with its reason."""
    observer.started(label, candidate.spec)
    start = time.perf_counter()
    try:
        evaluation = evaluate(candidate.spec, observer.stage, *judges)
    except TrialFailed as failure:
        check_stop()  # what was stopped has not failed
        count = count_model(candidate.spec)
        return Trial(
            number=candidate.number,
            state="failed",
            reason=str(failure),
            spec=candidate.spec,
            results={"params": count.params, "flops": count.flops},
            seconds=time.perf_counter() - start,
            choice=candidate.choice,
        )
    return Trial(
        number=candidate.number,
        state="complete" if evaluation.stopped is None else "stopped",
        reason=evaluation.stopped,
        spec=candidate.spec,
        results=evaluation.results,
        seconds=evaluation.seconds,
        choice=candidate.choice,
        rungs=evaluation.rungs,
    )
