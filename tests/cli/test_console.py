"""What a person sees: every table in 80 columns and in a pipe, names whole, and nothing in a text obeyed."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run

from modscale.api.session import report_run
from modscale.cli import console
from modscale.cli.commands import main
from modscale.cli.console import SearchProgress, describe_trial, duration_text
from modscale.cli.layout import text_width
from modscale.runs.experiment import load_experiment, parse_experiment
from modscale.runs.trials import Trial
from modscale.scaling.scale import scale_model
from modscale.spaces.census import take_census
from modscale.spaces.nearest import within_budgets
from modscale.specs.published import list_models, models_to_json, published

ROOT = Path(__file__).parents[2]
FAKE = parse_experiment(SPACE)
HOSTILE = "\x1b]0;pwned\x07[red]:boom:\u202e$\\frac$"
SEEN = r"\x1b]0;pwned\x07[red]:boom:\u202e$\frac$"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a function of the console on a screen of some width, or none; gives the lines it printed."""

    def look(show: Any, *arguments: Any, width: int | None) -> list[str]:
        monkeypatch.setenv("COLUMNS", "" if width is None else str(width))
        capsys.readouterr()
        show(*arguments)
        return capsys.readouterr().out.splitlines()

    return look


def names_in(lines: list[str]) -> set[str]:
    """The first word of each line."""
    return {line.split()[0] for line in lines if line.split()}


@pytest.mark.parametrize("width", [None, 40, 80, 200])
def test_the_published_networks_have_whole_names(screen: Any, width: int | None) -> None:
    """All 31 names can be found by grep, on a terminal of any width and in a pipe."""
    rows = models_to_json(list_models())
    lines = screen(console.show_models, rows, width=width)
    assert {row["name"] for row in rows} <= names_in(lines)
    assert max(map(text_width, lines)) <= (width or 200)
    where = {row["table"] for row in rows}
    assert all(any(table in line for line in lines) for table in where) == (width is None or width == 200)


def test_every_table_fits_80_columns(screen: Any, tmp_path: Path) -> None:
    """Census, latencies, front, scaled networks and matches, of the real mobile space and published names."""
    mobile = load_experiment(ROOT / "spaces" / "mobile.yaml").space
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 30), fake_references(FAKE))
    run, summary = report_run(folder)
    summary["files"]["html"] = "reports/mobile/report.html"
    latencies = [
        {
            "name": row["name"], "provider": "cuda", "threads": 16, "runs": 4000, "mean_ms": 357.12, "ci95_ms": 117.5,
            "median_ms": 301.12,
        }
        for row in models_to_json(list_models())
    ]  # fmt: skip
    scaled = scale_model(published("s_conv"), "params", 30e6)
    for show, *arguments in (
        (console.show_census, take_census(parse_experiment(SPACE).space)),
        (console.show_latency, latencies),
        (console.show_report, summary, run.trials),
        (console.show_scaled, scaled),
        (console.show_matches, within_budgets(mobile, {"params": 9e6, "flops": 1e9}, 0.01, best=5)),
    ):
        lines = screen(show, *arguments, width=80)
        assert max(map(text_width, lines)) <= 80, show
        assert len(lines) > 3
    assert {row["name"] for row in latencies} <= names_in(screen(console.show_latency, latencies, width=80))


def measured(*, seconds: float = 26.0, **results: float) -> Trial:
    return replace(remeasured(fake_trials(FAKE, 1)[0], **results), seconds=seconds)


def test_the_line_of_a_trial_fits_80_columns() -> None:
    """From a tiny network on a quiet machine to a large one on a busy one."""
    for changes in (
        {"latency_ms": 0.05, "latency_ci95_ms": 0.01, "accuracy": 0.001, "params": 8826, "flops": 346500},
        {"latency_ms": 30.27, "latency_ci95_ms": 4.2, "accuracy": 0.3526, "params": 4736264, "flops": 583012608},
        {
            "latency_ms": 357.3, "latency_ci95_ms": 117.3, "accuracy": 0.999, "params": 12_897_000,
            "flops": 1_409_000_000, "seconds": 480.0,
            "latency_wide": True, "latency_busy": True,
        },
    ):  # fmt: skip
        line = describe_trial("trial 123", measured(**changes))
        assert text_width(line) <= 80
    assert describe_trial("trial 7", measured(**{**changes, "latency_ci95_ms": 2.04})) == (
        "trial 7   accuracy 99.9%, 357.3 ± 2.0? ms, 12.9 M params, 1.41 GFLOPs, 480 s"
    )


