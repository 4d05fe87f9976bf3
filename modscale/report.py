"""The report of a run, rebuilt from the run's own files: `run.yaml`, `trials.jsonl` and `references.jsonl`.

Writes `front.json`, `pareto.png`, `report.md`, `report.html`, `design_reading.json`, `design_reading.png` and one
`models/BAND.yaml` for each band with a pick, each whole or not at all. The same files give the same report.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from modscale import __version__
from modscale.document import dump_yaml
from modscale.errors import InputError, RunError
from modscale.front import Front, accuracy_error, find_front, limits_text, objective_values
from modscale.pareto import pareto_front
from modscale.plots import Picture, draw_front
from modscale.runs import REFERENCES_FILE, TRIALS_FILE, read_run, read_run_space, write_bytes
from modscale.space import SearchSpace
from modscale.spec import ModelSpec, spec_to_yaml
from modscale.trials import Trial, complete_trials, metric_text, read_trials

MOST_ROWS = {"html": 200, "md": 40}
"""Rows after which a table of the report is cut short; `trials.jsonl` has them all."""
METRIC_NAMES = {"accuracy": "accuracy", "latency_ms": "latency", "params": "params", "flops": "FLOPs"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run's folder holds."""

    folder: Path
    document: Mapping[str, Any]
    """`run.yaml` as it stands."""
    space: SearchSpace
    trials: tuple[Trial, ...]
    references: tuple[Trial, ...]


def build_report(folder: str | Path) -> dict[str, Path]:
    """Writes every file of the report into the run's folder; returns them by kind.

    Raises:
        RunError: the folder is no run, one of its files is broken, or the report cannot be written.
    """
    run = load_run(Path(folder))
    front = _find_front(run)
    title = f"{run.space.name}: {len(run.trials)} trials on {_section(run, 'data').get('name', 'unknown data')}"
    picture = draw_front(front, run.references, run.space.objectives, title=title)
    context = _context(run, front, picture)
    files = {
        "front": ("front.json", json.dumps(front_to_json(front), indent=2, allow_nan=False).encode() + b"\n"),
        "pareto": ("pareto.png", picture.png),
        "markdown": ("report.md", _render("report.md.j2", context, MOST_ROWS["md"])),
        "html": ("report.html", _render("report.html.j2", context, MOST_ROWS["html"])),
    }
    written = {kind: run.folder / name for kind, (name, _) in files.items()}
    _write_models(run, front)
    for kind, (_, content) in files.items():
        write_bytes(written[kind], content)
    return written


def load_run(folder: Path) -> Run:
    """Reads a run's folder. Raises RunError."""
    document = read_run(folder)
    return Run(
        folder=folder,
        document=document,
        space=read_run_space(folder),
        trials=tuple(read_trials(folder / TRIALS_FILE)),
        references=tuple(read_trials(folder / REFERENCES_FILE)),
    )


def front_to_json(front: Front) -> dict[str, Any]:
    """The content of `front.json`."""
    return {
        "front": [trial.number for trial in front.members],
        "bands": {band: None if pick.trial is None else pick.trial.number for band, pick in front.picks.items()},
        "hypervolume": front.hypervolume,
        "reference_point": dict(front.reference),
        "hypervolume_share": front.hypervolume_share,
        "reasons": {band: pick.reason for band, pick in front.picks.items()},
        "ties": {
            "front": {str(number): list(others) for number, others in front.ties.items()},
            "bands": {band: list(pick.ties) for band, pick in front.picks.items()},
        },
        "front_probability": {str(number): round(p, 4) for number, p in front.probability.items()},
    }


def architecture_text(spec: ModelSpec) -> str:
    """Width x blocks of each stage, attention blocks behind a plus, as in `32x2 64x2 128x6+1 256x2+2`."""
    return " ".join(
        f"{stage.dim}\u00d7{stage.depth}" + (f"+{stage.attention_depth}" if stage.attention_depth else "")
        for stage in spec.stages
    )


def _find_front(run: Run) -> Front:
    try:
        return find_front(complete_trials(run.trials), run.space.objectives, run.space.bands)
    except InputError as error:
        raise RunError(error.rule, file=run.folder / TRIALS_FILE, place=error.place) from error


