"""From a run's folder on: its report, several runs laid over each other, and one of its networks for an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modscale.analysis.early_stopping import spared_seconds
from modscale.analysis.overlay import check_distinct, lay_over
from modscale.analysis.results import Run, load_run
from modscale.errors import InputError
from modscale.kinds import is_network_folder, naming_kind, weights_in
from modscale.report.build import build_report, front_to_json
from modscale.report.overlay import write_overlay
from modscale.report.proxy_text import fidelity_sentence
from modscale.runs.trials import complete_trials
from modscale.specs.published import is_published, resolve_model
from modscale.specs.spec import ModelSpec


def report_run(folder: Path) -> tuple[Run, dict[str, Any]]:
    """Rebuilds the report of a run; returns the run, and what stands in `front.json` beside where the files are.

    Raises:
        RunError: the folder is no run, is broken or cannot be written to.
    """
    run = load_run(folder)
    files = build_report(run)
    return run, {
        "run": str(folder),
        "trials": len(run.trials),
        "complete": len(complete_trials(run.trials)),
        "stopped": sum(trial.state == "stopped" for trial in run.trials),
        "spared_seconds": spared_seconds(run.trials),
        "files": {key: str(path) for key, path in files.items()},
        **front_to_json(run.front, run.growth),
        "proxy_fidelity": fidelity_sentence(run),
    }


def report_runs(folders: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Lays several runs over each other, by default in `reports/A+B`; returns what stands in `comparison.json`.

    Raises:
        RunError: a folder is no run, or is broken; they have no objective in common; `out` is of something else.
        InputError: a run stands twice, or they are too many.
    """
    names = [folder.resolve().name for folder in folders]
    names = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
    runs = []
    for folder in folders:
        with naming_kind(folder, "run"):
            runs.append(load_run(folder))
    check_distinct(runs, names)
    place = out or Path("reports") / "+".join(folder.resolve().name for folder in folders)[:120]
    return write_overlay(lay_over(runs, names), place)


def choose_spec(model: str, *, pick: str | None = None, trial: int | None = None) -> ModelSpec:
    """The network that `export` is asked for: a model, or a run's pick or trial.

    Raises:
        InputError: no such model, band or trial; or a run without saying which of its networks.
    """
    folder = Path(model)
    chooses = pick is not None or trial is not None
    if not folder.is_dir() or (is_published(model) and not chooses):
        if chooses:
            raise InputError("--pick and --trial choose from a run's folder; this is none", value=model)
        return resolve_model(model)
    if not chooses and is_network_folder(folder):
        return resolve_model(model)
    with naming_kind(folder, "run"):
        run = load_run(folder)
    if (pick is None) == (trial is None):
        raise InputError("say which network of the run: --pick BAND or --trial N", file=folder)
    return (run.trial(trial) if trial is not None else run.pick(str(pick))).spec


def choose_weights(model: str, weights: Path | None, *, chooses: bool) -> Path | None:
    """The checkpoint that `export` is to load: the one that is given, else the one in the folder that MODEL is.

    A folder of one network may be given in place of a checkpoint, too. None: the weights start fresh.
    """
    if weights is not None:
        return weights_in(weights) or weights if is_network_folder(weights) else weights
    if chooses or is_published(model) or not is_network_folder(model):
        return None
    return weights_in(model)