def test_a_latency_in_doubt_is_marked_and_explained(screen: Any, tmp_path: Path, capsys: Any) -> None:
    """In a table the figure has a question mark, and a line below says of how many; in a search it is told once."""
    row = {"name": "xs", "provider": "cpu", "threads": 2, "runs": 100, "mean_ms": 357, "ci95_ms": 117, "median_ms": 301}
    lines = screen(console.show_latency, [row | {"wide": True, "busy": False}, row | {"wide": False}], width=None)
    assert [line.count("357.00 ± 117.00 ?") for line in lines if line.startswith("xs")] == [1, 0]
    asked = "The latency of 1 of 2 networks is in doubt: 1 with an interval that stayed wider than asked."
    assert lines[-1] == f"? {asked}"
    calm = fake_trials(FAKE, 6)
    busy = [remeasured(trial, latency_busy=True) for trial in calm]
    folder = write_run(tmp_path / "run", busy, fake_references(FAKE))
    run, summary = report_run(folder)
    text = "\n".join(screen(console.show_report, summary, run.trials, width=None))
    size = len(summary["front"])
    assert text.count(" ?") == size
    assert f"? The latency of {size} of {size} networks is in doubt" in text
    progress = console.SearchProgress(done=0, limit=3, references=0)
    for trial in (calm[0], remeasured(calm[1], latency_wide=True), busy[2]):
        progress.finished("trial", trial)
    said = capsys.readouterr().err
    assert said.count("note: ? marks a latency") == 1
    assert said.count("? ms") == 2


def test_no_text_is_obeyed(screen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, rich's markup, emoji codes and turned directions in names and reasons are shown as they are."""
    spec = replace(published("xxs"), name=HOSTILE)
    scaled = replace(scale_model(published("xxs"), "params", 6e6), source=spec, reason=HOSTILE)
    files = {"spec": HOSTILE, "onnx": HOSTILE, "weights": HOSTILE, "loaded": None, "params": 1, "flops": 1}
    rows = [{"name": HOSTILE, "provider": "cpu", "threads": 1, "runs": 9, "mean_ms": 1, "ci95_ms": 1, "median_ms": 1}]
    census = replace(take_census(FAKE.space), name=HOSTILE, rule=HOSTILE)
    for show, arguments, times in (
        (console.show_scaled, (scaled,), 3),
        (console.show_export, (spec, files | {"max_abs_error": 1e-6}), 4),
        (console.show_latency, (rows,), 1),
        (console.show_census, (census,), 2),
    ):
        text = "\n".join(screen(show, *arguments, width=None))
        assert text.count(SEEN) == times
        assert not set("\x1b\x07\u202e") & set(text)
    console.say(describe_trial(HOSTILE, replace(measured(), state="failed", reason=f"a\nb {HOSTILE}")))
    line = capsys.readouterr().err
    assert line.startswith(f"{SEEN} failed: a b {SEEN} (")
    assert line.count("\n") == 1


def test_what_comes_next_is_told(screen: Any) -> None:
    """A pick's export, or that of a trial on the front where no band has one; a report is named after a search."""
    summary = {"run": "my runs/a", "bands": {"xxs": None, "xs": 4}, "front": [4, 2]}
    assert screen(lambda: console.show_next(summary, searched=True), width=20) == [
        "next:   modscale export 'my runs/a' --pick xs --out xs",
        "next:   modscale report 'my runs/a'",
    ]
    (line,) = screen(lambda: console.show_next({**summary, "bands": {"xxs": None}}, searched=False), width=80)
    assert line == "next:   modscale export 'my runs/a' --trial 4 --out trial-4"
    assert screen(lambda: console.show_next({**summary, "bands": {}, "front": []}, searched=False), width=80) == []


def test_time_left_is_of_what_this_start_has_finished() -> None:
    """Nothing before the first trial; then its pace, whatever an earlier start had done."""
    now = [100.0]
    progress = SearchProgress(done=10, limit=20, references=2, clock=lambda: now[0])
    assert progress.time_left() == ""
    now[0] += 30
    progress.finished("trial 10", measured())
    assert progress.time_left() == "about 6 min left"  # 11 more, 30 s each
    now[0] += 10
    progress.finished("trial 11", measured())
    assert progress.time_left() == "about 3 min left"  # 10 more, 20 s each


def test_durations_have_two_units_at_most() -> None:
    """Seconds, minutes, hours or days."""
    texts = {0: "0 s", 59: "59 s", 60: "1 min", 3540: "59 min", 12000: "3 h 20 min", 187200: "2 d 4 h"}
    assert {seconds: duration_text(seconds) for seconds in texts} == texts


def on_a_terminal(arguments: list[str], *, columns: int, **environment: str) -> str:
    """What a command writes to a terminal of this width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "modscale.cli.commands", *arguments],
        stdin=follower, stdout=follower, stderr=follower, env={**inherited, "TERM": "xterm", **environment}, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(follower)
        text = b""
        while True:
            try:
                block = os.read(leader, 65536)
            except OSError:  # Linux says so when the last writer is gone
                break
            if not block:
                break
            text += block
    os.close(leader)
    assert process.returncode == 0
    return text.decode()


def test_a_terminal_of_80_columns_folds_no_name() -> None:
    """The terminal's own width is taken, and a size of 0 in the environment is none."""
    for environment in ({}, {"COLUMNS": "0", "LINES": "0"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}):
        text = on_a_terminal(["models"], columns=80, **environment)
        lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in text.splitlines()]
        assert max(map(len, lines)) <= 80, environment
        assert {"xxs_conv", "s_conv/context-f-conv-g", "isotropic-12m/mbconv"} <= names_in(lines)
        assert "─" * 70 in text
    assert "where" in on_a_terminal(["models"], columns=120).splitlines()[1]
    assert "\x1b" not in on_a_terminal(["models"], columns=80, TERM="dumb")
    plain = on_a_terminal(["scale", "xxs", "--params", "9e6"], columns=80, PYTHONIOENCODING="ascii")
    assert plain.isascii()
    assert "40x3 80x3 152x9+2 304x3+3" in plain
    assert "-" * 60 in plain