def _write_models(run: Run, front: Front) -> None:
    """One spec a pick; a file of an earlier report whose band has no pick any more goes."""
    models = run.folder / "models"
    try:
        models.mkdir(exist_ok=True)
        for band, pick in front.picks.items():
            if pick.trial is None:
                (models / f"{band}.yaml").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror or error}", file=models) from error
    for band, pick in front.picks.items():
        if pick.trial is not None:
            write_bytes(models / f"{band}.yaml", spec_to_yaml(pick.trial.spec).encode())


def _render(template: str, context: Mapping[str, Any], most: int) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith("html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(template).render(**context, most=most).encode()


def _markdown_cell(value: object) -> str:
    """Text that is only text in a Markdown table: no pipe, no line break, no markup."""
    text = " ".join(str(value).split())
    for sign in "\\|`*_[]<>":
        text = text.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return text


def _context(run: Run, front: Front, picture: Picture) -> dict[str, Any]:
    """Everything the templates print, as text."""
    space, states = run.space, [trial.state for trial in run.trials]
    picked: dict[int, list[str]] = {}
    for band, pick in front.picks.items():
        if pick.trial is not None:
            picked.setdefault(pick.trial.number, []).append(band)
    rows = {t.number: _row(t, front, picked) for t in (*front.members, *front.dominated)}
    return {
        "name": space.name,
        "version": __version__,
        "headline": _headline(run, front),
        "counts": {state: states.count(state) for state in ("complete", "failed", "stopped")},
        "total": len(states),
        "minutes": f"{sum(t.seconds for t in (*run.trials, *run.references)) / 60:.1f}",
        "started": str(run.document.get("started", "not recorded")),
        "objectives": [f"{METRIC_NAMES[m]} ({d})" for m, d in space.objectives.items()],
        "proxy_sentence": _proxy_sentence(run),
        "picks": [_pick_row(band, front, run, rows) for band in front.picks],
        "front": [rows[t.number] for t in front.members],
        "dominated": [rows[t.number] for t in front.dominated],
        "failed": [_unfinished_row(t) for t in run.trials if t.state == "failed"],
        "stopped": [_unfinished_row(t) for t in run.trials if t.state == "stopped"],
        "references": [_reference_row(t, front, space.objectives) for t in run.references],
        "hypervolume": f"{front.hypervolume:.6g}",
        "hypervolume_share": f"{100 * front.hypervolume_share:.1f} %",
        "reference_point": [f"{METRIC_NAMES[m]} {metric_text(m, v)}" for m, v in front.reference.items()],
        "settings": _settings(run),
        "machine": _pairs(_section(run, "machine")),
        "versions": _pairs(_section(run, "versions")),
        "data": _pairs(_section(run, "data")),
        "command": _command(run),
        "space_yaml": dump_yaml(run.document["space"]),
        "reading": None,
        "plot": base64.b64encode(picture.svg.encode()).decode(),
        "plot_text": f"{len(front.members)} trials on the Pareto front, {len(front.dominated)} dominated behind it",
    }


def _headline(run: Run, front: Front) -> str:
    """The first sentence of the report."""
    best = max(front.members, key=lambda t: (t.accuracy or 0.0, -(t.latency_ms or 0.0)), default=None)
    if best is None:
        return f"No trial is complete: {len(run.trials)} finished, and none of them could be measured to the end."
    return f"The most accurate network on the front is trial {best.number}: {_measured(best)}."


def _measured(trial: Trial) -> str:
    """All that was measured of one trial, in one line."""
    parts = [f"accuracy {_accuracy(trial)}", f"latency {_latency(trial)}"]
    return ", ".join(
        [*parts, f"{metric_text('params', trial.params)} params", f"{metric_text('flops', trial.flops)} FLOPs"]
    )


def _proxy_sentence(run: Run) -> str:
    data, proxy = _section(run, "data"), run.space.proxy
    known = {key: data.get(key, "an unknown number of") for key in ("classes", "train_images", "val_images")}
    return (
        f"The accuracy here is a proxy: the share of {known['val_images']} held-out images of {known['classes']}"
        f" classes that a network gets right after {proxy.epochs} epochs on {known['train_images']} training images at"
        f" {proxy.resolution} px. It ranks the candidates of this run against each other. It is not ImageNet accuracy,"
        " and a network that learns slowly may rank lower here than it would after full training."
    )


def _row(trial: Trial, front: Front, picked: Mapping[int, Sequence[str]]) -> dict[str, str]:
    return {
        "number": str(trial.number),
        "accuracy": _accuracy(trial),
        "latency": _latency(trial),
        "params": metric_text("params", trial.params),
        "flops": metric_text("flops", trial.flops),
        "chance": f"{100 * front.probability[trial.number]:.0f} %",
        "ties": _numbers(front.ties.get(trial.number, ())),
        "bands": ", ".join(picked.get(trial.number, ())),
        "architecture": architecture_text(trial.spec),
    }


def _pick_row(band: str, front: Front, run: Run, rows: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
    pick = front.picks[band]
    return {
        "band": band,
        "limits": limits_text(run.space.bands[band]) or "no limits",
        "trial": None if pick.trial is None else rows[pick.trial.number],
        "reason": pick.reason,
        "ties": _numbers(pick.ties),
    }


def _reference_row(trial: Trial, front: Front, objectives: Mapping[str, str]) -> dict[str, str]:
    measured = trial.state == "complete" and all(trial.value(metric) is not None for metric in objectives)
    return {
        "name": trial.spec.name,
        "accuracy": _accuracy(trial) if measured else trial.reason or trial.state,
        "latency": _latency(trial),
        "params": metric_text("params", trial.params),
        "flops": metric_text("flops", trial.flops),
        "beaten_by": _numbers([t.number for t in front.members if _dominates(t, trial, objectives)])
        if measured
        else "",
    }


def _dominates(trial: Trial, other: Trial, objectives: Mapping[str, str]) -> bool:
    return pareto_front(objective_values([trial, other], objectives), list(objectives.values())) == [0]


def _unfinished_row(trial: Trial) -> dict[str, str]:
    return {
        "number": str(trial.number),
        "reason": trial.reason or "no reason recorded",
        "params": metric_text("params", trial.params),
        "flops": metric_text("flops", trial.flops),
        "architecture": architecture_text(trial.spec),
    }


def _accuracy(trial: Trial) -> str:
    """With its standard error."""
    if trial.accuracy is None:
        return "not measured"
    error = accuracy_error(trial)
    return f"{100 * trial.accuracy:.1f} %" if error is None else f"{100 * trial.accuracy:.1f} ± {100 * error:.1f} %"


def _latency(trial: Trial) -> str:
    """With half of its 95 % interval."""
    if trial.latency_ms is None:
        return "not measured"
    digits = 3 if trial.latency_ms < 1 else 2 if trial.latency_ms < 100 else 1
    interval = "" if trial.latency_ci95_ms is None else f" ± {trial.latency_ci95_ms:.{digits}f}"
    return f"{trial.latency_ms:.{digits}f}{interval} ms"


def _numbers(numbers: Sequence[int], most: int = 8) -> str:
    """As in `3, 5, 8 and 12 more`."""
    rest = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + rest


def _section(run: Run, key: str) -> Mapping[str, Any]:
    """A mapping of `run.yaml`; empty where it is missing or something else."""
    section = run.document.get(key)
    return section if isinstance(section, Mapping) else {}


def _pairs(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), "none" if value is None else str(value)) for key, value in section.items()]


def _settings(run: Run) -> list[tuple[str, str]]:
    """Section to its settings in one line."""
    return [
        (title, ", ".join(f"{key} {value}" for key, value in _pairs(asdict(settings))))
        for title, settings in (
            ("proxy", run.space.proxy),
            ("latency", run.space.latency),
            ("search", run.space.search),
        )
    ]


def _command(run: Run) -> str:
    """What makes a run like this one."""
    source = str(_section(run, "data").get("source", "synthetic"))
    search = run.space.search
    words = ["modscale", "search", str(run.document.get("space_file", "SPACE.yaml")), "--data", source]
    return shlex.join([*words, "--trials", str(search.trials), "--seed", str(search.seed), "--out", str(run.folder)])
