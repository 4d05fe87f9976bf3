"""Where the metrics of a training, or a search, go besides its own files: TensorBoard or MLflow, where asked for."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modscale.errors import InputError

Log = Callable[[Mapping[str, Any]], None]
"""Takes the line of an epoch, or a trial."""

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_FOLDER = "mlruns"
MODULES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}
"""What is imported for each."""


def open_log(kind: str, folder: Path, *, step: str = "epoch", anew: bool = False, place: str = "log") -> Log:
    """What is to be called with each line, whose number is its `step`; what it writes lies in `folder`.

    With `anew` each line is given again from the first on: what was logged of it before is not there twice.

    Raises:
        InputError: the library that `kind` names is not installed; `place` is where it was named.
    """
    return {"none": _to_nowhere, "tensorboard": _to_tensorboard, "mlflow": _to_mlflow}[kind](folder, step, anew, place)


def _to_nowhere(folder: Path, step: str, anew: bool, place: str) -> Log:
    return lambda row: None


def _to_tensorboard(folder: Path, step: str, anew: bool, place: str) -> Log:
    library = _imported("tensorboard", MODULES["tensorboard"], place)
    writer = library.SummaryWriter(str(folder / TENSORBOARD_FOLDER), **({"purge_step": 0} if anew else {}))

    def log(row: Mapping[str, Any]) -> None:
        for key, value in _figures(row, step).items():
            writer.add_scalar(key, value, row[step])
        writer.flush()

    return log


def _to_mlflow(folder: Path, step: str, anew: bool, place: str) -> Log:
    """A run of the folder's name in a file store; a training that goes on goes on in the newest of that name."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for that, before they write files
    mlflow = _imported("mlflow", MODULES["mlflow"], place)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # that it makes an experiment is no news for the terminal
    mlflow.set_tracking_uri((folder / MLFLOW_FOLDER).resolve().as_uri())
    mlflow.set_experiment("modscale")
    before = mlflow.search_runs(filter_string=f"run_name = '{folder.name}'", max_results=1, output_format="list")
    known: set[int] = set()
    if before and anew:
        known = {one.step for one in mlflow.MlflowClient().get_metric_history(before[0].info.run_id, "params")}
    mlflow.start_run(run_id=before[0].info.run_id) if before else mlflow.start_run(run_name=folder.name)

    def log(row: Mapping[str, Any]) -> None:
        if row[step] not in known:
            mlflow.log_metrics(_figures(row, step), step=row[step])

    return log


def check_log(kind: str, place: str) -> None:
    """Raises InputError where the library that `kind` names is not installed."""
    if kind in MODULES:
        _imported(kind, MODULES[kind], place)


def _figures(row: Mapping[str, Any], step: str) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key != step}


def _imported(name: str, module: str, place: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"needs {name}: pip install {name} ({error})", place=place, value=name) from error
