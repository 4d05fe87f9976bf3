"""Figures of trials in TensorBoard and MLflow: each trial once, also of a search that goes on, and never in its way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_runs import SPACE, fake_trials, remeasured

from modscale.cli.main import main
from modscale.runs.experiment import parse_experiment
from modscale.searching.trial_log import TrialLog, trial_row

TRIALS = fake_trials(parse_experiment(SPACE), 4)


class FakeBoard:
    """A SummaryWriter that keeps what it is given; a restart purges as TensorBoard does."""

    scalars: dict[tuple[str, int], list[float]]

    def __init__(self) -> None:
        self.scalars = {}
        self.fails = False

    def SummaryWriter(self, place: str, purge_step: int) -> FakeBoard:  # noqa: N802  # as the library has it
        self.place = place
        self.scalars = {key: values for key, values in self.scalars.items() if key[1] < purge_step}
        return self

    def add_scalar(self, key: str, value: float, step: int) -> None:
        if self.fails:
            raise RuntimeError("the disk\nis full")
        self.scalars.setdefault((key, step), []).append(value)

    def flush(self) -> None: ...


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    fake = FakeBoard()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return fake


def test_a_trial_s_figures_stand_under_its_number(board: FakeBoard, tmp_path: Path) -> None:
    """Marks that are no figures are left out; a failed trial has its counts and that it is not complete."""
    marked = remeasured(TRIALS[0], latency_wide=True)
    failed = replace(TRIALS[1], state="failed", reason="x", results={"params": 5, "flops": 6})
    TrialLog("tensorboard", tmp_path, print).update([marked, failed])
    assert board.place == str(tmp_path / "tensorboard")
    assert board.scalars["accuracy", 0] == [TRIALS[0]["accuracy"]]
    assert board.scalars["complete", 0] == [1.0]
    assert not any(key == "latency_wide" for key, _ in board.scalars)
    of_failed = {key: values for (key, step), values in board.scalars.items() if step == 1}
    assert of_failed == {"params": [5.0], "flops": [6.0], "seconds": [TRIALS[1].seconds], "complete": [0.0]}


def test_each_trial_is_logged_once(board: FakeBoard, tmp_path: Path) -> None:
    """By a search, and by the one that goes on with it and is given all of them again."""
    for trials in (TRIALS[:1], TRIALS[:3], TRIALS):
        log = TrialLog("tensorboard", tmp_path, print)
        log.update(trials[:1])
        log.update(trials)
    assert {step for _, step in board.scalars} == {0, 1, 2, 3}
    assert all(len(values) == 1 for values in board.scalars.values())


def test_mlflow_is_not_given_a_trial_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose run keeps every figure that it is given: what it has is passed over."""
    given: list[tuple[dict[str, float], int]] = []
    history = [SimpleNamespace(step=0), SimpleNamespace(step=1)]
    fake = SimpleNamespace(
        set_tracking_uri=lambda uri: None, set_experiment=lambda name: None, start_run=lambda **options: None,
        search_runs=lambda **options: [SimpleNamespace(info=SimpleNamespace(run_id="r"))],
        MlflowClient=lambda: SimpleNamespace(get_metric_history=lambda run, key: history),
        log_metrics=lambda figures, step: given.append((figures, step)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    TrialLog("mlflow", tmp_path, print).update(TRIALS)
    assert [step for _, step in given] == [2, 3]
    expected = {key: float(value) for key, value in trial_row(TRIALS[2]).items() if key != "trial"}
    assert given[0][0] == expected


def test_a_log_that_fails_is_told_of_once_and_stops_nothing(board: FakeBoard, tmp_path: Path) -> None:
    said: list[str] = []
    log = TrialLog("tensorboard", tmp_path, said.append)
    log.update(TRIALS[:1])
    board.fails = True
    log.update(TRIALS[:2])
    log.update(TRIALS)
    assert said == ["note: tensorboard is given no more trials (RuntimeError: the disk is full); trials.jsonl has them"]


def test_a_log_that_is_not_there_is_one_line_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for name, message in (
        ("mlflow", "modscale: --log: needs mlflow: pip install mlflow ("),
        ("wandb", "modscale: --log: must be one of none, tensorboard, mlflow, got 'wandb'\n"),
    ):
        assert main(["search", "smoke", "--log", name, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "run").exists()
