"""A front as a small plot of plain signs: `o` and its number on the front, `+` for comparison, `.` behind it."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.analysis.progress import RunProgress
from modscale.report.chart import fit_scale
from modscale.report.front_chart import is_drawn, plot_axes, point_of
from modscale.runs.metrics import METRICS
from modscale.runs.trials import complete_trials

LABEL = 8
"""Columns for the numbers of the upright axis."""


def plot_front(progress: RunProgress, *, width: int, height: int) -> list[str]:
    """The lines of a plot so many signs wide and high, its axes included; none where there is nothing to draw."""
    x, y = plot_axes(list(progress.experiment.objectives))
    numbers = {trial.number for trial in progress.front}
    behind = [t for t in complete_trials(progress.trials) if t.number not in numbers and is_drawn(t, x, y)]
    front = [t for t in progress.front if is_drawn(t, x, y)]
    beside = [one for one in progress.compared if one.reason is None and is_drawn(one, x, y)]
    marks = [(*point_of(t, x, y), ".", "") for t in behind]
    marks += [(*point_of(one, x, y), "+", one.name[:8]) for one in beside]
    marks += [(*point_of(t, x, y), "o", str(t.number)) for t in front]
    lines = draw(marks, width=width, height=height - 1, logs=(not METRICS[x].task, not METRICS[y].task))
    return [f"{METRICS[y].axis}, against {METRICS[x].axis}", *lines] if lines else []


def draw(
    marks: Sequence[tuple[float, float, str, str]], *, width: int, height: int, logs: tuple[bool, bool] = (True, True)
) -> list[str]:
    """Marks (x, y, sign, name) on axes: of those in one place the last is seen, a name where there is room for it."""
    columns, rows = width - LABEL - 2, height - 2
    if not marks or columns < 10 or rows < 3:
        return []
    none = [0.0] * len(marks)
    across = fit_scale([mark[0] for mark in marks], none, 0, columns - 1, may_log=logs[0])
    up = fit_scale([mark[1] for mark in marks], none, rows - 1, 0, may_log=logs[1])
    grid = [[" "] * columns for _ in range(rows)]
    places = [(round(across.at(x)), round(up.at(y)), sign, name) for x, y, sign, name in marks]
    for column, row, sign, _ in places:
        grid[row][column] = sign
    for column, row, _, name in reversed(places):
        room = grid[row][column + 1 : column + 2 + len(name)]
        if len(room) > len(name) and set(room) <= {" "}:  # and a blank behind it
            grid[row][column + 1 : column + 1 + len(name)] = list(name)
    ticks = {round(at): text for at, text in up.ticks(max(2, rows // 3))}
    lines = [f"{ticks.get(i, ''):>{LABEL}} |{''.join(row)}".rstrip() for i, row in enumerate(grid)]
    foot, figures = ["-"] * columns, [" "] * columns
    for at, text in across.ticks(max(2, columns // 12)):
        column = round(at)
        foot[column] = "+"
        begin = max(0, min(column, columns - len(text)))  # one at the edge ends there
        figures[begin : begin + len(text)] = list(text)
    return [*lines, f"{'':>{LABEL}} +{''.join(foot)}", f"{'':>{LABEL}}  {''.join(figures)}".rstrip()]
