"""What is told on standard error while something runs: a latency, a count, a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Timer
from typing import Any

from modscale.analysis.time_left import Ahead
from modscale.cli.console import as_shown, drawn, err, make_bar, say
from modscale.errors import one_line
from modscale.machine import available_cores
from modscale.runs.metrics import METRICS, is_doubtful, metrics_among
from modscale.runs.references import MeasuredRival
from modscale.runs.scores import Scored
from modscale.runs.trials import Trial
from modscale.settings import LatencySettings
from modscale.specs.spec import ModelSpec
from modscale.training.job import SCORES, Progress, best_scores

PATIENCE_S = 0.25
"""After which a count shows that it is under way."""


@contextmanager
def latency_progress(settings: LatencySettings) -> Iterator[Callable[[int, int], None]]:
    """A bar of the timing processes where there is a terminal; gives what is to hear `(done, total)` of each.

    Says beforehand where threads outnumber cores.
    """
    if settings.resolved_threads() > available_cores():
        say(f"note: {settings.resolved_threads()} threads on {available_cores()} cores slow each other down")
    bar = make_bar("done")  # it must not draw while a model is timed
    task = bar.add_task("export", total=None)
    with drawn(bar):
        yield lambda done, total: bar.update(task, description="latency", completed=done, total=total, refresh=True)


@contextmanager
def counting_progress(name: str) -> Iterator[Callable[[float], None]]:
    """How far a count is, once it takes a while: a bar where there is a terminal, a line elsewhere.

    Gives what is to hear the share that is done.
    """
    bar = make_bar("percent", "elapsed", per_second=10)
    task = bar.add_task(as_shown(err, f"counting {name}"), total=1.0)

    def begin() -> None:
        with suppress(OSError):
            if err.is_terminal:
                bar.start()
            else:
                say(f"counting the architectures of {name} ...")

    timer = Timer(PATIENCE_S, begin)
    timer.daemon = True
    timer.start()
    try:
        yield lambda share: bar.update(task, completed=share)
    finally:
        timer.cancel()
        timer.join()
        if err.is_terminal:
            with suppress(OSError):
                bar.stop()


def say_estimate(interval: tuple[int, int]) -> None:
    """What a sample tells of a large space while it is counted exactly."""
    low, high = interval
    if low == high:  # the reach of the counts tells it
        say(f"{low:,} architectures are feasible; counting how large they are ...")
        return
    say(f"by a sample, {low:,} to {high:,} architectures are feasible (95 %); counting exactly, if it can be done")


class Terminal:
    """Tells a search, or a fidelity check, on standard error: lines, and a bar where there is a terminal."""

    def say(self, text: str) -> None:
        say(text)

    @contextmanager
    def searching(
        self, *, done: int, limit: int, references: int, pace_s: float | None = None, ahead: Ahead | None = None
    ) -> Iterator[WorkProgress]:
        progress = search_progress(done=done, limit=limit, references=references, pace_s=pace_s, ahead=ahead)
        with progress.shown():
            yield progress

    @contextmanager
    def scoring(self, *, done: int, total: int) -> Iterator[WorkProgress]:
        progress = WorkProgress("scoring", describe_scored, done=done, total=total)
        with progress.shown():
            yield progress

    @contextmanager
    def training(self, *, epochs: int, steps: int, done: int) -> Iterator[TrainProgress]:
        progress = TrainProgress(epochs=epochs, steps=steps, done=done)
        with progress.shown():
            yield progress


class TrainProgress:
    """Follows a training: a bar of all its steps where there is a terminal, a line for each epoch everywhere."""

    def __init__(self, *, epochs: int, steps: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.bar = make_bar("percent", "elapsed", "left", "stage", width=16, style="bold", per_second=1)
        self.epochs, self.steps = epochs, steps
        self.task = self.bar.add_task("training", total=epochs * steps, completed=done * steps, stage="", left="")
        self.accuracy = ""
        self.clock = clock
        self.began: tuple[float, int] | None = None

    def shown(self) -> AbstractContextManager[None]:
        """Draws the bar as long as the context lasts."""
        return drawn(self.bar)

    def moved(self, progress: Progress) -> None:
        done = progress.epoch * self.steps + progress.step
        loss = "" if progress.loss is None else f"loss {progress.loss:.3f}, "
        stage = (
            f"epoch {min(progress.epoch + 1, self.epochs)}/{self.epochs}: {loss}{self.accuracy}rate {progress.rate:.1e}"
        )
        self.bar.update(self.task, completed=done, stage=as_shown(err, stage), left=self.time_left(done))

    def finished(self, row: Mapping[str, Any]) -> None:
        self.accuracy = "".join(f"{SCORES[key]} {100 * score:.1f} %, " for key, score in best_scores(row).items())
        say(describe_epoch(row, self.epochs))

    def time_left(self, done: int) -> str:
        """How long the rest takes at the pace since the first look."""
        if self.began is None:
            self.began = (self.clock(), done)
        since, first = self.began
        if done == first:
            return ""
        seconds = (self.clock() - since) / (done - first) * (self.epochs * self.steps - done)
        return f"about {duration_text(seconds)} left"


class WorkProgress:
    """Follows work on one network after the other: a bar where there is a terminal, a line for each everywhere."""

    def __init__(
        self,
        what: str,
        describe: Callable[[str, Any], str],
        *,
        done: int,
        total: int,
        pace_s: float | None = None,
        ahead: Ahead | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`describe` makes the line of a finished one, by its label and what was measured.

        `pace_s` is what one took in an earlier start: what the time left is told by until one is finished. Of a search
        `ahead` tells how long the rest takes.
        """
        # Drawing takes a core away from the model that is timed.
        self.bar = make_bar("done", "elapsed", "left", "stage", width=16, style="bold", per_second=1)
        self.to_do = total - done
        self.task = self.bar.add_task(what, total=total, completed=done, stage="", left=_TimeLeft(self))
        self.describe = describe
        self.stages: dict[str, str] = {}
        """Of each that is being worked on, by its label, in the order in which they were begun."""
        self.stages_s: dict[str, list[float]] = {}
        """How long each stage took, by its name; shared where several are in it."""
        self.stage_began: dict[str, float] = {}
        """By the label of each that is being worked on."""
        self.clock = clock
        self.pace_s, self.ahead = pace_s, ahead
        self.began = self.latest = clock()
        self.finished_here = 0
        self.rest_s = None if ahead is None else ahead.left_s(0.0, {}, pace_s=pace_s)
        """What was ahead when the latest one was finished."""
        self.has_doubted = False

    def shown(self) -> AbstractContextManager[None]:
        """Draws the bar as long as the context lasts."""
        return drawn(self.bar)

    def started(self, label: str, spec: ModelSpec | None) -> None:
        self.stages[label] = ""
        self._show(label)

    def stage(self, name: str, label: str = "") -> None:
        label = label or next(reversed(self.stages), "")
        self._leave_stage(label)
        self.stages[label] = name
        self.stage_began[label] = self.clock()
        self._show(label)

    def _leave_stage(self, label: str) -> None:
        """Notes how long the stage took that a label leaves."""
        if (stage := self.stages.get(label)) and label in self.stage_began:
            beside = sum(other == stage for other in self.stages.values())
            self.stages_s.setdefault(stage, []).append((self.clock() - self.stage_began[label]) / beside)

    def _show(self, label: str) -> None:
        at_work = {label: stage for label, stage in self.stages.items() if stage}
        text = describe_stages(at_work) if at_work else label
        self.bar.update(self.task, stage=as_shown(err, text))

    def finished(self, label: str, measured: Trial | MeasuredRival | Scored) -> None:
        self._leave_stage(label)
        self.stages.pop(label, None)
        self.stage_began.pop(label, None)
        self.finished_here += 1
        self.latest = self.clock()
        if self.ahead is not None and not isinstance(measured, Scored):
            self.ahead.take(measured, is_trial=label.startswith("trial "))
            self.rest_s = self.ahead.left_s(
                self.latest - self.began, self.stages_s, pace_s=self.pace_s, under_way=len(self.stages)
            )
        self.bar.update(self.task, advance=1)
        say(self.describe(label, measured))
        if not self.has_doubted and any(
            is_doubtful(metric, measured.results) for metric in metrics_among(measured.results)
        ):
            self.has_doubted = True
            say("note: ? marks a latency whose interval stayed wide, or whose cores others had")

    def time_left(self) -> str:
        """How long the rest takes, in words; empty where that is not known, or over."""
        seconds = self.left_s()
        return "" if seconds is None or seconds < 0.5 else f"about {duration_text(seconds)} left"

    def left_s(self) -> float | None:
        """How long the rest takes at the pace of what was finished since the start, or else earlier; None before that.

        What the one that is worked on has had already is taken off, as far as it is no more than one takes.
        """
        here = self.finished_here
        pace_s = (self.latest - self.began) / here if here else self.pace_s
        to_do = self.to_do - here
        passed = self.clock() - self.latest
        if self.ahead is not None:
            if self.rest_s is None or pace_s is None:
                return None
            return max(0.0, self.rest_s - (min(passed, pace_s) if to_do > 0 else passed))
        if pace_s is None or to_do <= 0:
            return None
        return to_do * pace_s - min(passed, pace_s)


