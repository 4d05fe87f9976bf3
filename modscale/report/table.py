"""The one table of a report's page: the front, the networks that it is compared with, and the trials behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modscale.analysis.comparison import Compared
from modscale.analysis.front import Front
from modscale.analysis.results import Run
from modscale.report.references import input_text, metric_cell, numbers_text
from modscale.runs.metrics import Metric
from modscale.runs.trials import Trial
from modscale.specs.published import is_published
from modscale.specs.spec import architecture_text

MOST_ROWS = 80
"""Rows of each kind after which a page's table is cut short; `trials.jsonl` has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the table."""

    name: str
    """Its heading."""
    is_number: bool = False
    first: str = "ascending"
    """In which order it is sorted first: the better end on top."""
    style: str = ""
    """A class of the style sheet for its cells."""
    help: str = ""
    """What it is, where one points at the heading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What stands in one column of a row."""

    text: str
    value: str = ""
    """By which it is sorted in a column of numbers; empty where there is none, and such rows come last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A network in the table."""

    key: str
    """By which its point is found."""
    kind: str
    """`front`, `dominated` or `compared`, by which the table is filtered."""
    cells: tuple[Cell, ...]
    """One a column."""
    title: str
    """All of it in a line."""


def table_columns(run: Run, columns: Sequence[Metric]) -> list[Column]:
    """Those of a run's table, the metrics among them."""
    has_top1 = any(one.top1 is not None for one in run.compared)
    return [
        Column(name="network", style="name"),
        Column(name="standing", style="ties"),
        *(metric_column(metric) for metric in columns),
        *([_number("top-1", help="of full training, as published or stated")] if has_top1 else []),
        _number("P(on front)", help="probability of being on the front, given the noise"),
        Column(name="band"),
        Column(name="width × blocks + attention", style="arch"),
    ]


def metric_column(metric: Metric) -> Column:
    """A metric's own."""
    return Column(
        name=metric.noun,
        is_number=True,
        first="descending" if metric.direction == "maximize" else "ascending",
        style="n",
    )


def table_rows(run: Run, columns: Sequence[Metric]) -> tuple[list[Row], int]:
    """The rows in the table's first order, and how many trials have none: front, compared, dominated."""
    front, has_top1 = run.front, any(one.top1 is not None for one in run.compared)
    near: dict[int, list[int]] = {}
    for number, others in front.ties.items():
        for other in others:
            near.setdefault(other, []).append(number)
    likely = sorted(front.dominated, key=lambda t: (-front.probability[t.number], -len(near.get(t.number, ()))))
    dominated = {trial.number for trial in likely[:MOST_ROWS]}
    members = [t for i, t in enumerate(front.members) if i < MOST_ROWS or front.bands_of(t.number)]
    rows = [_trial_row(t, front, columns, has_top1, near) for t in members]
    rows += [_compared_row(i, one, columns, has_top1) for i, one in enumerate(run.compared)]
    rows += [_trial_row(t, front, columns, has_top1, near) for t in front.dominated if t.number in dominated]
    return rows, len(front.members) + len(run.compared) + len(front.dominated) - len(rows)


def title_of(name: str, cells: Sequence[str], architecture: str) -> str:
    """What is told of a network where one points at it."""
    return ": ".join(filter(None, (name, "; ".join(filter(None, (*cells, architecture))))))


def metric_cells(one: Trial | Compared, columns: Sequence[Metric]) -> list[Cell]:
    """Each metric as it is written, with the value that it is sorted by."""
    return [
        Cell(
            text=metric_cell(one, metric) if isinstance(one, Compared) else metric.cell(one.results),
            value="" if one.value(metric.name) is None else f"{one.value(metric.name):.10g}",
        )
        for metric in columns
    ]


def _number(name: str, *, help: str) -> Column:  # noqa: A002  # as the field is called
    return Column(name=name, is_number=True, first="descending", style="n", help=help)


def _trial_row(
    trial: Trial, front: Front, columns: Sequence[Metric], has_top1: bool, near: dict[int, list[int]]
) -> Row:
    is_member = trial.number in front.ties
    metrics, architecture = metric_cells(trial, columns), architecture_text(trial.spec)
    chance = front.probability[trial.number]
    tied = front.ties.get(trial.number) or near.get(trial.number, ())
    standing = f"{'on the front' if is_member else 'dominated'}{f', tied with {numbers_text(tied)}' if tied else ''}"
    name = f"trial {trial.number}"
    return Row(
        key=f"t{trial.number}",
        kind="front" if is_member else "dominated",
        cells=(
            Cell(text=name, value=str(trial.number)),
            Cell(text=standing),
            *metrics,
            *([Cell(text="")] if has_top1 else []),
            Cell(text=f"{100 * chance:.0f} %", value=f"{chance:.4f}"),
            Cell(text=", ".join(front.bands_of(trial.number))),
            Cell(text=architecture),
        ),
        title=title_of(name, told(columns, metrics), architecture),
    )


def _compared_row(index: int, one: Compared, columns: Sequence[Metric], has_top1: bool) -> Row:
    metrics = metric_cells(one, columns)
    if one.reason is not None:  # why stands where the first result would
        missing = next((i for i, metric in enumerate(columns) if one.value(metric.name) is None), None)
        if missing is not None:
            metrics[missing] = Cell(text=one.reason)
    architecture = input_text(one) if one.spec is None else architecture_text(one.spec)
    standing = ["published" if one.rival is None and is_published(one.name) else "for comparison"]
    standing += [f"beats {numbers_text(one.beats)}"] if one.beats else []
    standing += [f"beaten by {numbers_text(one.beaten_by)}"] if one.beaten_by else []
    return Row(
        key=f"r{index}",
        kind="compared",
        cells=(
            Cell(text=one.name),
            Cell(text=", ".join(standing)),
            *metrics,
            *([_top1_cell(one)] if has_top1 else []),
            Cell(text=""),
            Cell(text=""),
            Cell(text=architecture),
        ),
        title=title_of(one.name, told(columns, metrics), architecture),
    )


def told(columns: Sequence[Metric], cells: Sequence[Cell]) -> list[str]:
    """Each metric's cell after its name."""
    return [f"{metric.noun} {cell.text}" for metric, cell in zip(columns, cells, strict=True)]


def _top1_cell(one: Compared) -> Cell:
    return Cell(text="") if one.top1 is None else Cell(text=f"{one.top1:.1f} %", value=f"{one.top1:.4f}")
