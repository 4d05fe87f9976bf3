"""The report of a run, rebuilt from the run's own files: `run.yaml`, `trials.jsonl` and `references.jsonl`.

Writes `front.json`, `pareto.png`, `hypervolume.png`, `report.md`, `report.html`, `design_reading.json`,
`design_reading.png` and one `models/BAND.yaml` for each band with a pick, each whole or not at all. The same files give
the same report.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modscale.analysis.design_reading import DRAWS, read_design
from modscale.analysis.front import Front
from modscale.analysis.growth import Growth
from modscale.analysis.results import Run
from modscale.errors import RunError
from modscale.files import read_plain, sweep_halves, write_whole
from modscale.report.figures import draw_front, draw_reading
from modscale.report.growth import draw_growth
from modscale.report.pages import render_page, to_json
from modscale.report.table import MOST_ROWS
from modscale.report.text import write_context
from modscale.runs.experiment import BAND_NAME
from modscale.runs.folder import section
from modscale.specs.spec import spec_to_yaml

MOST_IN_MARKDOWN = 40
"""Rows after which a table of report.md is cut short; `trials.jsonl` has them all."""


def build_report(run: Run, *, draws: int = DRAWS) -> dict[str, Path]:
    """Writes every file of the report into the run's folder; returns them by kind.

    `draws` is the number of bootstrap samples behind each importance of the design reading.

    Raises:
        RunError: a complete trial of the run lacks an objective.
        InputError: the report cannot be written.
    """
    front = run.front
    data = section(run.document, "data").get("name", "unknown data")
    title = f"{run.experiment.space.name}: {len(run.trials)} trials on {data}"
    picture = draw_front(front, run.compared, run.experiment.objectives, title=title)
    reading = read_design(run.experiment, run.trials, seed=run.experiment.search.seed, draws=draws)
    reading_picture = draw_reading(reading) if reading.parameters else None
    growth_picture = None if run.growth is None else draw_growth(run.growth)
    context = write_context(run, reading, reading_picture)
    files = {
        "design_reading": ("design_reading.json", to_json(asdict(reading))),
        "front": ("front.json", to_json(front_to_json(front, run.growth))),
        "pareto": ("pareto.png", picture.png),
        "markdown": ("report.md", render_page("report.md.j2", context, MOST_IN_MARKDOWN)),
        "html": ("report.html", render_page("report.html.j2", context, MOST_ROWS)),
    }
    if reading_picture is not None:
        files["design_reading_plot"] = ("design_reading.png", reading_picture.png)
    if growth_picture is not None:
        files["hypervolume_plot"] = ("hypervolume.png", growth_picture.png)
    written = {kind: run.folder / name for kind, (name, _) in files.items()}
    _write_models(run, front)
    for kind, (_, content) in files.items():
        write_whole(written[kind], content)
    return written


def front_to_json(front: Front, growth: Growth | None) -> dict[str, Any]:
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
        "growth": None if growth is None else growth_to_json(growth),
    }


def growth_to_json(growth: Growth) -> dict[str, Any]:
    """Shares of the final hypervolume, in six digits."""
    shares = ("run", "random_mean", "random_low", "random_high")
    return asdict(growth) | {key: [round(share, 6) for share in getattr(growth, key)] for key in shares}


def _write_models(run: Run, front: Front) -> None:
    """One spec a pick; a file of an earlier report whose band has no pick any more, or is no band now, goes."""
    models = run.folder / "models"
    if models.is_symlink():
        raise RunError("must be a folder of the run's own, and is a link to another place", file=models)
    without = [band for band, pick in front.picks.items() if pick.trial is None]
    without += [band for band in _earlier_bands(run.folder) if band not in front.picks]
    try:
        models.mkdir(exist_ok=True)
        for band in without:
            (models / f"{band}.yaml").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror or error}", file=models) from error
    sweep_halves(models, lambda name: name.removesuffix(".yaml") in front.picks)
    for band, pick in front.picks.items():
        if pick.trial is not None:
            write_whole(models / f"{band}.yaml", spec_to_yaml(pick.trial.spec))


def _earlier_bands(folder: Path) -> list[str]:
    """The bands of the report that this one replaces."""
    try:
        bands = json.loads(read_plain(folder / "front.json"))["bands"]
        return [band for band in bands if BAND_NAME.fullmatch(band)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
