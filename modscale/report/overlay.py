"""The report of several runs laid over each other: `report.html`, `report.md`, `fronts.png` and `comparison.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modscale import __version__
from modscale.analysis.comparison import Compared
from modscale.analysis.overlay import Overlay
from modscale.errors import InputError, RunError
from modscale.files import write_whole
from modscale.kinds import what_is
from modscale.report.chart import Mark, staircase
from modscale.report.figures import draw_fronts
from modscale.report.front_chart import MOST_NUMBERS, charts, is_drawn, make_mark, plot_axes, point_of
from modscale.report.pages import render_page, to_json
from modscale.report.references import numbers_text, reference_kind
from modscale.report.table import Cell, Column, Row, metric_cells, metric_column, title_of, told
from modscale.runs.metrics import METRICS, Metric, doubts_text, metric_text, metrics_among
from modscale.runs.trials import Trial, complete_trials
from modscale.specs.published import is_published
from modscale.specs.spec import architecture_text

DOCUMENT = "comparison.json"
"""By which a folder of such a report is known."""
MOST_ROWS = 60
"""Front trials of each run that the table lists."""
FILES = ("report.html", "report.md", "fronts.png", DOCUMENT)


def write_overlay(overlay: Overlay, folder: Path) -> dict[str, Any]:
    """Writes the report into `folder`; returns the content of `comparison.json`.

    Raises:
        RunError: the folder is of something else.
        InputError: it cannot be written.
    """
    kind = what_is(folder)
    if not (folder / DOCUMENT).is_file() and (kind is not None or any((folder / name).exists() for name in FILES)):
        what = "holds a report of something else" if kind is None else f"is {kind.text}"
        raise RunError(f"{what}; give another --out", file=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=folder) from error
    context = _context(overlay)
    document = overlay_to_json(overlay) | {"headline": context["headline"]}
    objectives = list(overlay.objectives)
    write_whole(folder / "fronts.png", draw_fronts(overlay.fronts, overlay.names, objectives).png)
    write_whole(folder / "report.md", render_page("overlay.md.j2", context, MOST_ROWS))
    write_whole(folder / "report.html", render_page("overlay.html.j2", context, MOST_ROWS))
    write_whole(folder / DOCUMENT, to_json(document))
    return document | {"files": {name: str(folder / name) for name in FILES}}


def overlay_to_json(overlay: Overlay) -> dict[str, Any]:
    """What the runs come to, by name and number."""
    return {
        "runs": [
            {
                "name": name,
                "folder": str(run.folder),
                "trials": len(run.trials),
                "front": [trial.number for trial in front],
                "hypervolume_share": overlay.volumes[i] if overlay.volumes else None,
            }
            for i, (run, name, front) in enumerate(zip(overlay.runs, overlay.names, overlay.fronts, strict=True))
        ],
        "objectives": dict(overlay.objectives),
        "not_comparable": dict(overlay.odd),
        "front": [{"run": overlay.names[i], "trial": number} for i, number in sorted(overlay.joint)],
        "reference_point": dict(overlay.reference),
    }


def _headline(overlay: Overlay) -> str:
    nouns = [METRICS[metric].noun for metric in overlay.odd]
    if nouns:
        verb = "is" if len(nouns) == 1 else "are"
        return (
            f"The {' and the '.join(nouns)} of these runs {verb} not comparable, so there is no front of all of them."
        )
    counts = [sum(i == k for i, _ in overlay.joint) for k in range(len(overlay.names))]
    parts = [f"{count} of {name}" for name, count in zip(overlay.names, counts, strict=True)]
    whole = f"Of the {len(overlay.joint)} networks on the front of all, {_listed(parts)} are there."
    shares = [f"{name} {100 * share:.0f} %" for name, share in zip(overlay.names, overlay.volumes, strict=True)]
    return f"{whole} Of the hypervolume of all, {_listed(shares)} is covered by each alone."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _context(overlay: Overlay) -> dict[str, Any]:
    known = [key for run in overlay.runs for metric in run.columns for key in (metric.name,)]
    columns = metrics_among([*overlay.objectives, *known])
    rows = [row for i in range(len(overlay.runs)) for row in _rows(overlay, i, columns)]
    shown = {row.key: row for row in rows}
    references = [one for run in overlay.runs for one in run.compared]
    legend = [(f"run{i}", name) for i, name in enumerate(overlay.names)]
    if any(row.kind == "compared" for row in rows):
        legend.append(("reference", reference_kind(references)))
    results = [trial.results for run in overlay.runs for trial in complete_trials(run.trials)]
    return {
        "version": __version__,
        "title": " + ".join(overlay.names),
        "headline": _headline(overlay),
        "odd": [f"The {METRICS[metric].noun} is not comparable: {why}" for metric, why in overlay.odd.items()],
        "runs": [_about(overlay, i) for i in range(len(overlay.runs))],
        "table": {"columns": _columns(overlay, columns), "rows": rows},
        "kinds": [
            *((f"run{i}", name) for i, name in enumerate(overlay.names)),
            *([("compared", "for comparison")] if any(row.kind == "compared" for row in rows) else []),
        ],
        "charts": _charts(overlay, shown),
        "legend": legend,
        "reference_point": [f"{METRICS[m].noun} {metric_text(m, v)}" for m, v in overlay.reference.items()],
        "doubts": list(filter(None, (doubts_text(metric, results) for metric in columns))),
        "plot_text": f"The fronts of {_listed(overlay.names)}, and the dominated trials behind them",
    }


def _about(overlay: Overlay, i: int) -> dict[str, Any]:
    run = overlay.runs[i]
    data = run.document.get("data")
    return {
        "name": overlay.names[i],
        "kind": f"run{i}",
        "space": run.experiment.space.name,
        "data": str(data.get("name", "not recorded")) if isinstance(data, dict) else "not recorded",
        "trials": f"{len(complete_trials(run.trials))} of {len(run.trials)}",
        "front": str(len(overlay.fronts[i])),
        "joint": str(sum(k == i for k, _ in overlay.joint)) if overlay.joint else "",
        "share": f"{100 * overlay.volumes[i]:.1f} %" if overlay.volumes else "",
        "started": str(run.document.get("started", "not recorded")),
    }


def _columns(overlay: Overlay, columns: Sequence[Metric]) -> list[Column]:
    chance = Column(
        name="P(on front)", is_number=True, first="descending", style="n",
        help="probability of being on the front of all, given the noise",
    )  # fmt: skip
    return [
        Column(name="network", style="name"),
        Column(name="run"),
        Column(name="standing", style="ties"),
        *map(metric_column, columns),
        *([chance] if overlay.joint else []),
        Column(name="band"),
        Column(name="width × blocks + attention", style="arch"),
    ]


def _rows(overlay: Overlay, i: int, columns: Sequence[Metric]) -> list[Row]:
    rows = [_trial_row(overlay, i, trial, columns) for trial in overlay.fronts[i][:MOST_ROWS]]
    for k, one in enumerate(overlay.runs[i].compared):
        if one.reason is None:
            rows.append(_compared_row(overlay, i, k, one, columns))
    return rows


def _trial_row(overlay: Overlay, i: int, trial: Trial, columns: Sequence[Metric]) -> Row:
    me, name = (i, trial.number), f"{overlay.names[i]} {trial.number}"
    metrics, architecture = metric_cells(trial, columns), architecture_text(trial.spec)
    chance = overlay.probability.get(me, 0.0)
    return Row(
        key=_key(i, trial.number),
        kind=f"run{i}",
        cells=(
            Cell(text=f"trial {trial.number}"),
            Cell(text=overlay.names[i]),
            Cell(text=_standing(overlay, me)),
            *metrics,
            *([Cell(text=f"{100 * chance:.0f} %", value=f"{chance:.4f}")] if overlay.joint else []),
            Cell(text=", ".join(overlay.runs[i].front.bands_of(trial.number))),
            Cell(text=architecture),
        ),
        title=title_of(name, told(columns, metrics), architecture),
    )


def _standing(overlay: Overlay, me: tuple[int, int]) -> str:
    if not overlay.joint:
        return "on its own front"
    if me in overlay.joint:
        return "on the front of all"
    by = overlay.beaten_by.get(me, ())
    told = [
        f"{overlay.names[k]} {numbers_text([n for i, n in by if i == k], most=4)}" for k in sorted({i for i, _ in by})
    ]
    return f"beaten by {_listed(told)}"


def _compared_row(overlay: Overlay, i: int, k: int, one: Compared, columns: Sequence[Metric]) -> Row:
    metrics = metric_cells(one, columns)
    architecture = "" if one.spec is None else architecture_text(one.spec)
    ours = one.rival is None and is_published(one.name)
    return Row(
        key=f"r{i}-{k}",
        kind="compared",
        cells=(
            Cell(text=one.name),
            Cell(text=overlay.names[i]),
            Cell(text="published" if ours else "for comparison"),
            *metrics,
            *([Cell(text="")] if overlay.joint else []),
            Cell(text=""),
            Cell(text=architecture),
        ),
        title=title_of(f"{one.name} in {overlay.names[i]}", told(columns, metrics), architecture),
    )


def _key(i: int, number: int) -> str:
    return f"t{i}-{number}"


def _charts(overlay: Overlay, shown: dict[str, Row]) -> dict[str, Any]:
    x, y = plot_axes(list(overlay.objectives))
    marks: list[Mark] = []
    stairs = []
    is_few = sum(map(len, overlay.fronts)) <= 2 * MOST_NUMBERS
    for i, (run, front) in enumerate(zip(overlay.runs, overlay.fronts, strict=True)):
        numbers = {trial.number for trial in front}
        behind = [t for t in complete_trials(run.trials) if t.number not in numbers and is_drawn(t, x, y)]
        marks += [make_mark(t, x, y, kind=f"run{i}", key="", title="", with_bars=False) for t in behind]
        drawn = [t for t in front if is_drawn(t, x, y)]
        for t in drawn:
            row = shown.get(_key(i, t.number))
            marks.append(
                make_mark(
                    t, x, y, kind=f"run{i}", key=_key(i, t.number), title=row.title if row else "",
                    label=str(t.number) if is_few else "",
                )
            )  # fmt: skip
        if len(overlay.objectives) == 2 and drawn:
            points = [point_of(t, x, y) for t in drawn]
            stairs.append((f"run{i}", staircase(points, falls_to_left=METRICS[x].direction == "maximize")))
        for k, one in enumerate(run.compared):
            if f"r{i}-{k}" in shown and is_drawn(one, x, y):
                marks.append(
                    make_mark(
                        one, x, y, kind="reference" if one.rival is None else "rival", key=f"r{i}-{k}",
                        title=shown[f"r{i}-{k}"].title, label=one.name if i == 0 else "", with_bars=False,
                    )
                )  # fmt: skip
    return charts(marks, x, y, stairs=stairs)
