"""The report of a training, rebuilt from its folder's own files: what was trained, how it went, what it came to.

Writes `training.png`, `report.md` and `report.html`, each whole or not at all. `context.png` and its dark form are
drawn when the training is over, for they need the images.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.errors import RunError
from modscale.files import read_plain, write_whole
from modscale.report.figures import COLOURS, Picture, open_figure, render_figure
from modscale.report.pages import render_page
from modscale.runs.conditions import told
from modscale.runs.train_folder import CONTEXT_FILE, DARK_CONTEXT_FILE, REPORT_FILES, VALIDATION_FILE, best_row
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec
from modscale.training.job import BEST_FILE, SCORES, best_scores
from modscale.training.settings import TrainSettings, train_to_dict

MOST_CLASSES = {"html": 1000, "md": 100}
"""Classes after which a table is cut short; `validation.json` has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord:
    """What is on disk of a training of which an epoch is over."""

    folder: Path
    spec: ModelSpec
    document: Mapping[str, Any]
    """`train.yaml`."""
    rows: Sequence[Mapping[str, Any]]
    """Lines of `metrics.jsonl`, one or more."""
    confusion: Sequence[tuple[int, int, int]] | None
    """As `read_validation` has it; None while the training is not over."""


def build_training_report(record: TrainingRecord) -> dict[str, Path]:
    """Writes the report into the folder; returns its files by kind, the figure of the context among them.

    Raises:
        RunError: `train.yaml` lacks what a report needs.
        InputError: the report cannot be written.
    """
    curves = draw_curves(record.rows)
    context, dark = (_drawn(record.folder / name) for name in (CONTEXT_FILE, DARK_CONTEXT_FILE))
    page = page_context(record) | {
        "curves": base64.b64encode(curves.svg.encode()).decode(),
        "context": context,
        "dark_context": None if context is None else dark,
    }
    contents: dict[str, bytes | str] = {
        "curves": curves.png,
        "markdown": render_page("training.md.j2", page, MOST_CLASSES["md"]),
        "html": render_page("training.html.j2", page, MOST_CLASSES["html"]),
    }
    written = {kind: record.folder / REPORT_FILES[kind] for kind in contents}
    for kind, content in contents.items():
        write_whole(written[kind], content)
    return written if context is None else {**written, "context": record.folder / CONTEXT_FILE}


def _drawn(file: Path) -> str | None:
    """The content of a picture for the page; None where it is not there."""
    try:
        return base64.b64encode(read_plain(file)).decode()
    except OSError:
        return None


