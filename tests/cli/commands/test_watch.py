"""`modscale watch`: a view that fits a terminal, lines in a pipe, and an end when the run ends."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run

from modscale.analysis.progress import read_progress
from modscale.cli import watching
from modscale.cli.layout import text_width
from modscale.cli.main import main
from modscale.cli.plot import draw
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import append_trial

SPACED = SPACE | {"search": {"trials": 60, "references": ["xxs", "xs"]}}
FAKE = parse_experiment(SPACED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is not over; a path is never folded, so it is called by its short name."""
    monkeypatch.chdir(tmp_path)
    trials = fake_trials(FAKE, 50)
    for i in (3, 7, 11):
        broken = remeasured(trials[i], accuracy=None, latency_ms=None, latency_ci95_ms=None, val_images=None)
        trials[i] = replace(broken, state="failed", reason=f"out of memory \x1b[2J{'and more ' * 9}")
    return write_run(Path("run"), trials, fake_references(FAKE)[:1], space=SPACED)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (120, 30), (60, 20), (40, 15)])
def test_a_view_fits_its_terminal(folder, width, height):
    """No line is wider, no more lines than there are, and all that matters is among them."""
    lines = watching.describe_run(read_progress(folder), width=width, height=height)
    assert len(lines) < height
    assert max(map(text_width, lines)) <= width
    text = " ".join(lines)
    for part in ("50 of 60 trials", "3 failed", "1 of 2 references", "failed: 3, 7, 11: out of memo"):
        assert part in " ".join(text.split())
    assert (" |" in text) == ("trial 49" in text) == (height >= 20)
    rows = [line for line in lines if re.match(r" +\d+ .* M", line)]
    front = len(read_progress(folder).front)
    title = "The front so far" + (f", {len(rows)} of {front} networks" if len(rows) < front else "")
    assert (title in lines) == bool(rows)


def test_a_front_is_called_so_far_until_the_run_is_over(folder):
    found = read_progress(folder)
    over = replace(found, trials=found.trials * 2, references=2)
    for progress, title in ((found, "The front so far"), (over, "The front")):
        assert title in watching.describe_run(progress, width=80, height=None)


def test_once_prints_one_view_and_steers_no_terminal(folder, capsys):
    assert main(["watch", str(folder), "--once"]) == 0
    text = capsys.readouterr().out
    for part in ("stopped; the same search command goes on", "The front so far", "expected top-1, %, against latency"):
        assert part in text
    assert r"failed: 3, 7, 11: out of memory \x1b[2J" in text
    assert "\x1b" not in text
    assert main(["watch", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 3


def test_in_a_pipe_each_trial_is_told_once_until_the_run_ends(folder, capsys, monkeypatch):
    """What is finished between two looks is told at the second; when the folder is let go the whole is shown."""
    extra = replace(fake_trials(FAKE, 51)[50], number=50)
    answers = iter([True, True, False])
    monkeypatch.setattr("modscale.analysis.progress.is_locked", lambda folder: next(answers))
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            append_trial(folder / "trials.jsonl", extra)

    watching.follow(folder, 7, sleep=sleep)
    lines = capsys.readouterr().out.splitlines()
    first = lines.index(next(line for line in lines if line.startswith(f"{folder}: ")))
    assert [line.split()[1] for line in lines[:first]] == [str(i) for i in range(51)]
    assert not [line for line in lines[first:] if line.startswith("trial ") and "accuracy %" not in line]
    assert naps == [7, 7]


def test_in_a_terminal_the_view_is_drawn_anew(folder, monkeypatch):
    """And the last one stays when the run ends."""
    shown: list[list[str]] = []

    @contextlib.contextmanager
    def live(console):
        yield lambda lines: shown.append(list(lines))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers = iter([True, True, True, False])
    times = iter([60.0, 660.0, 720.0])
    extra = iter([replace(trial, number=50 + i) for i, trial in enumerate(fake_trials(FAKE, 3, seed=9))])
    monkeypatch.setattr("modscale.analysis.progress.is_locked", lambda folder: next(answers))
    monkeypatch.setattr(watching, "live_view", live)
    monkeypatch.setattr(type(watching.out), "is_terminal", True)
    monkeypatch.setattr(sys, "stdout", Terminal())
    watching.follow(
        folder, 1, sleep=lambda seconds: append_trial(folder / "trials.jsonl", next(extra)), clock=lambda: next(times)
    )
    stopped = "stopped; the same search command goes on"
    assert [view[0].rpartition(": ")[2] for view in shown] == ["running"] * 3 + [stopped]
    assert shown[0][2].endswith("about 3 min left")  # 11 networks at 19 s, by the file
    assert "h" not in shown[1][2].partition("measuring")[2]  # how long that one had been under way is not known
    assert shown[2][2].endswith("about 1 h 30 min left")  # 9 at 600 s, as it was seen
    assert "left" not in shown[3][2]


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["watch", str(tmp_path / "none"), "--once"]) == 2
    assert capsys.readouterr().err == f"modscale: {tmp_path}/none: no such run folder\n"


def test_a_plot_has_each_mark_in_its_place():
    """By hand: corners are corners, names stand where there is room, the last mark of a place is seen."""
    lines = draw([(0, 0, "o", "1"), (10, 10, "o", "2"), (0, 10, "+", "xs"), (0, 10, ".", "")], width=32, height=9)
    assert len(lines) == 9
    assert lines[0].index(".") < lines[0].index("o")
    assert "xs" in lines[0]
    assert "o1" in lines[6]
    assert lines[0].rstrip().endswith("o")  # no room for its name
    assert [line.split()[0] for line in (lines[0], lines[-1]) if line.split()] != []
    assert draw([], width=80, height=20) == []


def test_a_figure_at_the_edge_of_a_plot_is_whole():
    """Whatever lies there; cut at the width it was `0` instead of `0.25`."""
    for high in range(200, 400, 3):
        lines = draw([(0.13, 1, "o", ""), (high / 1000, 1, "o", "")], width=40, height=9)
        assert max(map(len, lines)) <= 40
        assert all(0.1 < float(figure) < 0.5 for figure in lines[-1].split())
    assert draw([(0, 0, "o", "")], width=12, height=4) == []
