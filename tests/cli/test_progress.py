"""What is told while something runs: lines of trials, the time left, a count that takes a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from threading import Event

import pytest
from fake_runs import SPACE, fake_trials, remeasured
from rich.console import Console

from modscale.analysis.time_left import Ahead
from modscale.cli import console, progress
from modscale.cli.layout import text_width
from modscale.cli.progress import describe_trial, duration_text, search_progress
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial

FAKE = parse_experiment(SPACE)
HOSTILE = "\x1b]0;pwned\x07[red]:boom:\u202e$\\frac$"
SEEN = r"\x1b]0;pwned\x07[red]:boom:\u202e$\frac$"


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


def test_a_search_shows_what_each_worker_does() -> None:
    """One candidate by its name and stage; several by stage, in few words; those that wait are left out."""
    follower = search_progress(done=0, limit=9, references=1)

    def shown() -> str:
        return str(follower.bar.tasks[0].fields["stage"])

    follower.started("trial 3", None)
    assert shown() == "trial 3"
    follower.stage("export")
    assert shown() == "trial 3: export"
    follower.stage("training", "trial 3")
    follower.started("trial 4", None)
    follower.stage("training", "trial 4")
    follower.started("xxs", None)
    follower.stage("export", "xxs")
    assert shown() == "training 3 4, export xxs"
    follower.stage("", "trial 3")
    follower.finished("trial 4", fake_trials(FAKE, 1)[0])
    follower.stage("latency", "xxs")
    assert shown() == "xxs: latency"


def test_a_search_explains_the_mark_of_doubt_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A latency in doubt has a question mark in its line, and the first one says what that means."""
    calm = fake_trials(FAKE, 3)
    follower = search_progress(done=0, limit=3, references=0)
    for trial in (calm[0], remeasured(calm[1], latency_wide=True), remeasured(calm[2], latency_busy=True)):
        follower.finished("trial", trial)
    said = capsys.readouterr().err
    assert said.count("note: ? marks a latency") == 1
    assert said.count("? ms") == 2


def test_the_line_of_a_failed_trial_obeys_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason in two lines is one, and an escape sequence is shown."""
    console.say(describe_trial(HOSTILE, replace(measured(), state="failed", reason=f"a\nb {HOSTILE}")))
    line = capsys.readouterr().err
    assert line.startswith(f"{SEEN} failed: a b {SEEN} (")
    assert line.count("\n") == 1


def test_time_left_is_of_what_this_start_has_finished() -> None:
    """Nothing before the first trial; then its pace, whatever an earlier start had done."""
    now = [100.0]
    progress = search_progress(done=10, limit=20, references=2, clock=lambda: now[0])
    assert progress.time_left() == ""
    now[0] += 30
    progress.finished("trial 10", measured())
    assert progress.time_left() == "about 6 min left"  # 11 more, 30 s each
    now[0] += 10
    progress.finished("trial 11", measured())
    assert progress.time_left() == "about 3 min left"  # 10 more, 20 s each


def test_time_left_of_a_run_that_goes_on_is_told_at_once() -> None:
    """By what a trial took before; what the present one has had is off, and its own pace counts once it is finished."""
    now = [0.0]
    progress = search_progress(done=13, limit=20, references=3, pace_s=30.0, clock=lambda: now[0])
    assert progress.time_left() == "about 5 min left"  # 10 trials and references of 23
    now[0] = 20.0
    assert progress.time_left() == "about 5 min left"  # 280 s
    now[0] = 1000.0  # one that takes far longer takes off no more than one
    assert progress.time_left() == "about 4 min left"
    progress.finished("trial 10", measured())
    assert progress.time_left() == "about 2 h 30 min left"
    over = search_progress(done=23, limit=20, references=3, pace_s=30.0, clock=lambda: now[0])
    assert over.time_left() == ""


def test_time_left_counts_the_front_and_runs_down_while_that_is_timed() -> None:
    """Worked by hand: a trial of 30 s, 10 of them the anchor's, leaves another of 20 s and 2 networks of the front.

    Each of these takes 0.6 of the timing of 10 s, whose interval is narrow enough. The bar tells
    it as it is drawn.
    """
    now = [0.0]
    experiment = parse_experiment({**SPACE, "search": {"trials": 2}})
    ahead = Ahead(experiment=experiment, trials=[], references=[])
    progress = search_progress(done=0, limit=2, references=0, ahead=ahead, clock=lambda: now[0])
    progress.started("trial 0", None)
    assert progress.left_s() is None
    for stage, seconds in (("export", 2), ("latency", 10), ("anchor", 10), ("training", 8)):
        progress.stage(stage, "trial 0")
        now[0] += seconds
    sharp = {"latency_relative": 1.0, "latency_relative_ci95": 0.001}
    progress.finished("trial 0", measured(**sharp))
    assert progress.left_s() == pytest.approx(20 + 2 * 6)
    now[0] += 20
    progress.started("trial 1", None)
    progress.finished("trial 1", replace(measured(**sharp), number=1))
    assert progress.left_s() == pytest.approx(2 * 6)  # a tie: both are on the front
    progress.stage("timed again", "the front")
    now[0] += 10
    assert str(progress.bar.tasks[0].fields["left"]) == "about 2 s left"
    now[0] += 10
    assert progress.time_left() == ""


def test_the_time_that_has_passed_goes_on_after_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the front is timed again nothing is left to be counted, and that takes minutes."""
    now = [0.0]
    bar = console.make_bar("done", "elapsed")
    monkeypatch.setattr(bar, "get_time", lambda: now[0])
    task = bar.add_task("search", total=1)
    now[0] = 60.0
    bar.update(task, advance=1)
    now[0] = 200.0
    shown = Console(width=60, file=StringIO())
    shown.print(bar.get_renderable())
    assert "1/1 0:03:20" in shown.file.getvalue()