def draw_curves(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Loss at the left, scores at the right, by epochs; those of the averaged weights dashed."""
    epochs = [row["epoch"] for row in rows]
    names = [key for key in SCORES if key in rows[0]]
    marker = "o" if len(rows) <= 40 else None
    with open_figure(8.4, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        lines = [(left, "train_loss", "training", COLOURS["front"], 1.0)]
        lines.append((left, "val_loss", "validation", COLOURS["reference"], 1.0))
        lines += [
            (right, key, SCORES[key], colour, 100.0)
            for key, colour in zip(names, (COLOURS["front"], COLOURS["reference"]), strict=False)
        ]
        for axes, key, label, colour, factor in lines:
            for of, style, text in (("", "-", label), ("ema_", "--", f"{label}, averaged weights")):
                if of + key in rows[0]:
                    values = [factor * row.get(of + key, float("nan")) for row in rows]
                    axes.plot(epochs, values, style, color=colour, marker=marker, ms=3, lw=1.5, label=text)
        for axes, label in ((left, "loss"), (right, "% of the validation images")):
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.locator_params(axis="x", integer=True)
            axes.grid(color=COLOURS["grid"], lw=0.8)
            axes.legend(fontsize=8)
        return render_figure(figure)


def page_context(record: TrainingRecord) -> dict[str, Any]:
    """What the templates are filled in with. Raises RunError."""
    document, rows, spec = record.document, record.rows, record.spec
    best = best_row(rows)
    try:
        settings, data = document["settings"], document["data"]
        names, epochs = [str(name) for name in document["classes"]], int(settings["epochs"])
        counted = count_model(spec)
        changed, followed = _settings(document["asked"]["settings"], settings)
        return {
            "name": spec.name,
            "headline": _headline(best, len(rows), epochs, data, names),
            "score_note": _score_note(record.confusion),
            "unfinished": len(rows) < epochs,
            "facts": [
                ("network", f"{spec.name} at {spec.resolution} px: {counted.params:,} params, {counted.flops:,} FLOPs"),
                ("data", _data(data, names)),
                ("began with", document.get("taken_over") or f"fresh weights, seed {document['asked']['seed']}"),
                *([("teacher", document["teacher"])] if document.get("teacher") else []),
                ("took", f"{_duration(sum(row['seconds'] for row in rows))} on {_device(document)}"),
                ("versions", ", ".join(f"{key} {value}" for key, value in (document.get("versions") or {}).items())),
            ],
            "notes": [str(note) for note in data.get("notes") or []],
            "changed": changed,
            "followed": followed,
            "classes": [] if record.confusion is None else class_rows(record.confusion, names),
            "is_of_masks": "miou" in best,
            "epochs": [_epoch(row) for row in rows],
            "weights": BEST_FILE,
            "validation": VALIDATION_FILE,
            "version": str(document.get("modscale", "")),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"lacks what a report needs ({error})", file=record.folder) from error


def class_rows(confusion: Sequence[tuple[int, int, int]], names: Sequence[str]) -> list[dict[str, str]]:
    """Each class that was there: its number, its share that was right, what it was taken for most; the worst first."""
    total: Counter[int] = Counter()
    right: Counter[int] = Counter()
    wrong: dict[int, Counter[int]] = {}
    for row, column, number in confusion:
        total[row] += number
        if row == column:
            right[row] += number
        else:
            wrong.setdefault(row, Counter())[column] += number
    order = sorted((one for one in total if total[one]), key=lambda one: (right[one] / total[one], one))
    return [
        {
            "name": names[one],
            "number": f"{total[one]:,}",
            "right": f"{right[one] / total[one]:.1%}",
            "taken_for": ", ".join(
                f"{names[other]} ({number / total[one]:.1%})"
                for other, number in wrong.get(one, Counter()).most_common(3)
            ),
        }
        for one in order
    ]


def _headline(best: Mapping[str, Any], done: int, epochs: int, data: Mapping[str, Any], names: Sequence[str]) -> str:
    scores = best_scores(best)
    text = ", ".join(f"{SCORES[key]} {100 * value:.1f} %" for key, value in scores.items())
    text = text if text.startswith("mIoU") else text.capitalize()
    averaged = {key: float(best[f"ema_{key}"]) for key in SCORES if f"ema_{key}" in best}
    kept = "the averaged weights" if scores == averaged else "the network"
    of = f"epoch {best['epoch']} of {epochs}" + (f", of which {done} are over" if done < epochs else "")
    return f"{text} on the {data['val_images']:,} validation images of {len(names)} classes: {kept} after {of}"


def _score_note(confusion: Sequence[tuple[int, int, int]] | None) -> str:
    chosen = "The best epoch is chosen on these very images, which flatters it a little"
    if confusion is None:
        return f"{chosen}."
    total = sum(number for *_, number in confusion)
    right = sum(number for row, column, number in confusion if row == column)
    return (
        f"{chosen}. Read back from {BEST_FILE}, the weights are right on {right:,} of {total:,}: {right / total:.2%}."
    )


def _data(data: Mapping[str, Any], names: Sequence[str]) -> str:
    return (
        f"{data['name']} ({data['source']}): {data['train_images']:,} training and {data['val_images']:,} validation"
        f" images of {len(names)} classes"
    )


def _device(document: Mapping[str, Any]) -> str:
    processes = document.get("processes") or 1
    cpu = (document.get("machine") or {}).get("cpu")
    several = f", {processes} processes" if processes > 1 else ""
    return (
        f"{document.get('device', 'what is not known')}{several} ({cpu}, {document['settings'].get('threads')} threads)"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"


def _settings(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Those that were asked for otherwise than by default, and those that follow from data and time: key and value."""
    default = train_to_dict(TrainSettings())
    changed = [(key, _told(value)) for key, value in asked.items() if value != default.get(key)]
    followed = [
        (key, _told(value))
        for key, value in settings.items()
        if asked.get(key) is None and value is not None and default.get(key) is None
    ]
    return changed, followed


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else told(value).strip("'")


def _epoch(row: Mapping[str, Any]) -> list[str]:
    """An epoch's cells: number, losses, the score and that of the averaged weights, rate, seconds."""
    key = next(key for key in SCORES if key in row)
    averaged = row.get(f"ema_{key}")
    return [
        str(row["epoch"]),
        f"{row['train_loss']:.3f}",
        f"{row['val_loss']:.3f}",
        f"{100 * row[key]:.1f}",
        "" if averaged is None else f"{100 * averaged:.1f}",
        f"{row['learning_rate']:.2g}",
        f"{row['seconds']:.0f}",
    ]
