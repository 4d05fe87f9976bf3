"""The search: asks the study for candidates, has an engine evaluate them, writes each down, tells the study.

This one process asks, tells and writes; an engine (`engine.py`) only evaluates, one candidate at a time or many, and
may finish them in any order. What is drawn does not depend on that: trial n is drawn knowing the trials 0 to n - W
and nothing of the W - 1 after them but that they are under way, W being the window of the run, and a rung judges it by
the same. So a run follows from its space, its seed, W and what was measured, never from the number of workers or who
was quicker. A finished trial is on disk before anything else is done, so a run killed at any moment loses none; the
candidates that were under way are drawn and tried again when the same command runs again.

This module knows neither torch nor Optuna's samplers nor ONNX Runtime.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from modscale.errors import AllTrialsFailed, TrialFailed, naming_file
from modscale.interrupts import check_stop
from modscale.rivals import Rival
from modscale.runs.metrics import Results
from modscale.runs.references import MeasuredRival, References, append_rival, read_references
from modscale.runs.trials import Rung, Trial, append_trial, complete_trials, read_trials
from modscale.searching.engine import Engine, Inline, Task
from modscale.searching.measures import Evaluation
from modscale.searching.steps import Steps
from modscale.searching.study import Candidate, SearchStudy, require_numbers
from modscale.searching.worker import Judge
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

Evaluate = Callable[..., Steps[Evaluation]]
"""Takes a spec, and of a candidate the judge too where there is one; gives the steps of its evaluation."""
MeasureRival = Callable[[Rival, int], Steps[MeasuredRival]]
"""Takes a rival and its place among the references."""
JudgeAmong = Callable[[Sequence[Trial], Results, Sequence[Rung]], str | None]
"""As `worker.Judge`, given the finished trials."""


class Observer(Protocol):
    """Who watches a search; each call is a moment in it."""

    def started(self, label: str, spec: ModelSpec | None) -> None:
        """A candidate or a reference network is about to be evaluated; a rival has no spec."""

    def stage(self, name: str, label: str = "") -> None:
        """The evaluation of a label has come to `name`: export, latency or training; none is the last one started."""

    def finished(self, label: str, trial: Trial | MeasuredRival) -> None:
        """It is measured, or failed, and is on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What stands when a search ends."""

    trials: tuple[Trial, ...]
    """By their numbers."""
    references: References
    exhausted: bool
    """Whether the search ended because no feasible architecture was left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is under way: a trial, or a reference."""

    label: str
    """By which observers know it."""
    candidate: Candidate
    """Its network and number, among the trials or among the references."""
    is_trial: bool
    """Whether it is a trial."""


def run_search(
    study: SearchStudy,
    evaluate: Evaluate,
    observer: Observer,
    *,
    limit: int,
    trials_file: Path,
    references: Sequence[ModelSpec | Rival],
    references_file: Path,
    engine: Engine | None = None,
    window: int = 1,
    measure_rival: MeasureRival | None = None,
    judge: JudgeAmong | None = None,
    mirror: Callable[[Sequence[Trial]], None] = lambda trials: None,
) -> Outcome:
    """Evaluates candidates until `limit` trials are finished, and the reference networks evenly among them.

    The references are spread over the run, so that a drifting machine meets them as it meets the trials. A network
    that is a reference and a candidate is measured once, and what was measured stands in both files. The judge may end
    a candidate early, by the trials that it was drawn by, and never a reference. `mirror` is given the finished trials
    by number, up to the first that is not finished, at the start and whenever there are more. Without an engine, one is
    evaluated after the other by whatever `evaluate` does itself.

    Raises:
        AllTrialsFailed: trials were finished and none of them is complete.
        RunError: the run's folder can no longer be written to.
        KeyboardInterrupt: a stop was asked for; what is finished is on disk.
    """
    search = _Search(
        study=study,
        evaluate=evaluate,
        observer=observer,
        engine=engine or Inline(),
        limit=limit,
        window=window,
        trials_file=trials_file,
        references_file=references_file,
        measure_rival=measure_rival,
        judge=judge,
        mirror=mirror,
        finished={trial.number: trial for trial in read_trials(trials_file)},
        known=read_references(references_file),
    )
    search.waiting = [(i, one) for i, one in enumerate(references) if i not in search.known.numbers]
    search.places = len(references)
    with naming_file(trials_file):
        search.replay()
    search.show_mirror(at_start=True)
    while True:
        check_stop()
        search.fill()
        if not search.under_way:
            break
        for task in search.engine.wait():
            search.take(task)
    trials = [search.finished[number] for number in sorted(search.finished)]
    require_complete(trials)
    return Outcome(trials=tuple(trials), references=search.known, exhausted=search.exhausted)


@dataclass(kw_only=True, slots=True)
class _Search:
    """A search on its way."""

    study: SearchStudy
    evaluate: Evaluate
    observer: Observer
    engine: Engine
    limit: int
    window: int
    trials_file: Path
    references_file: Path
    measure_rival: MeasureRival | None
    judge: JudgeAmong | None
    mirror: Callable[[Sequence[Trial]], None]
    finished: dict[int, Trial]
    """By number, all that are on disk."""
    known: References
    """Likewise."""
    waiting: list[tuple[int, ModelSpec | Rival]] = field(default_factory=list)
    """References that are to be measured, with their places."""
    places: int = 0
    """References of the run, measured or not."""
    under_way: dict[Any, Job | Rival] = field(default_factory=dict)
    """What the engine has, by the task's key: `("trial", number)` or `("reference", place)`."""
    heirs: dict[Any, list[Job]] = field(default_factory=dict)
    """By the key of a job that is under way, who waits for what comes of it, being the same network."""
    lost: frozenset[int] = frozenset()
    """Numbers whose trials are lost for good."""
    told: int = 0
    """Trials below this number are told to the study."""
    number: int = 0
    """That of the next candidate."""
    shown: int = 0
    """Trials that the mirror has."""
    exhausted: bool = False
    """Whether the space is."""

    def replay(self) -> None:
        """Brings the study to where it drew the first candidate that is not finished.

        A number that no trial has, and that was not under way when the last one was drawn, is lost for good.
        """
        last = require_numbers(self.finished)
        self.lost = frozenset(number for number in range(last - self.window + 1) if number not in self.finished)
        first = next(number for number in range(last + 2) if number not in self.finished and number not in self.lost)
        settled = max(0, first - self.window + 1)
        self.study.replay([trial for number, trial in self.finished.items() if number < settled], count=settled)
        self.told = self.number = settled
        for number in range(settled, first):
            self._pass(number)

    def fill(self) -> None:
        """Gives the engine as much as it wants to have, and as may be drawn by what is finished."""
        while len(self.under_way) < self.engine.capacity and (self._begin_reference() or self._begin_trial()):
            check_stop()
        if not self.waiting and (self.exhausted or self._begun() >= self.limit):
            self.engine.end()

    def take(self, task: Task) -> None:
        """Writes down what came of a task, and of those that waited for it."""
        if isinstance(task.outcome, TrialFailed):
            check_stop()  # what was stopped has not failed
        job = self.under_way.pop(task.key)
        if isinstance(job, Rival):
            append_rival(self.references_file, task.outcome)
            self.known.rivals.append(task.outcome)
            self.observer.finished(job.name, task.outcome)
            return
        self._keep(job, _trial_of(job.candidate, task))
        for heir in self.heirs.pop(task.key, []):
            self._start(heir)

    def show_mirror(self, *, at_start: bool = False) -> None:
        """Shows the mirror what is new up to the first trial that is missing."""
        before = self.shown
        while self.shown in self.finished or self.shown in self.lost:
            self.shown += 1
        if at_start or self.shown > before:
            self.mirror([self.finished[number] for number in range(self.shown) if number in self.finished])

    def _begin_reference(self) -> bool:
        """Begins the next reference, if its turn has come; whether it did."""
        begun = self._begun()
        is_over = begun >= self.limit or self.exhausted
        if not self.waiting or not (is_over or begun * (self.places + 1) >= (self.waiting[0][0] + 1) * self.limit):
            return False
        number, reference = self.waiting.pop(0)
        if isinstance(reference, ModelSpec):
            candidate = Candidate(number=number, choice={}, spec=reference)
            self._start(Job(label=reference.name, candidate=candidate, is_trial=False))
        elif self.measure_rival is not None:
            key = ("reference", number)
            self.under_way[key] = reference
            self._submit(key, reference.name, None, self.measure_rival(reference, number))
        return True

    def _begin_trial(self) -> bool:
        """Begins the next trial, if it may be drawn by what is finished; whether it did."""
        while self.number in self.finished or self.number in self.lost:
            self._pass(self.number)
        if self.exhausted or self._begun() >= self.limit or not self._tell_before(self.number):
            return False
        candidate = self.study.ask()
        if candidate is None:
            self.exhausted = True
            return False
        self.number = candidate.number + 1
        self._start(Job(label=f"trial {candidate.number}", candidate=candidate, is_trial=True))
        return True

    def _begun(self) -> int:
        """Trials that are finished or under way."""
        jobs = [*self.under_way.values(), *itertools.chain.from_iterable(self.heirs.values())]
        return len(self.finished) + sum(isinstance(job, Job) and job.is_trial for job in jobs)

    def _pass(self, number: int) -> None:
        """The study hands out a number whose trial is on file, or lost."""
        self._tell_before(number)
        with naming_file(self.trials_file):
            self.study.resume(self.finished.get(number))
        self.number = number + 1

    def _tell_before(self, number: int) -> bool:
        """Tells the study all that a trial of this number is drawn by; whether all of it is there."""
        while self.told <= number - self.window:
            if self.told in self.finished:
                self.study.tell(self.finished[self.told])
            elif self.told not in self.lost:
                return False
            self.told += 1
        return True

    def _start(self, job: Job) -> None:
        """Has it evaluated, unless the same network was, or is under way."""
        judges = self._judges(job)
        twin = _twin(job.candidate, self.known.trials if job.is_trial else self.finished.values())
        if twin is not None:
            self._keep(job, _judged(twin, *judges))
            return
        spec = job.candidate.spec
        for key, other in self.under_way.items():
            if isinstance(other, Job) and network_key(other.candidate.spec) == network_key(spec):
                self.heirs.setdefault(key, []).append(job)
                return
        key = ("trial" if job.is_trial else "reference", job.candidate.number)
        self.under_way[key] = job
        self._submit(key, job.label, spec, self.evaluate(spec, *judges))

    def _judges(self, job: Job) -> list[Judge]:
        if self.judge is None or not job.is_trial:
            return []
        known = [t for number, t in sorted(self.finished.items()) if number <= job.candidate.number - self.window]
        return [partial(self.judge, known)]

    def _submit(self, key: Any, label: str, spec: ModelSpec | None, steps: Steps[Any]) -> None:
        self.engine.submit(
            Task(
                key=key,
                label=label,
                steps=steps,
                size=0.0 if spec is None else count_model(spec).flops,
                began=partial(self.observer.started, label, spec),
                announce=partial(self.observer.stage, label=label),
            )
        )

    def _keep(self, job: Job, trial: Trial) -> None:
        append_trial(self.trials_file if job.is_trial else self.references_file, trial)
        if job.is_trial:
            self.finished[trial.number] = trial
            self.show_mirror()
        else:
            self.known.trials.append(trial)
        self.observer.finished(job.label, trial)


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


def _trial_of(candidate: Candidate, task: Task) -> Trial:
    """One finished trial: complete, or failed or stopped with its reason."""
    if isinstance(task.outcome, TrialFailed):
        count = count_model(candidate.spec)
        return Trial(
            number=candidate.number,
            state="failed",
            reason=str(task.outcome),
            spec=candidate.spec,
            results={"params": count.params, "flops": count.flops},
            seconds=task.seconds,
            choice=candidate.choice,
        )
    evaluation: Evaluation = task.outcome
    return Trial(
        number=candidate.number,
        state="complete" if evaluation.stopped is None else "stopped",
        reason=evaluation.stopped,
        spec=candidate.spec,
        results=evaluation.results,
        seconds=task.seconds,
        choice=candidate.choice,
        rungs=evaluation.rungs,
    )