def test_durations_have_two_units_at_most() -> None:
    """Seconds, minutes, hours or days."""
    texts = {0: "0 s", 59: "59 s", 60: "1 min", 3540: "59 min", 12000: "3 h 20 min", 187200: "2 d 4 h"}
    assert {seconds: duration_text(seconds) for seconds in texts} == texts


def test_a_count_that_takes_a_while_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off a terminal: one plain line on standard error once the patience is over, none where it is done before."""
    begun = Event()
    whole = progress.say
    monkeypatch.setattr(progress, "say", lambda text: (whole(text), begun.set()))
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    with progress.counting_progress(HOSTILE) as count:
        count(0.5)
        assert begun.wait(timeout=30)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"counting the architectures of {SEEN} ...\n"
    monkeypatch.setattr(progress, "PATIENCE_S", 1000.0)
    with progress.counting_progress("quick") as count:
        count(1.0)
    assert capsys.readouterr() == ("", "")


def test_a_count_draws_a_bar_on_a_terminal_and_takes_it_away(on_a_terminal: Callable[..., str], tmp_path: Path) -> None:
    """A space that takes a second or two: the bar is drawn, erased, and the table follows."""
    file = tmp_path / "line.yaml"
    file.write_text("name: line\nstages: [{dim: {low: 1, high: 4000}, depth: {low: 1, high: 200}}]")
    text = on_a_terminal(["space", str(file)], columns=80)
    assert "counting line" in text
    assert "\x1b[2K" in text.split("counting line")[-1]
    assert "800,000" in text.split("\x1b[2K")[-1]


def test_a_training_tells_its_loss_accuracy_rate_and_time_left(capsys):
    """Two of eight steps in ten seconds: six more take thirty; a finished epoch is a line."""
    from modscale.cli.progress import TrainProgress
    from modscale.training.job import Progress

    now = iter([100.0, 110.0])
    progress = TrainProgress(epochs=2, steps=4, done=0, clock=lambda: next(now))
    row = {
        "epoch": 1,
        "train_loss": 1.25,
        "accuracy": 0.5,
        "ema_accuracy": 0.625,
        "learning_rate": 1e-3,
        "seconds": 9.6,
    }
    for step, loss in ((0, None), (2, 1.5)):
        progress.moved(Progress(epoch=0, step=step, loss=loss, rate=1e-3, row=None, is_over=False))
    (task,) = progress.bar.tasks
    assert (task.completed, task.total) == (2, 8)
    assert task.fields["stage"] == "epoch 1/2: loss 1.500, rate 1.0e-03"
    assert task.fields["left"] == "about 30 s left"
    progress.finished(row)
    line = "epoch 1/2: loss 1.250, accuracy 50.0 % (averaged 62.5 %), rate 1.0e-03, 10 s"
    assert capsys.readouterr().err.splitlines() == [line]
