"""The fronts of runs as charts for a page: which points, lines and labels stand where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modscale.analysis.comparison import Compared
from modscale.analysis.front import Front
from modscale.report.chart import Chart, Mark, lay_out, staircase
from modscale.report.table import Row
from modscale.runs.metrics import METRICS, Z95, is_doubtful
from modscale.runs.trials import Trial

SIZES = {"wide": (980, 470), "narrow": (380, 420)}
"""Width and height of each form, pixels; a page shows the one that fits."""
MOST_NUMBERS = 14
"""Front trials up to which each is labelled with its number; beyond it only the picks are."""
LABEL = 22
"""Characters of a label at most."""


def plot_axes(objectives: Sequence[str]) -> tuple[str, str]:
    """The metrics on the x and the y axis: the first two objectives, what is learnt upwards, or one against size."""
    if len(objectives) == 1:
        only = objectives[0]
        return ("flops" if only == "params" else "params", only)
    first, second = objectives[:2]
    return (first, second) if METRICS[second].task else (second, first)


def front_charts(
    front: Front, compared: Sequence[Compared], objectives: Mapping[str, str], rows: Mapping[str, Row]
) -> dict[str, Chart]:
    """A run's front in each of `SIZES`; what has a row (by key) can be asked about, all else is a dot."""
    x, y = plot_axes(list(objectives))
    tied = {number for numbers in front.ties.values() for number in numbers}
    marks = [
        _mark(t, x, y, kind="near" if t.number in tied else "far", key=f"t{t.number}", rows=rows, with_bars=False)
        for t in front.dominated
        if is_drawn(t, x, y)
    ]
    for t in front.members:
        if is_drawn(t, x, y):
            bands = ", ".join(front.bands_of(t.number))
            label = f"{t.number} ({bands})" if bands else str(t.number)
            is_labelled = bool(bands) or len(front.members) <= MOST_NUMBERS
            marks.append(
                _mark(t, x, y, kind="front", key=f"t{t.number}", rows=rows, label=label if is_labelled else "")
            )
    for i, one in enumerate(compared):
        if is_drawn(one, x, y):
            kind = "reference" if one.rival is None else "rival"
            marks.append(_mark(one, x, y, kind=kind, key=f"r{i}", rows=rows, label=one.name))
    members = [point_of(t, x, y) for t in front.members if is_drawn(t, x, y)]
    line = staircase(members, falls_to_left=METRICS[x].direction == "maximize") if len(objectives) == 2 else []
    return charts(marks, x, y, stairs=[("front", line)] if line else [], lines=_lines(compared, x, y))


def charts(
    marks: Sequence[Mark],
    x: str,
    y: str,
    *,
    stairs: Sequence[tuple[str, Sequence[tuple[float, float]]]] = (),
    lines: Mapping[str, Sequence[tuple[str, float]]] | None = None,
) -> dict[str, Chart]:
    """Marks on the axes of two metrics, in each of `SIZES`."""
    texts: dict[str, Any] = {"x_label": METRICS[x].axis, "y_label": METRICS[y].axis, "stairs": stairs, **(lines or {})}
    logs = (not METRICS[x].task, not METRICS[y].task)
    return {name: lay_out(marks, width=w, height=h, logs=logs, **texts) for name, (w, h) in SIZES.items()}


def make_mark(
    one: Trial | Compared, x: str, y: str, *, kind: str, key: str, title: str, label: str = "", with_bars: bool = True
) -> Mark:
    """A network as a point; without a title it has no row, and no key."""
    errors = [Z95 * METRICS[m].standard_error(one.results) * METRICS[m].axis_factor for m in (x, y)]
    return Mark(
        kind=kind,
        x=_at(one, x),
        y=_at(one, y),
        x_error=errors[0] if with_bars else 0.0,
        y_error=errors[1] if with_bars else 0.0,
        key=key if title else "",
        label=label[:LABEL],
        title=title,
        is_doubtful=any(is_doubtful(METRICS[m], one.results) for m in (x, y)),
    )


def is_drawn(one: Trial | Compared, x: str, y: str) -> bool:
    """Whether it has a value on both axes."""
    return one.value(x) is not None and one.value(y) is not None


def _mark(one: Trial | Compared, x: str, y: str, *, key: str, rows: Mapping[str, Row], **style: Any) -> Mark:
    return make_mark(one, x, y, key=key, title=rows[key].title if key in rows else "", **style)


def point_of(one: Trial | Compared, x: str, y: str) -> tuple[float, float]:
    """Its place in the axes' units."""
    return _at(one, x), _at(one, y)


def _at(one: Trial | Compared, metric: str) -> float:
    return (one.value(metric) or 0.0) * METRICS[metric].axis_factor


def _lines(compared: Sequence[Compared], x: str, y: str) -> dict[str, list[tuple[str, float]]]:
    """What has a value on one axis alone: lines `across` the chart at an x, or `along` it at a y, with its name."""
    found: dict[str, list[tuple[str, float]]] = {"across": [], "along": []}
    for one in compared:
        if one.rival is None or one.reason is not None or (one.value(x) is None) == (one.value(y) is None):
            continue
        way, metric = ("along", y) if one.value(x) is None else ("across", x)
        found[way].append((one.name[:LABEL], _at(one, metric)))
    return found
