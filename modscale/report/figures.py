"""The report's figures, drawn off-screen by matplotlib: the front of a run, and the reading of its design space."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from modscale.analysis.comparison import Compared
from modscale.analysis.design_reading import DesignReading, ParameterReading, is_number, learnt_split, split_noun
from modscale.analysis.front import Front
from modscale.errors import printable
from modscale.report.chart import LOG_RATIO, staircase
from modscale.report.front_chart import MOST_NUMBERS, is_drawn, plot_axes, point_of
from modscale.report.references import reference_kind
from modscale.runs.metrics import METRICS, Z95, is_doubtful
from modscale.runs.trials import Trial

COLOURS = {
    "front": "#0b5fa5",
    "dominated": "#9aa4ae",
    "reference": "#c2410c",
    "rival": "#7e22ce",
    "ink": "#1f2933",
    "grid": "#e5e9ed",
}
MOST_MARKS = 2000
"""Dominated trials up to which they are drawn as shapes; beyond it as one picture inside the SVG."""
MOST_PARAMETERS = 24
"""Parameters in the plot of the design reading, the most important first."""
RUN_COLOURS = ("#0b5fa5", "#b93a09", "#7e22ce", "#0f766e", "#a3195b", "#6b5900")
RUN_MARKS = "o^so^s"
"""Of runs that are laid over each other, as a page has them."""
LEGEND_COLUMNS = 4
LEGEND_ROW = 16
"""Height of one row, points."""
METRIC_COLOURS = ("#0b5fa5", "#c2410c", "#7e22ce", "#0f766e", "#a3195b", "#6b5900")
DPI = 150
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"], "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["ink"], "ytick.color": COLOURS["ink"], "axes.axisbelow": True, "legend.frameon": False,
    "svg.hashsalt": "modscale", "svg.fonttype": "none",
    "figure.facecolor": "white", "savefig.facecolor": "white", "text.parse_math": False,
}  # fmt: skip
DARK: Any = {
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color", "axes.edgecolor"), "#e4e9ee"),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "#1b232b"),
}
"""Of a figure of photographs, on a page that is dark: ink and card of `style.css.j2`, where others are inverted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure in the two forms the report needs."""

    png: bytes
    """For `pareto.png` and Markdown."""
    svg: str
    """For the HTML page."""


def draw_front(front: Front, compared: Sequence[Compared], objectives: Mapping[str, str], *, title: str) -> Picture:
    """The front with 95 % intervals, dominated trials behind it, what it is compared with; what is in doubt crossed.

    A trial or reference without a value on one of the axes is left out; a rival without one is a line across the plot.
    """
    x, y = plot_axes(list(objectives))
    with open_figure(8.4, 5.4) as figure:
        axes = figure.subplots()
        members = [t for t in front.members if is_drawn(t, x, y)]
        dominated = [t for t in front.dominated if is_drawn(t, x, y)]
        shown = [t for t in compared if t.rival is None and is_drawn(t, x, y)]
        rivals = [t for t in compared if t.rival is not None and is_drawn(t, x, y)]
        tied = {number for numbers in front.ties.values() for number in numbers}
        near = [t for t in dominated if t.number in tied]
        far = [t for t in dominated if t.number not in tied]
        _dots(axes, far, x, y, "dominated", facecolor=COLOURS["dominated"], alpha=0.75)
        _dots(axes, near, x, y, "dominated, tied with the front", facecolor="white", edgecolor=COLOURS["front"])
        if len(objectives) == 2 and members:
            points = staircase([point_of(t, x, y) for t in members], falls_to_left=objectives[x] == "maximize")
            axes.plot(*zip(*points, strict=True), color=COLOURS["front"], lw=1.2, alpha=0.6, zorder=2)
        _with_intervals(axes, members, x, y, "front", marker="o", label="Pareto front, 95 % intervals")
        _with_intervals(axes, shown, x, y, "reference", marker="D", label=reference_kind(compared))
        as_stated = ", accuracy as stated" if "accuracy" in (x, y) else ""
        _with_intervals(axes, rivals, x, y, "rival", marker="s", label=f"rival{as_stated}")
        _lines_across(axes, compared, x, y)
        every: list[Trial | Compared] = [*members, *dominated, *shown, *rivals]
        in_doubt = [t for t in every if any(is_doubtful(METRICS[m], t.results) for m in (x, y))]
        _crosses(axes, in_doubt, x, y)
        for axis, metric in (("x", x), ("y", y)):
            _scale(axes, axis, every, metric)
        axes.grid(color=COLOURS["grid"], lw=0.8)
        axes.margins(0.07)
        rows = 0
        if every:
            rows = _legend_above(axes)
        else:
            axes.text(0.5, 0.5, "no complete trial", transform=axes.transAxes, ha="center", va="center")
            axes.set(xticks=[], yticks=[])
        title = printable(title)
        title = title if len(title) <= 90 else f"{title[:89]}\u2026"
        axes.set_title(title, loc="left", fontsize=11, pad=12 + LEGEND_ROW * rows)
        labels = [(t, _front_label(t, front), COLOURS["front"]) for t in members]
        if len(members) > MOST_NUMBERS:
            labels = [label for label in labels if front.bands_of(label[0].number)]
        named = [(*point_of(t, x, y), text, colour) for t, text, colour in labels]
        named += [(*point_of(t, x, y), printable(t.name)[:24], COLOURS["reference"]) for t in shown]
        named += [(*point_of(t, x, y), printable(t.name)[:24], COLOURS["rival"]) for t in rivals]
        place_labels(figure, axes, named)
        return render_figure(figure)


def draw_fronts(fronts: Sequence[Sequence[Trial]], names: Sequence[str], objectives: Sequence[str]) -> Picture:
    """The fronts of several runs with 95 % intervals, a colour and a mark each."""
    x, y = plot_axes(objectives)
    with open_figure(8.4, 5.4) as figure:
        axes = figure.subplots()
        every = [[t for t in front if is_drawn(t, x, y)] for front in fronts]
        for i, (front, name) in enumerate(zip(every, names, strict=True)):
            _with_intervals(axes, front, x, y, RUN_COLOURS[i], marker=RUN_MARKS[i], label=printable(name)[:40])
            if len(objectives) == 2 and front:
                is_larger_better = METRICS[x].direction == "maximize"
                points = staircase([point_of(t, x, y) for t in front], falls_to_left=is_larger_better)
                axes.plot(*zip(*points, strict=True), color=RUN_COLOURS[i], lw=1.2, alpha=0.6, zorder=2)
        for axis, metric in (("x", x), ("y", y)):
            _scale(axes, axis, [t for front in every for t in front], metric)
        axes.grid(color=COLOURS["grid"], lw=0.8)
        axes.margins(0.07)
        if any(every):
            _legend_above(axes)
        return render_figure(figure)


def draw_reading(reading: DesignReading) -> Picture:
    """Left, each parameter's importance with its 90 % interval and what chance gives; right, where the halves lie.

    The right shows the middle 80 % and the median of the better and the worse half along each parameter's own range,
    thin lines reaching as far as the 90 % intervals of its ends do; options that are no numbers stand as text.
    """
    parameters = reading.parameters[:MOST_PARAMETERS]
    metrics = list(parameters[0].importance) if parameters else []
    split = learnt_split(reading)
    step = min(0.17, 0.68 / max(len(metrics), 1))
    with open_figure(8.4, 1.5 + max(0.42, 0.14 * len(metrics)) * max(len(parameters), 2)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for k, metric in enumerate(metrics):
            colour = METRIC_COLOURS[k % len(METRIC_COLOURS)]
            lift = step * (k - (len(metrics) - 1) / 2)
            shares = [p.importance[metric].share for p in parameters]
            centre = np.array([100 * s.value for s in shares])
            reach = np.array([[100 * (s.value - s.low) for s in shares], [100 * (s.high - s.value) for s in shares]])
            rows = np.arange(len(parameters)) + lift
            left.errorbar(
                centre, rows, xerr=reach, fmt="o", ms=5, color=colour, elinewidth=1.4, capsize=2,
                label=METRICS[metric].noun,
            )  # fmt: skip
            left.scatter(
                [100 * min(p.importance[metric].chance, 1.0) for p in parameters], rows, marker="|", s=60, zorder=1,
                color=colour, alpha=0.45, label="by chance" if k == 0 else None,
            )  # fmt: skip
        for row, parameter in enumerate(parameters):
            _draw_halves(right, row, parameter, split)
        left.set_yticks(np.arange(len(parameters)), [printable(p.name) for p in parameters], fontsize=8.5)
        left.set_ylim(len(parameters) - 0.4, -0.6)
        left.set_xlim(left=0)
        left.set_xlabel("importance, % of all parameters, 90 % intervals", fontsize=9)
        left.grid(color=COLOURS["grid"], lw=0.8)
        right.set_xlim(-0.12, 1.12)
        right.set_xticks([])
        right.spines[["bottom", "left"]].set_visible(False)
        right.tick_params(axis="y", length=0)
        by = split_noun(split)
        right.set_xlabel(f"halves by {by}: middle 80 %, median", fontsize=9)
        for label, colour in (("better half", COLOURS["front"]), ("worse half", COLOURS["dominated"])):
            right.plot([], [], color=colour, marker="o", ms=5, lw=3, label=label)
        for axes in (left, right):
            if metrics or axes is right:
                axes.legend(
                    loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2 if len(metrics) > 2 else 3, fontsize=8.5,
                    handletextpad=0.4,
                )  # fmt: skip
        return render_figure(figure)


def _draw_halves(axes: Axes, row: int, parameter: ParameterReading, split: str) -> None:
    halves = ((parameter.worse[split], 0.13, "dominated"), (parameter.better[split], -0.13, "front"))
    if not is_number(parameter):
        for half, lift, colour in halves:
            shares = sorted((half.shares or {}).items(), key=lambda item: -item[1].value)[:3]
            text = ", ".join(f"{printable(label)[:14]} {100 * share.value:.0f} %" for label, share in shares)
            axes.text(
                0, row + 1.3 * lift, text, fontsize=7.5, va="center", color=COLOURS[colour] if lift < 0 else "#5d6873"
            )
        return
    numbers = sorted(float(option) for option in parameter.options)
    span = numbers[-1] - numbers[0]
    axes.plot([0, 1], [row, row], color=COLOURS["grid"], lw=1, zorder=0)
    axes.text(-0.02, row, f"{numbers[0]:g}", fontsize=7.5, ha="right", va="center")
    axes.text(1.02, row, f"{numbers[-1]:g}", fontsize=7.5, ha="left", va="center")
    for half, lift, colour in halves:
        if half.low is not None and half.median is not None and half.high is not None:
            ends = (half.low.low, half.low.value, half.median.value, half.high.value, half.high.high)
            outer, low, median, high, outermost = ((end - numbers[0]) / span for end in ends)
            axes.plot([outer, outermost], [row + lift] * 2, color=COLOURS[colour], lw=1, alpha=0.75)
            axes.plot([low, high], [row + lift] * 2, color=COLOURS[colour], lw=3, alpha=0.75, solid_capstyle="round")
            axes.plot([median], [row + lift], marker="o", ms=5, color=COLOURS[colour])


@contextmanager
def open_figure(width: float, height: float, *, dark: bool = False) -> Iterator[Figure]:
    """A figure of this size in inches, in the report's style, with an off-screen canvas."""
    with mpl.rc_context({**STYLE, **DARK} if dark else STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks is drawn as boxes
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def render_figure(figure: Figure) -> Picture:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png")
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(png=png.getvalue(), svg=svg.getvalue())


def _dots(axes: Axes, trials: Sequence[Trial | Compared], x: str, y: str, label: str, **style: Any) -> None:
    if trials:
        points = np.array([point_of(t, x, y) for t in trials])
        size = 26 if len(trials) <= 200 else 8
        many = len(trials) > MOST_MARKS
        style = {"edgecolor": "none", "linewidth": 1.1, **style}
        axes.scatter(points[:, 0], points[:, 1], s=size, zorder=1.5, label=label, rasterized=many, **style)


def _with_intervals(
    axes: Axes, trials: Sequence[Trial | Compared], x: str, y: str, colour: str, *, marker: str, label: str
) -> None:
    if trials:
        points = np.array([point_of(t, x, y) for t in trials])
        half = np.array(
            [[Z95 * METRICS[m].standard_error(t.results) * METRICS[m].axis_factor for t in trials] for m in (x, y)]
        )
        axes.errorbar(
            points[:, 0], points[:, 1], xerr=half[0], yerr=half[1], fmt=marker, color=COLOURS.get(colour, colour),
            ms=6.5, elinewidth=1, capsize=2, alpha=0.95, zorder=3, label=label, mec="white", mew=0.6,
        )  # fmt: skip


def _lines_across(axes: Axes, compared: Sequence[Compared], x: str, y: str) -> None:
    """A line for each rival that has a value on one axis alone, with its name along it."""
    label: str | None = "rival, no accuracy stated" if "accuracy" in (x, y) else "rival, the rest not counted"
    for one in compared:
        if one.rival is None or one.reason is not None or (one.value(x) is None) == (one.value(y) is None):
            continue
        style: Any = {
            "color": COLOURS["rival"],
            "lw": 1.1,
            "ls": (0, (5, 3)),
            "alpha": 0.8,
            "zorder": 1.2,
            "label": label,
        }
        ink: Any = {"fontsize": 8.5, "color": COLOURS["rival"]}
        name, label = printable(one.name)[:24], None
        if (at := one.value(x)) is not None:
            at *= METRICS[x].axis_factor
            axes.axvline(at, **style)
            place: Any = {"xy": (at, 0.01), "xycoords": ("data", "axes fraction"), "xytext": (-3, 0), "rotation": 90}
            axes.annotate(name, **place, textcoords="offset points", ha="right", va="bottom", **ink)
        elif (at := one.value(y)) is not None:
            at *= METRICS[y].axis_factor
            axes.axhline(at, **style)
            place = {"xy": (0.99, at), "xycoords": ("axes fraction", "data"), "xytext": (0, 3)}
            axes.annotate(name, **place, textcoords="offset points", ha="right", va="bottom", **ink)


def _crosses(axes: Axes, trials: Sequence[Trial | Compared], x: str, y: str) -> None:
    """Over the marks of trials whose place is in doubt."""
    if trials:
        points = np.array([point_of(t, x, y) for t in trials])
        axes.scatter(
            points[:, 0], points[:, 1], marker="x", s=60, lw=1.1, color=COLOURS["ink"], zorder=3.5, label="in doubt"
        )


def _scale(axes: Axes, axis: str, trials: Sequence[Trial | Compared], metric: str) -> None:
    """Label and scale of one axis: logarithmic where the values span more than `LOG_RATIO`."""
    label, factor = METRICS[metric].axis, METRICS[metric].axis_factor
    values = [(t.value(metric) or 0.0) * factor for t in trials]
    getattr(axes, f"set_{axis}label")(label)
    if not METRICS[metric].task and values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        getattr(axes, f"set_{axis}scale")("log")
        which = getattr(axes, f"{axis}axis")
        which.set_major_locator(LogLocator(subs=(1, 2, 5)))
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        which.set_minor_formatter(NullFormatter())


def _legend_above(axes: Axes) -> int:
    """Draws it between the axes and the title; returns its rows."""
    handles, labels = axes.get_legend_handles_labels()
    first = sorted(range(len(labels)), key=lambda i: (not labels[i].startswith("Pareto"), i))
    axes.legend(
        [handles[i] for i in first],
        [labels[i] for i in first],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=LEGEND_COLUMNS,
        fontsize=8.5,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    return ceil(len(labels) / LEGEND_COLUMNS)


def _front_label(trial: Trial, front: Front) -> str:
    bands = ", ".join(front.bands_of(trial.number))[:40]
    return f"{trial.number} ({bands})" if bands else str(trial.number)


def place_labels(figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes each label beside its point, on the side where it covers least of the points and the other labels."""
    if not labels:
        return
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # the Agg canvas has one
    points = axes.transData.transform([(x, y) for x, y, _, _ in labels])
    taken = [Bbox.from_bounds(px - 9, py - 9, 18, 18) for px, py in points]
    frame = axes.get_window_extent(renderer)
    for x, y, text, colour in labels:
        best, best_cost = None, float("inf")
        for dx, dy, ha, va in _SIDES:
            label = axes.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5, color=colour, zorder=4,
                annotation_clip=False, path_effects=[Stroke(linewidth=2.2, foreground="white"), Normal()],
            )  # fmt: skip
            box = label.get_window_extent(renderer)
            cost = sum(_overlap(box, other) for other in taken) + box.width * box.height - _overlap(box, frame)
            if cost < best_cost - 1e-6:
                if best is not None:
                    best.remove()
                best, best_cost = label, cost
            else:
                label.remove()
        if best is not None:
            taken.append(best.get_window_extent(renderer))


_SIDES = (
    (6, 5, "left", "bottom"), (6, -5, "left", "top"), (-6, 5, "right", "bottom"), (-6, -5, "right", "top"),
    (0, 12, "center", "bottom"), (0, -12, "center", "top"), (13, 0, "left", "center"), (-13, 0, "right", "center"),
    (14, 14, "left", "bottom"), (14, -14, "left", "top"), (-14, 14, "right", "bottom"), (-14, -14, "right", "top"),
)  # fmt: skip


def _overlap(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return float(both.width * both.height) if both is not None else 0.0
