"""The figures of a report, as they are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run
from matplotlib.figure import Figure

from modscale.analysis.design_reading import read_design
from modscale.analysis.results import load_run
from modscale.report import figures
from modscale.runs.experiment import parse_experiment


@pytest.mark.parametrize("with_references", [True, False])
def test_the_title_stands_clear_of_the_legend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_references: bool
) -> None:
    """Also where the legend has five entries, which take two rows."""
    experiment = parse_experiment(SPACE)
    trials = [remeasured(trial, latency_wide=trial.number % 2 == 1) for trial in fake_trials(experiment, 40)]
    run, seen = load_run(write_run(tmp_path / "run", trials, fake_references(experiment))), []

    @contextmanager
    def watched(width: float, height: float) -> Iterator[Figure]:
        with open_figure(width, height) as figure:
            yield figure
            figure.canvas.draw()
            (axes,) = figure.axes
            legend = axes.get_legend()
            assert legend is not None
            seen.append((axes._left_title.get_window_extent(), legend.get_window_extent(), len(legend.get_texts())))

    open_figure = figures.open_figure
    monkeypatch.setattr(figures, "open_figure", watched)
    compared = run.compared if with_references else ()
    figures.draw_front(run.front, compared, run.experiment.objectives, title="mobile: 10 trials on synthetic")
    ((title, legend, entries),) = seen
    assert not title.overlaps(legend)
    assert entries == 4 + with_references


def test_the_reading_draws_every_device() -> None:
    """However many further devices were timed."""
    targets = {name: {"command": ["ssh", name, "python3", "-"]} for name in ("pi", "phone", "desk")}
    experiment = parse_experiment({**SPACE, "latency": {"targets": targets}})
    trials = [
        remeasured(
            trial, **{f"latency_{name}_ms": (i + 2) * trial.results["latency_ms"] for i, name in enumerate(targets)}
        )
        for trial in fake_trials(experiment, 40)
    ]
    picture = figures.draw_reading(read_design(experiment, trials, seed=0, draws=2))
    for noun in ("accuracy", "latency", "latency on pi", "latency on phone", "latency on desk"):
        assert f">{noun}</text>" in picture.svg