class _TimeLeft:
    """The time left as it is whenever the bar is drawn."""

    def __init__(self, progress: WorkProgress) -> None:
        self.progress = progress

    def __str__(self) -> str:
        return self.progress.time_left()


def describe_stages(stages: Mapping[str, str]) -> str:
    """What is done to each: `trial 3: training` where it is one, `training 3 4, export 5` where they are several."""
    if len(stages) == 1:
        return ": ".join(*stages.items())
    groups: dict[str, list[str]] = {}
    for label, stage in stages.items():
        groups.setdefault(stage, []).append(label.removeprefix("trial "))
    return ", ".join(f"{stage} {' '.join(labels)}" for stage, labels in groups.items())


def search_progress(
    *,
    done: int,
    limit: int,
    references: int,
    pace_s: float | None = None,
    ahead: Ahead | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> WorkProgress:
    """Follows a search of so many trials and reference networks, of which `done` are finished.

    `pace_s` is the time that those took, each; `ahead` what is still to be done.
    """
    total = max(limit + references, done)
    return WorkProgress("search", describe_trial, done=done, total=total, pace_s=pace_s, ahead=ahead, clock=clock)


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def describe_trial(label: str, trial: Trial | MeasuredRival) -> str:
    """A finished trial in one line, at most 80 columns for a measured one."""
    known = [metric.brief(trial.results) for metric in metrics_among(trial.results)]
    if trial.state == "complete":
        return f"{label:<9} {', '.join(known)}, {trial.seconds:.0f} s"
    return f"{label:<9} {trial.state}: {one_line(trial.reason or 'no reason recorded')} ({', '.join(known)})"


def describe_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """A finished epoch in a line."""
    scores = ", ".join(
        f"{SCORES[key]} {100 * row[key]:.1f} %"
        + (f" (averaged {100 * row[f'ema_{key}']:.1f} %)" if f"ema_{key}" in row else "")
        for key in SCORES
        if key in row
    )
    learnt = f"loss {row['train_loss']:.3f}, {scores}"
    return f"epoch {row['epoch']}/{epochs}: {learnt}, rate {row['learning_rate']:.1e}, {row['seconds']:.0f} s"


def describe_scored(label: str, row: Scored) -> str:
    """A network that was scored, or timed, in one line."""
    what = "latency" if row.seed is None else f"seed {row.seed}"
    if row.state != "complete":
        return f"{label} ({what}) {row.state}: {one_line(row.reason or 'no reason recorded')}"
    if row.score is None:
        return f"{label} (latency) {METRICS['latency_ms'].brief(row.results)}, {row.seconds:.0f} s"
    error = "" if row.standard_error is None else f" ± {row.standard_error:.2g}"
    cpu = "" if row.cpu_seconds is None else f", {row.cpu_seconds:.0f} CPU-s"
    return f"{label} ({what}) scores {row.score:.4g}{error}, {row.seconds:.0f} s{cpu}"
