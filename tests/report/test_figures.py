"""The figures of a report, as they are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from modscale.analysis.results import load_run
from modscale.report import figures

EXAMPLE = Path(__file__).parents[2] / "reports" / "example"


@pytest.mark.parametrize("with_references", [True, False])
def test_the_title_stands_clear_of_the_legend(monkeypatch: pytest.MonkeyPatch, with_references: bool) -> None:
    """Also where the legend has five entries, which take two rows."""
    run, seen = load_run(EXAMPLE), []

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
    references = run.references if with_references else ()
    figures.draw_front(run.front, references, run.experiment.objectives, title="mobile: 10 trials on synthetic")
    ((title, legend, entries),) = seen
    assert not title.overlaps(legend)
    assert entries == 4 + with_references
