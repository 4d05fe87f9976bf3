"""What a report says: everything its templates print, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from modscale import __version__
from modscale.analysis.design_reading import DesignReading
from modscale.analysis.early_stopping import spared_seconds
from modscale.analysis.front import Front, limits_text
from modscale.analysis.proxy_ranking import check_ranking
from modscale.analysis.results import Run
from modscale.document import dump_yaml
from modscale.report.architecture import draw_stages
from modscale.report.commands import export_command, search_command, source_of, train_command
from modscale.report.earlier import earlier_notes
from modscale.report.figures import Picture
from modscale.report.front_chart import front_charts, is_drawn, plot_axes
from modscale.report.growth import growth_charts, growth_text
from modscale.report.proxy_text import all_results, fidelity_sentence, headline_doubt, noise_note, proxy_sentence
from modscale.report.reading import reading_view
from modscale.report.references import (
    beaten_sentence,
    numbers_text,
    reference_kind,
    reference_note,
    reference_row,
    reference_title,
    rival_note,
    top1_heading,
)
from modscale.report.table import table_columns, table_rows
from modscale.rivals import reference_name
from modscale.runs.experiment import mismatch_note
from modscale.runs.folder import section
from modscale.runs.metrics import (
    ACCURACY,
    LEARNT,
    METRICS,
    Metric,
    Results,
    doubts_text,
    is_doubtful,
    metric_text,
    metrics_among,
)
from modscale.runs.trials import Trial
from modscale.specs.spec import architecture_text

KINDS = (("front", "front"), ("compared", "for comparison"), ("dominated", "dominated"))
"""Of the rows of the table, by which it is filtered, and what the page calls them."""


def write_context(
    run: Run,
    reading: DesignReading,
    reading_picture: Picture | None,
) -> dict[str, Any]:
    """Everything the templates print, as text."""
    experiment, front, columns = run.experiment, run.front, run.columns
    states = [trial.state for trial in run.trials]
    learnt = LEARNT[experiment.proxy.task]
    ranking = check_ranking(run.references, learnt.name)
    compared = run.compared
    rows = {t.number: _row(t, front, columns) for t in (*front.members, *front.dominated)}
    networks, left_out = table_rows(run, columns)
    return {
        "name": experiment.space.name,
        "learnt": {key: getattr(learnt, key) for key in ("noun", "superlative", "plural")},
        "version": __version__,
        "headline": _headline(run, front),
        "counts": {state: states.count(state) for state in ("complete", "failed", "stopped")},
        "unfinished": _unfinished_note(run),
        "spared": _spared_sentence(run.trials),
        "total": len(states),
        "columns": [metric.noun for metric in columns],
        "count_columns": [metric.noun for metric in METRICS.values() if metric.is_count],
        "minutes": f"{_seconds(run) / 60:.1f}",
        "started": str(run.document.get("started", "not recorded")),
        "objectives": [f"{METRICS[m].noun} ({d})" for m, d in experiment.objectives.items()],
        "proxy_sentence": proxy_sentence(run),
        "fidelity_sentence": fidelity_sentence(run),
        "noise_note": " ".join(filter(None, (noise_note(run), _level_note(run), _again_note(run)))),
        "data_notes": [*_data_notes(run), *earlier_notes(run)],
        "picks": [_pick_row(band, front, run, rows) for band in front.picks],
        "front": [rows[t.number] for t in front.members],
        "dominated": [rows[t.number] for t in front.dominated],
        "failed": [_unfinished_row(t) for t in run.trials if t.state == "failed"],
        "stopped": [_unfinished_row(t) for t in run.trials if t.state == "stopped"],
        "references": [reference_row(one, columns) for one in compared],
        "reference_title": reference_title(compared),
        "top1_heading": top1_heading(compared),
        "rival_note": rival_note(compared, experiment.objectives),
        "reference_note": reference_note(run.references),
        "ranking": "" if ranking is None else ranking.sentence(),
        "hypervolume": f"{front.hypervolume:.6g}",
        "hypervolume_share": f"{100 * front.hypervolume_share:.1f} %",
        "growth": "" if run.growth is None else growth_text(run.growth, len(experiment.objectives)),
        "growth_charts": None if run.growth is None else growth_charts(run.growth),
        "reference_point": [f"{METRICS[m].noun} {metric_text(m, v)}" for m, v in front.reference.items()],
        "settings": _settings(run),
        "machine": _pairs(section(run.document, "machine")),
        "versions": _pairs(section(run.document, "versions")),
        "data": _data_pairs(run),
        "command": search_command(run),
        "space_lines": dump_yaml(run.document["space"]).rstrip("\n").split("\n"),
        "reading": reading_view(reading, reading_picture),
        "doubts": list(
            filter(None, (doubts_text(metric, [*all_results(run), *_rivals_results(run)]) for metric in columns))
        ),
        "table": {"columns": table_columns(run, columns), "rows": networks, "left_out": left_out},
        "kinds": [kind for kind in KINDS if any(row.kind == kind[0] for row in networks)],
        "charts": front_charts(front, compared, experiment.objectives, {row.key: row for row in networks}),
        "legend": _legend(run),
        "plot_note": _plot_note(list(experiment.objectives)),
        "plot_text": f"{len(front.members)} trials on the Pareto front, {len(front.dominated)} dominated behind it",
    }


def _seconds(run: Run) -> float:
    """Of all measuring."""
    return sum(t.seconds for t in (*run.trials, *run.references)) + sum(rival.seconds for rival in run.rivals)


def _rivals_results(run: Run) -> list[Results]:
    return [rival.results for rival in run.rivals if rival.state == "complete"]


SPEED_CHANGE = 0.05
"""How far a latency may move within a run before the report says so."""


def _level_note(run: Run) -> str:
    """In whose terms the latencies are; empty where no reference ran beside them."""
    texts = []
    for name, level_ms in run.levels.items():
        key = f"{name.removesuffix('_ms')}_reference_ms"
        beside = [results[key] for results in (*all_results(run), *_rivals_results(run)) if key in results]
        most = f" and at most {max(beside):.3g} ms" if max(beside, default=0.0) >= 1.01 * level_ms else ""
        texts.append(
            f"The {METRICS[name].noun} of each network is in terms of the machine on which the reference network takes"
            f" {level_ms:.3g} ms: it took that at best beside the networks of this run{most}. trials.jsonl has every"
            " latency as measured."
        )
    return " ".join(texts)


def _again_note(run: Run) -> str:
    """Which latencies are those of the session at the end; empty where none is."""
    front = {trial.number for trial in run.front.members}
    if not run.timed_again:
        return ""
    shown = len(front & run.timed_again.keys())
    said = (
        f"The latency of {shown} of {len(front)} networks on the front was taken at the end of the run, where"
        f" {len(run.timed_again)} took turns; trials.jsonl has what each had when it was tried."
    )
    least, most = min(run.timed_again.values()), max(run.timed_again.values())
    if max(most - 1, 1 - least) > SPEED_CHANGE:
        said += (
            f" They came to {least:.2f} to {most:.2f} times their first figures, so a difference of that size from a"
            " network that was timed only once may be the machine's."
        )
    return said


def _spared_sentence(trials: Sequence[Trial]) -> str:
    """What early stopping spared; empty where it stopped nothing at a rung."""
    seconds = spared_seconds(trials)
    if seconds is None:
        return ""
    return (
        f"Early stopping spared about {seconds / 60:.1f} minutes of training: an estimate, from how long the complete"
        " trials trained on after the same rungs."
    )


def _unfinished_note(run: Run) -> str:
    """That there is more to come; empty where all that was asked for is finished."""
    wanted, done = run.experiment.search.trials, len(run.trials)
    if done >= wanted:
        return ""
    return (
        f"This run is not over: {done} of {wanted} trials are finished. The same search command goes on, and"
        " modscale report shows what there is by then."
    )


def _headline(run: Run, front: Front) -> str:
    """The first sentence of the report."""
    learnt = LEARNT[run.experiment.proxy.task]
    best = max(
        front.members, key=lambda t: (t.value(learnt.name) or 0.0, -(t.value("latency_ms") or 0.0)), default=None
    )
    if best is None:
        return f"No trial is complete: {len(run.trials)} finished, and none of them could be measured to the end."
    said = f"The {learnt.superlative} network on the front is trial {best.number}: {', '.join(_measured(best))}."
    beaten = beaten_sentence(run.compared, len(front.members))
    return " ".join(filter(None, (said, beaten, headline_doubt(run))))


def _cells(trial: Trial, columns: Sequence[Metric]) -> list[str]:
    return [metric.cell(trial.results) for metric in columns]


def _measured(trial: Trial) -> list[str]:
    """All that is known of one trial: a count is read as a number of things, a measurement as a thing of some size."""
    return _told(trial, metrics_among(trial.results))


def _told(trial: Trial, metrics: Sequence[Metric]) -> list[str]:
    pairs = [(metric, metric.full(trial.results)) for metric in metrics]
    return [f"{text} {metric.noun}" if metric.is_count else f"{metric.noun} {text}" for metric, text in pairs]


def _sought(trial: Trial, run: Run) -> list[str]:
    """The objectives alone."""
    wanted = [METRICS[metric] for metric in run.experiment.objectives]
    return _told(trial, sorted(wanted, key=lambda metric: metric.name != LEARNT[run.experiment.proxy.task].name))


def _plot_note(objectives: Sequence[str]) -> str:
    """What the plot cannot show; empty for two objectives."""
    if len(objectives) == 2:
        return ""
    if len(objectives) == 1:
        return "With one objective the front is the best trial alone; it is drawn against the size of the networks."
    seen = " and ".join(METRICS[metric].noun for metric in objectives[:2])
    rest = " and ".join(METRICS[metric].noun for metric in objectives[2:])
    return f"Drawn by {seen} alone: a trial may be on the front for its {rest}, which the plot does not show."


def _data_notes(run: Run) -> list[str]:
    """What was told of the data when they were loaded; in runs of older versions none of it stands."""
    data = section(run.document, "data")
    recorded, odd = data.get("notes"), mismatch_note(run.experiment.space.base, data)
    notes = [str(note) for note in recorded] if isinstance(recorded, list) else []
    return list(dict.fromkeys([*notes, *([odd] if odd else [])]))


def _row(trial: Trial, front: Front, columns: Sequence[Metric]) -> dict[str, Any]:
    return {
        "number": str(trial.number),
        "cells": _cells(trial, columns),
        "measured": _measured(trial),
        "chance": f"{100 * front.probability[trial.number]:.0f} %",
        "ties": numbers_text(front.ties.get(trial.number, ())),
        "bands": ", ".join(front.bands_of(trial.number)),
        "architecture": architecture_text(trial.spec),
    }


def _legend(run: Run) -> list[tuple[str, str]]:
    """Kind of mark to what it is, of those on the plot."""
    axes, tied = plot_axes(list(run.experiment.objectives)), {n for ties in run.front.ties.values() for n in ties}
    shown = [one for one in run.compared if is_drawn(one, *axes)]
    near = [t for t in run.front.dominated if t.number in tied]
    stated = ", accuracy as stated" if ACCURACY.name in axes else ""
    items = [
        ("front", "Pareto front, 95 % intervals", bool(run.front.members)),
        ("near", "dominated, tied with the front", bool(near)),
        ("far", "dominated", len(near) < len(run.front.dominated)),
        ("reference", reference_kind(run.compared), any(one.rival is None for one in shown)),
        ("rival", f"rival{stated}", any(one.rival is not None for one in shown)),
    ]
    results = [t.results for t in (*run.front.members, *run.front.dominated)] + [one.results for one in shown]
    in_doubt = any(is_doubtful(METRICS[metric], each) for metric in axes for each in results)
    return [(kind, text) for kind, text, has_any in (*items, ("cross", "in doubt", in_doubt)) if has_any]


def _pick_row(band: str, front: Front, run: Run, rows: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
    pick = front.picks[band]
    return {
        "band": band,
        "limits": limits_text(run.experiment.bands[band]) or "no limits",
        "trial": None if pick.trial is None else rows[pick.trial.number],
        "reason": pick.reason,
        "runner_up": ""
        if pick.runner_up is None
        else f"Next is trial {pick.runner_up.number}: {', '.join(_sought(pick.runner_up, run))}.",
        "ties": numbers_text(pick.ties),
        "stages": None if pick.trial is None else draw_stages(pick.trial.spec),
        "train": train_command(run, band),
        "export": export_command(run, band),
    }


def _unfinished_row(trial: Trial) -> dict[str, Any]:
    return {
        "number": str(trial.number),
        "reason": trial.reason or "no reason recorded",
        "cells": _cells(trial, [metric for metric in METRICS.values() if metric.is_count]),
        "architecture": architecture_text(trial.spec),
    }


def _pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), _plain(value)) for key, value in mapping.items()]


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _settings(run: Run) -> list[tuple[str, str]]:
    """Section to its settings in one line."""
    names = {"references": [reference_name(one) for one in run.experiment.search.references]}
    return [
        (
            title,
            ", ".join(
                f"{key} {value}" for key, value in _pairs(asdict(settings) | (names if title == "search" else {}))
            ),
        )
        for title, settings in (
            ("proxy", run.experiment.proxy),
            ("latency", run.experiment.latency),
            ("search", run.experiment.search),
        )
    ]


def _data_pairs(run: Run) -> list[tuple[str, str]]:
    data = {key: value for key, value in section(run.document, "data").items() if key != "notes"}
    return _pairs(data | ({"source": source_of(run)} if "source" in data else {}))
