"""What `modscale watch` shows: a run in progress as lines of text that fit a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from modscale.analysis.progress import RunProgress, read_progress
from modscale.cli.console import as_shown, live_view, out, print_lines, screen_width
from modscale.cli.layout import Column, lay_out_table, wrap
from modscale.cli.plot import plot_front
from modscale.cli.progress import describe_trial, duration_text
from modscale.errors import one_line
from modscale.runs.metrics import metrics_among

PIPE_WIDTH = 80
"""Columns of a plot where no terminal says how many there are."""
PLOT = (8, 18)
"""Lines of the plot, at the least and at most."""
TABLE = 6
"""Lines of the table that the plot leaves it, if it can."""
LAST = 4
"""Trials that are told of, the last ones."""


def describe_run(
    progress: RunProgress, *, width: int | None, height: int | None, left_s: float | None = None, told: bool = False
) -> list[str]:
    """The lines of a view; less than `height`, and no wider than `width`, where a terminal says so.

    `left_s` is for how long it goes on, where more is known of that than the run's files tell; `told`: each trial has
    been told of already.

    Where there is no room for all of it, there are fewer of the last trials, then less of the table, then no plot.
    """
    head = [line for text in _head(progress, left_s or progress.left_s) for line in wrap(text, width)]
    table = _table(progress, width)
    room = 1000 if height is None else height - 1 - len(head)
    last = _last(progress, width, most=max(room // 6, 3), trials=0 if told else LAST)
    room -= len(last) + 1
    most = PLOT[1] if height is None else min(PLOT[1], room - min(len(table), TABLE) - 2)
    most = PLOT[0] if most < PLOT[0] <= room - 1 else most
    plot = plot_front(progress, width=min(width or PIPE_WIDTH, 100), height=most)
    room -= len(plot) + 1 if plot else 0
    rows = len(progress.front)
    while rows and len(table) >= room:
        rows -= 1
        table = _table(progress, width, rows)
    parts = [part for part in (plot, table, last) if part]
    return [*head, *(line for part in parts for line in ("", *part))]


def _head(progress: RunProgress, left: float | None) -> list[str]:
    states = [trial.state for trial in progress.trials]
    counts = [f"{len(states)} of {progress.limit} trials"]
    counts += [f"{states.count(state)} {state}" for state in ("failed", "stopped") if state in states]
    if wanted := len(progress.experiment.search.references):
        counts.append(f"{progress.references} of {wanted} references")
    state = {True: "running", False: "not running", None: "may be running"}[progress.is_running]
    if progress.is_running and progress.is_over:
        state = "all is measured; the front is timed again and the report written"
    if progress.is_running is False:
        state = "over" if progress.is_over else "stopped; the same search command goes on"
    lines = [f"{progress.folder}: {state}", ", ".join(counts)]
    pace = progress.pace_s
    if pace is not None:
        said = f"{_pace_text(pace)} a trial by the last ones, {duration_text(sum(progress.seconds))} of measuring"
        is_going = progress.is_running is not False and left
        lines.append(f"{said}, about {duration_text(left)} left" if is_going and left is not None else said)
    return lines


def _pace_text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration_text(seconds)


def _table(progress: RunProgress, width: int | None, most: int | None = None) -> list[str]:
    """The front, its first `most` networks if there is no room for all; none where that is none."""
    shown = progress.front[:most]
    if not shown:
        return []
    columns = metrics_among(key for trial in progress.front for key in trial.results)
    bands = {trial.number: [b for b, n in progress.picks.items() if n == trial.number] for trial in progress.front}
    rows = [
        (str(trial.number), *(metric.short(trial.results) for metric in columns), ", ".join(bands[trial.number]))
        for trial in shown
    ]
    headings = [
        Column(heading="trial"),
        *(Column(heading=metric.heading, spare=metric.spare) for metric in columns),
        Column(heading="pick of", is_text=True, may_move=True),
    ]
    title = "The front" if progress.is_over and progress.is_running is False else "The front so far"
    if len(shown) < len(progress.front):
        title = f"{title}, {len(shown)} of {len(progress.front)} networks"
    return lay_out_table(title, headings, rows, width=width)


def _last(progress: RunProgress, width: int | None, *, most: int, trials: int) -> list[str]:
    """What failed, in a line, and the last `trials`, in at most so many lines."""
    reasons: dict[str, list[int]] = {}
    for trial in progress.trials:
        if trial.state == "failed":
            reasons.setdefault(one_line(trial.reason or "no reason recorded"), []).append(trial.number)
    lines = []
    if reasons:
        told = [f"{', '.join(map(str, numbers[-5:]))}: {text}" for text, numbers in reasons.items()]
        text = f"failed: {'; '.join(reversed(told))}"
        lines = [text if width is None or len(text) <= width else f"{text[: width - 3]}..."]
    for trial in reversed(progress.trials[max(len(progress.trials) - trials, 0) :]):
        wrapped = wrap(describe_trial(f"trial {trial.number}", trial), width, indent="    ")
        if len(lines) + len(wrapped) > most:
            break
        lines[bool(reasons) : bool(reasons)] = wrapped
    return lines


def show_once(progress: RunProgress, *, told: bool = False) -> None:
    """One view, on standard output; `told`: after a line for each trial."""
    width = screen_width(sys.stdout)
    print_lines(out, [as_shown(out, line) for line in describe_run(progress, width=width, height=None, told=told)])


def follow(
    folder: Path,
    every: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Shows a run until it ends: a view that is drawn anew in a terminal, elsewhere a line for each finished trial.

    Raises:
        RunError: the folder is no run, or one of its files is broken.
    """
    if not out.is_terminal:
        _tell(folder, every, sleep)
        return
    seen: int | None = None
    first, last = (0.0, 0), (0.0, 0)  # when somebody looking on saw networks finished, and how many there were
    with live_view(out) as show:
        while True:
            progress, left_s = read_progress(folder), None
            if progress is not None:
                finished = len(progress.seconds)
                if seen is not None and finished > seen:
                    last = (clock(), finished)
                    first = first if first[1] else last
                seen = finished
                if last[1] > first[1]:  # as it was seen to go, however many go side by side
                    left_s = (last[0] - first[0]) / (last[1] - first[1]) * progress.to_do
            size = shutil.get_terminal_size()
            width = screen_width(sys.stdout) or size.columns
            waiting = [f"{folder}: a search has begun and measured nothing yet"]
            lines = (
                waiting if progress is None else describe_run(progress, width=width, height=size.lines, left_s=left_s)
            )
            show([as_shown(out, line) for line in lines])
            if progress is not None and _has_ended(progress):
                return
            sleep(every)


def _tell(folder: Path, every: float, sleep: Callable[[float], None]) -> None:
    told = 0
    while True:
        progress = read_progress(folder)
        if progress is not None:
            lines = [describe_trial(f"trial {trial.number}", trial) for trial in progress.trials[told:]]
            told = len(progress.trials)
            print_lines(out, [as_shown(out, line) for line in lines])
            if _has_ended(progress):
                show_once(progress, told=True)
                return
            sys.stdout.flush()
        sleep(every)


def _has_ended(progress: RunProgress) -> bool:
    """Where nobody can tell whether a search is at work, a run ends with its last trial."""
    return progress.is_over if progress.is_running is None else not progress.is_running