def test_a_size_of_0_hides_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With COLUMNS=0 or nonsense a pipe gets all there is."""
    for columns in ("0", "00", "", "-3", "wide", "\u00b2"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["models"]) == 0
        text = capsys.readouterr().out
        assert "Appendix L, separate MLP" in text
        assert "no room for" not in text


@pytest.mark.parametrize("command", ["models", "models --json", "count xxs", "--help"])
def test_a_reader_that_leaves_early_is_no_error(command: str) -> None:
    """`modscale models | head -1` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "modscale.cli.commands", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_progress_that_nobody_reads_stops_nothing() -> None:
    """A search goes on when what reads its standard error has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from modscale.cli.console import say; say('one'); say('two'); print('goes on', flush=True)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert done.stdout == b"goes on\n"


def test_a_count_that_takes_a_while_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off a terminal: one plain line on standard error once the patience is over, none where it is done before."""
    begun = Event()
    whole = console.say
    monkeypatch.setattr(console, "say", lambda text: (whole(text), begun.set()))
    monkeypatch.setattr(console, "PATIENCE_S", 0.0)
    with console.counting_progress(HOSTILE) as progress:
        progress(0.5)
        assert begun.wait(timeout=30)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"counting the architectures of {SEEN} ...\n"
    monkeypatch.setattr(console, "PATIENCE_S", 1000.0)
    with console.counting_progress("quick") as progress:
        progress(1.0)
    assert capsys.readouterr() == ("", "")


def test_a_count_draws_a_bar_on_a_terminal_and_takes_it_away(tmp_path: Path) -> None:
    """A space that takes a second or two: the bar is drawn, erased, and the table follows."""
    file = tmp_path / "line.yaml"
    file.write_text("name: line\nstages: [{dim: {low: 1, high: 4000}, depth: {low: 1, high: 200}}]")
    text = on_a_terminal(["space", str(file)], columns=80)
    assert "counting line" in text
    assert "\x1b[2K" in text.split("counting line")[-1]
    assert "800,000" in text.split("\x1b[2K")[-1]


@pytest.mark.parametrize("width", [None, 80])
def test_an_interval_is_called_one(screen: Any, width: int | None) -> None:
    """Beyond exact counting, the census says that its numbers are intervals, and of how many draws."""
    census = replace(
        take_census(FAKE.space), feasible_interval=(1, 3), distinct_feasible_interval=(2, 2), rule="why", draws=9
    )
    text = " ".join(screen(console.show_census, census, width=width))
    assert "feasible, 95 % interval" in text
    assert "1 to 3" in text
    vast = replace(census, size=10**43, feasible_interval=(123_456_789 * 10**24, 2 * 10**33))
    text = " ".join(screen(console.show_census, vast, width=width))
    assert "1.235e+32 to 2e+33" in text
    assert "1.23e-11 to 2.00e-10" in text
    assert "feasible networks, 95" not in text
    assert "why" in text
