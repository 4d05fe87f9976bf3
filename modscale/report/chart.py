"""A chart of points on two axes, laid out in pixels for an SVG in a page; `chart.html.j2` draws it.

Nothing here is text of a page: a template escapes every label. Colours and marks are the style sheet's, by `kind`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from operator import add, sub

LOG_RATIO = 12
"""Largest over smallest value from which an axis is logarithmic."""
CHARACTER = 6.8
"""Width of a character of a label, pixels, on the safe side."""
LINE = 13
"""Height of a label, pixels."""
CLEAR = 7
"""Half of the square about a point that labels keep off, pixels."""
GRAIN = 2
"""Points that none can ask about are drawn once on each square of this side, pixels."""
PAD = 0.05
"""Share of an axis that is left free at either end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point to be drawn, in the axes' units."""

    kind: str
    """A class of the style sheet."""
    x: float
    y: float
    x_error: float = 0.0
    """Half of its 95 % interval; 0 draws none."""
    y_error: float = 0.0
    key: str = ""
    """By which its row in a table is found; empty: it is a dot among others."""
    label: str = ""
    """Written beside it; empty: nothing is."""
    title: str = ""
    """What is told of it where one points at it."""
    is_doubtful: bool = False
    """Whether it is crossed out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """From the values of an axis to pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    is_log: bool = False

    def at(self, value: float) -> float:
        if self.is_log:
            share = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Pixel and text of at most about so many round values."""
        values = _log_ticks(self.low, self.high) if self.is_log else _round_ticks(self.low, self.high, most)
        return [(self.at(value), f"{value:.10g}") for value in values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A mark on the page, in pixels."""

    mark: Mark
    x: float
    y: float
    left: float
    """The ends of its intervals."""
    right: float
    top: float
    bottom: float
    has_bars: bool
    text_x: float = 0.0
    """Where its label begins, ends or has its middle, by `anchor`."""
    text_y: float = 0.0
    """The label's base line."""
    anchor: str = "start"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Everything of one chart in pixels."""

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float
    """The frame."""
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    points: Sequence[Placed]
    """The ones that have a key."""
    dots: Sequence[tuple[str, str]]
    """Kind and path of all others."""
    stairs: Sequence[tuple[str, str]]
    """Kind and points of each line."""
    across: Sequence[tuple[str, float]] = ()
    """Name and x of lines from top to bottom."""
    along: Sequence[tuple[str, float]] = ()
    """Name and y of lines from left to right."""


def lay_out(
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    width: int,
    height: int,
    stairs: Iterable[tuple[str, Sequence[tuple[float, float]]]] = (),
    across: Sequence[tuple[str, float]] = (),
    along: Sequence[tuple[str, float]] = (),
    logs: tuple[bool, bool] = (True, True),
    reach: Sequence[tuple[float, float]] = (),
) -> Chart:
    """A chart of this size; `logs` says of each axis whether it may be logarithmic, where its values are far apart.

    `stairs` are lines through points with a kind each, `across` and `along` names at an x or a y, `reach` what lies on
    the chart besides the marks.
    """
    left, top, right, bottom = 52.0, 12.0, width - 14.0, height - 46.0
    xs = [m.x for m in marks] + [at for _, at in across] + [at for at, _ in reach]
    ys = [m.y for m in marks] + [at for _, at in along] + [at for _, at in reach]
    x = fit_scale(xs, [m.x_error for m in marks], left, right, may_log=logs[0])
    y = fit_scale(ys, [m.y_error for m in marks], bottom, top, may_log=logs[1])
    placed = [_place(mark, x, y) for mark in marks if mark.key]
    return Chart(
        width=width, height=height, left=left, top=top, right=right, bottom=bottom, x_label=x_label, y_label=y_label,
        x_ticks=x.ticks(max(3, width // 90)),
        y_ticks=y.ticks(max(3, height // 60)),
        points=_with_labels(placed, (left, top, right, bottom)),
        dots=_dots([mark for mark in marks if not mark.key], x, y),
        stairs=[(kind, " ".join(f"{x.at(a):g},{y.at(b):g}" for a, b in line)) for kind, line in stairs],
        across=[(name, x.at(at)) for name, at in across],
        along=[(name, y.at(at)) for name, at in along],
    )  # fmt: skip


def staircase(points: Iterable[tuple[float, float]], *, falls_to_left: bool) -> list[tuple[float, float]]:
    """The border of what a front's points dominate, from its best x on: along x, then to the next point's y.

    `falls_to_left`: the larger x is the better one.
    """
    ordered = sorted(points, reverse=falls_to_left)
    line = ordered[:1]
    for x, y in ordered[1:]:
        line += [(x, line[-1][1]), (x, y)]
    return line


def fit_scale(values: Sequence[float], errors: Sequence[float], start: float, end: float, *, may_log: bool) -> Scale:
    """With room for the intervals of the first so many values."""
    if not values:
        return Scale(low=0.0, high=1.0, start=start, end=end)
    high = max([*values, *map(add, values, errors)])
    ends = [*values, *map(sub, values, errors)]
    if may_log and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        low = min(one for one in ends if one > min(values) / 10)
        room = (high / low) ** PAD
        return Scale(low=low / room, high=high * room, start=start, end=end, is_log=True)
    low = min(ends)
    room = (high - low) * PAD or abs(high) * PAD or 1.0
    return Scale(low=low - room, high=high + room, start=start, end=end)


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    least = (high - low) / most
    power = 10.0 ** floor(log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return [round(i * step, 12) for i in range(ceil(low / step), floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def _place(mark: Mark, x: Scale, y: Scale) -> Placed:
    return Placed(
        mark=mark,
        x=x.at(mark.x),
        y=y.at(mark.y),
        left=x.at(mark.x - mark.x_error if not x.is_log else max(mark.x - mark.x_error, x.low)),
        right=x.at(mark.x + mark.x_error),
        top=y.at(mark.y + mark.y_error),
        bottom=y.at(mark.y - mark.y_error if not y.is_log else max(mark.y - mark.y_error, y.low)),
        has_bars=mark.x_error > 0 or mark.y_error > 0,
    )


def _dots(marks: Sequence[Mark], x: Scale, y: Scale) -> list[tuple[str, str]]:
    """A path a kind: a dot is a line of no length with a round end."""
    cells: dict[str, dict[tuple[int, int], None]] = {}
    for mark in marks:
        cell = round(x.at(mark.x) / GRAIN), round(y.at(mark.y) / GRAIN)
        cells.setdefault(mark.kind, {})[cell] = None
    return [(kind, "".join(f"M{GRAIN * a} {GRAIN * b}h0" for a, b in found)) for kind, found in cells.items()]


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
_SIDES = (
    (9, -5, "start"), (9, 13, "start"), (-9, -5, "end"), (-9, 13, "end"), (0, -11, "middle"), (0, 20, "middle"),
    (12, 4, "start"), (-12, 4, "end"), (14, -15, "start"), (14, 24, "start"), (-14, -15, "end"), (-14, 24, "end"),
    (-16, -28, "end"), (16, 37, "start"), (-30, -42, "end"), (30, 50, "start"),
)  # fmt: skip


def _with_labels(points: Sequence[Placed], frame: Box) -> list[Placed]:
    """Each label on the side of its point where it covers least of the points and of the other labels.

    Those that have one come last, so that no other point is drawn over it.
    """
    taken = [(p.x - CLEAR, p.y - CLEAR, p.x + CLEAR, p.y + CLEAR) for p in points]
    done = []
    for point in sorted(points, key=lambda one: bool(one.mark.label)):
        if not point.mark.label:
            done.append(point)
            continue
        tries = [replace(point, text_x=point.x + dx, text_y=point.y + dy, anchor=anchor) for dx, dy, anchor in _SIDES]
        boxes = [_label_box(one) for one in tries]
        costs = [sum(_overlap(box, other) for other in taken) + _area(box) - _overlap(box, frame) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        done.append(tries[best])
    return done


def _label_box(point: Placed) -> Box:
    width = CHARACTER * len(point.mark.label)
    left = point.text_x - {"start": 0.0, "middle": width / 2, "end": width}[point.anchor]
    return left, point.text_y - LINE + 3, left + width, point.text_y + 3


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
