"""Where the metrics of a training go besides `metrics.jsonl`: TensorBoard or MLflow, where installed and asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modscale.errors import InputError

Log = Callable[[Mapping[str, Any]], None]
"""Takes the line of an epoch."""

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_FOLDER = "mlruns"


def open_log(kind: str, folder: Path) -> Log:
    """What is to be called with each epoch's line; everything it writes lies in the training's folder.

    Raises:
        InputError: the library that `kind` names is not installed.
    """
    return {"none": _to_nowhere, "tensorboard": _to_tensorboard, "mlflow": _to_mlflow}[kind](folder)


def _to_nowhere(folder: Path) -> Log:
    return lambda row: None


def _to_tensorboard(folder: Path) -> Log:
    writer = _imported("tensorboard", "torch.utils.tensorboard").SummaryWriter(str(folder / TENSORBOARD_FOLDER))

    def log(row: Mapping[str, Any]) -> None:
        for key, value in _figures(row).items():
            writer.add_scalar(key, value, row["epoch"])
        writer.flush()

    return log


def _to_mlflow(folder: Path) -> Log:
    """A run of the folder's name in a file store; a training that goes on goes on in the newest of that name."""
    mlflow = _imported("mlflow", "mlflow")
    mlflow.set_tracking_uri((folder / MLFLOW_FOLDER).resolve().as_uri())
    mlflow.set_experiment("modscale")
    before = mlflow.search_runs(filter_string=f"run_name = '{folder.name}'", max_results=1, output_format="list")
    mlflow.start_run(run_id=before[0].info.run_id) if before else mlflow.start_run(run_name=folder.name)
    return lambda row: mlflow.log_metrics(_figures(row), step=row["epoch"])


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key != "epoch"}


def _imported(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"needs {name}: pip install {name} ({error})", place="log", value=name) from error
