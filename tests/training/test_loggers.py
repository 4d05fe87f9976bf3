"""Metrics for TensorBoard and MLflow: what they are given, and one line where they are not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_training import make_job

from modscale.errors import InputError
from modscale.training.full import FullTraining
from modscale.training.loggers import open_log

ROW = {"epoch": 2, "accuracy": 0.5, "train_loss": 1.25}


def test_tensorboard_is_given_a_scalar_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder below the training's, at the epoch's number."""
    given: list[Any] = []

    class SummaryWriter:
        def __init__(self, place: str) -> None:
            given.append(place)

        def add_scalar(self, *arguments: Any) -> None:
            given.append(arguments)

        def flush(self) -> None:
            given.append("flushed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    open_log("tensorboard", tmp_path)(ROW)
    assert given == [str(tmp_path / "tensorboard"), ("accuracy", 0.5, 2), ("train_loss", 1.25, 2), "flushed"]


@pytest.mark.parametrize("before", [[], [SimpleNamespace(info=SimpleNamespace(run_id="r1"))]])
def test_mlflow_goes_on_in_the_run_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[Any]
) -> None:
    """A new run of its name, or the one that is there."""
    given: list[Any] = []
    mlflow = SimpleNamespace(
        set_tracking_uri=given.append,
        set_experiment=lambda name: None,
        search_runs=lambda **options: before,
        start_run=lambda **options: given.append(options),
        log_metrics=lambda metrics, step: given.append((metrics, step)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    open_log("mlflow", tmp_path)(ROW)
    begun = {"run_id": "r1"} if before else {"run_name": tmp_path.name}
    assert given == [(tmp_path / "mlruns").as_uri(), begun, ({"accuracy": 0.5, "train_loss": 1.25}, 2)]


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_what_is_not_installed_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}[kind], None)
    with pytest.raises(InputError, match=f"log: needs {kind}: pip install {kind}"):
        FullTraining(make_job(tmp_path, log=kind)).prepare()


def test_each_epoch_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very line of the epoch."""
    training = FullTraining(make_job(tmp_path, epochs=1))
    training.prepare()
    logged: list[Any] = []
    monkeypatch.setattr(training, "log", logged.append)
    assert training.advance(1000.0).row == logged[0]
